"""Batches: the same for any workers, hosts and resumption; whole epochs."""

import contextlib
import itertools

import numpy as np
import pytest
import tiny_source

from ldm_jax.data import pipeline

KEYS = ("index", "image", "double")
ENDLESS = tiny_source.TinySource(2**40)


def take(count, source=ENDLESS, *, start=0, host=0, hosts=1, workers=0, batch_size=4):
    """The first `count` batches (None: all)."""
    iterator = pipeline.batches(
        source, KEYS, tiny_source.doubled, batch_size, start, host, hosts, workers
    )
    with contextlib.closing(iterator):
        return list(itertools.islice(iterator, count))


def indices(batches):
    return [batch["index"].tolist() for batch in batches]


def assert_same(have, want):
    assert len(have) == len(want)
    for a, b in zip(have, want, strict=True):
        assert a.keys() == b.keys() == set(KEYS)
        for key in KEYS:
            np.testing.assert_array_equal(a[key], b[key])


def test_endless_sources_are_walked_in_order_and_transformed():
    batches = take(3)
    assert indices(batches) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]
    np.testing.assert_array_equal(batches[1]["double"], [8, 10, 12, 14])
    assert batches[1]["image"].shape == (4, 2, 2, 3)
    assert batches[1]["image"].dtype == np.uint8


@pytest.mark.parametrize("workers", [1, 3])
def test_workers_do_not_change_the_batches(workers):
    source = pipeline.shuffled(tiny_source.TinySource(50), seed=3)
    assert_same(take(7, source, start=2, workers=workers), take(7, source, start=2))


def test_the_rows_of_two_hosts_make_the_global_batch():
    source = pipeline.shuffled(tiny_source.TinySource(11), seed=5)
    hosts = [take(6, source, start=1, host=h, hosts=2) for h in range(2)]
    joined = [
        {key: np.concatenate([a[key], b[key]]) for key in KEYS}
        for a, b in zip(*hosts, strict=True)
    ]
    assert_same(joined, take(6, source, start=1))


def test_resuming_equals_skipping():
    source = pipeline.shuffled(tiny_source.TinySource(11), seed=5)
    assert_same(take(5, source, start=4), take(9, source)[4:])


def test_each_epoch_has_every_example_once_in_a_new_order():
    source = pipeline.shuffled(tiny_source.TinySource(12), seed=0)
    seen = np.array(indices(take(9, source))).reshape(3, 12)
    assert all(sorted(epoch) == list(range(12)) for epoch in seen.tolist())
    assert len({tuple(epoch) for epoch in seen.tolist()} | {tuple(range(12))}) == 4


def test_the_seed_decides_the_order():
    orders = [
        indices(take(3, pipeline.shuffled(tiny_source.TinySource(12), seed)))
        for seed in (0, 0, 1)
    ]
    assert orders[0] == orders[1] != orders[2]


def test_epochs_run_on_when_the_batch_does_not_divide_them():
    source = pipeline.shuffled(tiny_source.TinySource(5), seed=0)
    seen = np.array(indices(take(5, source))).reshape(4, 5)
    assert all(sorted(epoch) == list(range(5)) for epoch in seen.tolist())


@pytest.mark.parametrize("hosts", [1, 2])
def test_a_finite_source_ends_at_its_last_whole_global_batch(hosts):
    source = tiny_source.TinySource(10)  # of four: two whole ones, and two rows
    for host in range(hosts):
        assert len(take(None, source, host=host, hosts=hosts)) == 2


def test_hosts_must_divide_the_batch():
    with pytest.raises(ValueError, match=r"data.batch_size 4 .* hosts, 3"):
        take(1, hosts=3)


def test_a_missing_key_is_named():
    iterator = pipeline.batches(ENDLESS, ("label",), None, 2, 0, 0, 1, 0)
    with contextlib.closing(iterator), pytest.raises(KeyError, match="label.*image"):
        next(iterator)


def test_an_empty_source_is_refused():
    with pytest.raises(ValueError, match="empty"):
        pipeline.shuffled(tiny_source.TinySource(0), seed=0)


def drawn(count, seed=0, start=0, workers=0):
    """What transforms draw: one number for each of `count` batches of two."""
    source = pipeline.shuffled(tiny_source.TinySource(4), seed=1)
    batches = pipeline.batches(
        source, ("index", "drawn"), tiny_source.drawn, 2, start, 0, 1, workers, seed
    )
    with contextlib.closing(batches):
        found = list(itertools.islice(batches, count))
    return np.concatenate([batch["drawn"] for batch in found])


def test_what_transforms_draw_is_of_the_seed_and_the_place_alone():
    numbers = drawn(8)  # four epochs of four examples
    assert len(set(numbers)) == 16
    np.testing.assert_array_equal(drawn(5, start=3), numbers[6:])
    np.testing.assert_array_equal(drawn(8, workers=2), numbers)
    assert not set(drawn(8, seed=1)) & set(numbers)
