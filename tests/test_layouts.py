"""Rows of a layout: ours from a file's arrays, and the same arrays back."""

import numpy as np
import pytest

from ldm_jax.weights import layouts

# How a file stores it -> (our shape, the file's).
STORED = {
    "same": ((5, 3), (5, 3)),
    "dense": ((5, 3), (3, 5)),
    "conv": ((3, 2, 5, 4), (4, 5, 3, 2)),
    "conv1": ((5, 3), (3, 5, 1)),
    "conv2": ((5, 3), (3, 5, 1, 1)),
    "flax1x1": ((5, 3), (1, 1, 5, 3)),
}


def numbers(shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def test_every_kind_is_tested():
    assert set(STORED) == set(layouts.STORED)


@pytest.mark.parametrize("stored", STORED)
def test_load_and_save_are_inverse(stored):
    ours, theirs = STORED[stored]
    row = layouts.Row("a", ("b",), stored, ours)
    assert row.their_shape == theirs
    array = numbers(ours)
    (saved,) = row.save(array)
    assert saved.shape == theirs and saved.flags.c_contiguous
    loaded = row.load([saved])
    assert loaded.flags.c_contiguous
    np.testing.assert_array_equal(loaded, array)


def test_where_each_number_of_a_kernel_goes():
    """[out, in, height, width] of torch is [height, width, in, out] here."""
    theirs = numbers((4, 5, 3, 2))
    ours = layouts.Row("a", ("b",), "conv", (3, 2, 5, 4)).load([theirs])
    for place in np.ndindex(*ours.shape):
        y, x, i, o = place
        assert ours[place] == theirs[o, i, y, x]
    matrix = numbers((3, 5, 1, 1))
    loaded = layouts.Row("a", ("b",), "conv2", (5, 3)).load([matrix])
    assert all(loaded[i, o] == matrix[o, i, 0, 0] for i, o in np.ndindex(5, 3))


@pytest.mark.parametrize("heads", [1, 2, 3])
@pytest.mark.parametrize("stored", sorted(STORED.keys() - {"conv"}))
def test_q_k_and_v_lie_by_head(stored, heads):
    """[head][q | k | v][dim] on the last axis, each stored as the others are."""
    inputs, dim = 4, 2
    width = heads * dim
    row = layouts.Row("a", ("q", "k", "v"), stored, (inputs, 3 * width), heads)
    flat = [numbers((inputs, width), seed) for seed in range(3)]
    store = layouts.Row("a", ("b",), stored, (inputs, width))
    theirs = [store.save(x)[0] for x in flat]
    assert row.their_shape == theirs[0].shape
    ours = row.load(theirs)
    assert ours.shape == row.shape
    for head in range(heads):
        for part in range(3):
            for d in range(dim):
                column = (head * 3 + part) * dim + d
                want = flat[part][:, head * dim + d]
                np.testing.assert_array_equal(ours[:, column], want)
    for found, want in zip(row.save(ours), theirs, strict=True):
        assert found.shape == row.their_shape and found.flags.c_contiguous
        np.testing.assert_array_equal(found, want)


def test_a_bias_of_q_k_and_v_lies_by_head_too():
    row = layouts.Row("a", ("q", "k", "v"), "same", (12,), heads=2)
    assert row.their_shape == (4,)
    theirs = [np.arange(4) + 10 * i for i in range(3)]
    want = [0, 1, 10, 11, 20, 21, 2, 3, 12, 13, 22, 23]
    np.testing.assert_array_equal(row.load(theirs), want)
    np.testing.assert_array_equal(row.save(np.array(want)), theirs)


def test_rows_follow_the_tree_and_the_names():
    tree = {
        "conv": {"kernel": np.zeros((3, 3, 2, 4)), "bias": np.zeros(4)},
        "qkv": {"kernel": np.zeros((4, 12))},
        "norm": {"scale": np.zeros(4)},
    }
    modules = layouts.named("in.", {"conv": "0", "norm": "1"})
    modules["qkv"] = layouts.Module(tuple("qkv"), kernel="conv1", heads=2)
    assert sorted(layouts.rows(modules, tree, "net", "x."), key=lambda r: r.ours) == [
        layouts.Row("net/conv/bias", ("x.in.0.bias",), "same", (4,)),
        layouts.Row("net/conv/kernel", ("x.in.0.weight",), "conv", (3, 3, 2, 4)),
        layouts.Row("net/norm/scale", ("x.in.1.weight",), "same", (4,)),
        layouts.Row(
            "net/qkv/kernel",
            ("x.q.weight", "x.k.weight", "x.v.weight"),
            *("conv1", (4, 12), 2),
        ),
    ]
    leaves = {"kernel": "", "bias": "_bias"}
    modules["conv"] = layouts.Module(("whole",), conv="same", leaves=leaves)
    found = {row.ours: row for row in layouts.rows(modules, tree, "net", "")}
    assert found["net/conv/kernel"].theirs == ("whole",)
    assert found["net/conv/kernel"].stored == "same"
    assert found["net/conv/bias"].theirs == ("whole_bias",)


def test_a_module_without_a_name_is_an_error():
    with pytest.raises(KeyError, match="conv"):
        layouts.rows({}, {"conv": {"bias": np.zeros(1)}}, "net", "")


def test_below_puts_modules_under_a_path():
    inner = {"": layouts.Module(("a",)), "conv": layouts.Module(("b",))}
    assert set(layouts.below("block", inner)) == {"block", "block/conv"}
