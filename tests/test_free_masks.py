"""Random holes for in-painting: what LaMa's kinds look like, at any size."""

import functools

import numpy as np
import pytest

from ldm_jax.data import labels, masks

STROKES = ("narrow", "medium", "thick")


@functools.cache
def drawn(kind, size=64, count=60, most=0.95):
    found = [
        masks.free(np.random.default_rng(i), size, kind, most) for i in range(count)
    ]
    return np.stack(found)


def runs(line):
    """The lengths of the runs of ones in a row of zeros and ones."""
    ends = np.flatnonzero(np.diff(line.astype(int), prepend=0, append=0))
    return ends[1::2] - ends[::2]


def depth(mask):
    """How many times a pixel can be taken off all around before nothing is left."""
    count = 0
    while mask.any():
        inner = np.pad(mask, 1)
        mask = mask & inner[:-2, 1:-1] & inner[2:, 1:-1]
        mask = mask & inner[1:-1, :-2] & inner[1:-1, 2:]
        count += 1
    return count


def test_the_kinds_are_known():
    assert set(masks.FREE) == {*STROKES, "box", "lama"}


@pytest.mark.parametrize("kind", masks.FREE)
@pytest.mark.parametrize("size", [16, 31, 64])
def test_a_hole_is_ones_in_a_square_of_zeros(kind, size):
    found = drawn(kind, size)
    assert found.shape == (60, size, size)
    assert found.dtype == np.uint8
    assert set(np.unique(found)) == {0, 1}
    shares = found.mean((1, 2))
    assert shares.min() > 0
    assert shares.max() <= 0.95


@pytest.mark.parametrize("kind", masks.FREE)
def test_the_generator_decides_all(kind):
    np.random.seed(0)
    first = masks.free(np.random.default_rng(5), 64, kind)
    np.random.seed(1)
    np.testing.assert_array_equal(masks.free(np.random.default_rng(5), 64, kind), first)
    assert (masks.free(np.random.default_rng(6), 64, kind) != first).any()
    gen = np.random.default_rng(5)
    masks.free(gen, 64, kind)
    assert (masks.free(gen, 64, kind) != first).any()


@pytest.mark.parametrize(
    ("kind", "mean", "least", "largest"),
    [
        ("narrow", 0.29, 0.02, 0.55),
        ("medium", 0.29, 0.08, 0.6),
        ("thick", 0.46, 0.02, 0.95),
        ("box", 0.27, 0.01, 0.7),
    ],
)
def test_how_much_a_hole_covers(kind, mean, least, largest):
    """LaMa's own functions cover 0.27, 0.30, 0.43 and 0.26 in the mean of 150."""
    shares = drawn(kind).mean((1, 2))
    assert shares.mean() == pytest.approx(mean, abs=0.06)
    assert least < shares.min() < shares.max() < largest
    assert shares.std() > 0.05


@pytest.mark.parametrize("kind", masks.FREE)
def test_a_bound_holds(kind):
    shares = drawn(kind, most=0.3).mean((1, 2))
    assert 0.05 < shares.max() <= 0.3


def test_strokes_are_as_thick_as_their_kind_says():
    found = [np.mean([depth(mask) for mask in drawn(kind)]) for kind in STROKES]
    assert 1.5 * found[0] < found[1]
    assert 1.5 * found[1] < found[2]


@pytest.mark.parametrize("kind", STROKES)
def test_strokes_scale_with_the_size(kind):
    """The same hole, seen finer: four pixels for one differ along its outline only."""
    for small, large in zip(drawn(kind, 64, 8), drawn(kind, 256, 8), strict=True):
        parts = large.reshape(64, 4, 64, 4).mean((1, 3))
        assert np.abs(parts - small).mean() < 0.1
        assert (np.abs(parts - small) < 0.75).mean() > 0.98


def test_a_stroke_is_a_line_with_round_ends():
    mask = np.zeros((32, 32), bool)
    masks._stroke(mask, np.array((8.0, 16.0)), np.array((24.0, 16.0)), 8.0)
    assert labels.box_of(mask) == (4 / 32, 12 / 32, 28 / 32, 20 / 32)
    assert mask[12:20, 8:24].all()
    assert not mask[12, 5]
    np.testing.assert_array_equal(mask, mask[::-1])
    np.testing.assert_array_equal(mask, mask[:, ::-1])
    corner = np.zeros((32, 32), bool)
    masks._stroke(corner, np.array((32.0, 32.0)), np.array((32.0, 32.0)), 8.0)
    assert corner[-1, -1]
    assert not corner[:28].any()


def test_strokes_go_in_all_directions(monkeypatch):
    seen = []

    def stroke(mask, start, end, width):
        if (end > 0).all() and (end < len(mask)).all():  # else it was cut at the edge
            seen.append(np.arctan2(*(end - start)[::-1]))
        mask[:2] = True

    monkeypatch.setattr(masks, "_stroke", stroke)
    for i in range(20):
        masks.free(np.random.default_rng(i), 256, "narrow")
    counts = np.histogram(seen, 12, (-np.pi, np.pi))[0]
    assert len(seen) > 600
    assert counts.min() > 0.7 * counts.mean()


@pytest.mark.parametrize("size", [64, 256])
def test_boxes_are_boxes_off_the_edge(size):
    """Each run of a row or column is one box's side or several's, never less."""
    side, edge = 30 * size // 256, round(10 * size / 256)
    for mask in drawn("box", size, 30):
        lines = [*mask, *mask.T]
        assert min(runs(line).min() for line in lines if line.any()) >= side
        for one in (mask, mask.T):  # each of the four boxes begins and ends once
            assert (np.diff(one.astype(int), axis=0) != 0).any(1).sum() <= 8
        inside = mask[edge:-edge, edge:-edge]
        assert inside.sum() == mask.sum()


def test_one_box_fills_its_bounds(monkeypatch):
    one = functools.partial(masks.FREE["box"], count=(1, 1))
    monkeypatch.setitem(masks.FREE, "box", one)
    sides = []
    for i in range(200):
        mask = masks.free(np.random.default_rng(i), 256, "box")
        x0, y0, x1, y1 = np.array(labels.box_of(mask)) * 256
        assert mask.sum() == (x1 - x0) * (y1 - y0)
        sides += [x1 - x0, y1 - y0]
    assert 30 <= min(sides) < 35
    assert 145 < max(sides) <= 150


def test_a_hole_is_drawn_anew_while_empty_or_full(monkeypatch):
    given = iter([np.zeros((16, 16), bool), np.ones((16, 16), bool), np.eye(16) > 0])
    monkeypatch.setitem(masks.FREE, "box", lambda rng, size: next(given))
    np.testing.assert_array_equal(masks.free(None, 16, "box", most=1), np.eye(16))


def test_what_cannot_be_is_told():
    gen = np.random.default_rng(0)
    with pytest.raises(ValueError, match="medium, thick, box, lama; .* 'thick'"):
        masks.free(gen, 64, "thik")
    with pytest.raises(ValueError, match="size 15 must be 16 or more"):
        masks.free(gen, 15, "box")
    for most in (0.2, 1.1, float("nan")):
        with pytest.raises(ValueError, match="most .* in 0.25 to 1"):
            masks.free(gen, 64, "box", most)


def test_lamas_are_half_strokes_and_half_boxes():
    kinds = []
    for seed in range(60):
        mask = masks.free(np.random.default_rng(seed), 64, "lama")
        rng = np.random.default_rng(seed)
        name = "thick" if rng.integers(2) else "box"
        np.testing.assert_array_equal(mask, masks.FREE[name](rng, 64))
        kinds.append(name)
    assert 20 < kinds.count("box") < 40
