"""Patches, their weights and their seams, beside the formula in slow loops."""

import numpy as np
import pytest

from ldm_jax import patches


def distance(y, x, height, width):
    """LDM's delta_border of one pixel, clipped."""
    places = (y / (height - 1), x / (width - 1))
    return min(max(min(min(p, 1 - p) for p in places), 0.01), 0.5)


def slow(run, x, patch, stride, up, down, tied):
    """The originals' sum over patches by its definition, in float64; x tiles."""
    height, width = x.shape[1:3]
    rows, columns = ((n - patch) // stride + 1 for n in (height, width))
    size, step = patch * up // down, stride * up // down
    total, norm = 0, np.zeros((height * up // down, width * up // down))
    for i in range(rows):
        for j in range(columns):
            top, left = i * stride, j * stride
            y = run(x[:, top : top + patch, left : left + patch])
            tie = distance(i, j, rows, columns) if tied else 1.0
            weight = np.zeros_like(norm)
            whole = np.zeros((*norm.shape, y.shape[-1]))
            for a in range(size):
                for b in range(size):
                    place = (i * step + a, j * step + b)
                    weight[place] = tie * distance(a, b, size, size)
                    whole[place] = y[0, a, b]
            total = total + weight[..., None] * whole
            norm += weight
    return (total / norm[..., None])[None]


def same(x):
    return x + x.mean((1, 2), keepdims=True)


def double(x):
    return same(x.repeat(2, axis=1).repeat(2, axis=2))


def half(x):
    return same(x[:, ::2, 1::2, :2])


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize(
    ("run", "up", "down"), [(same, 1, 1), (double, 2, 1), (half, 1, 2)]
)
def test_patches_are_put_together_as_the_originals_do(run, up, down, tied):
    x = np.random.default_rng(0).standard_normal((1, 24, 20, 3))
    wanted = slow(run, x, 8, 4, up, down, tied)
    found = patches.over(run, x, 8, 4, up=up, down=down, tie_breaker=tied)
    assert found.shape == wanted.shape and found.dtype == np.float32
    np.testing.assert_allclose(found, wanted, atol=1e-6)
    other = patches.over(run, x, 8, 4, up=up, down=down, tie_breaker=not tied)
    assert np.abs(other - wanted).max() > 1e-2


@pytest.mark.parametrize("size", [(8, 8), (9, 12), (13, 8), (17, 19)])
@pytest.mark.parametrize("stride", [8, 5, 3])
def test_what_ignores_its_surroundings_comes_back_at_any_size(size, stride):
    """Sizes that do not tile, overlapping patches and those that only touch."""
    x = np.random.default_rng(0).standard_normal((2, *size, 3))
    found = patches.over(lambda part: part**2, x, 8, stride)
    np.testing.assert_allclose(found, x**2, rtol=1e-5)
    up = patches.over(lambda part: part.repeat(2, 1).repeat(2, 2), x, 8, stride, up=2)
    np.testing.assert_allclose(up, x.repeat(2, 1).repeat(2, 2), rtol=1e-5)


def test_weights_rise_from_the_border_to_the_middle():
    found = patches.weights(5, 9)
    assert found[0].max() == found[:, -1].max() == np.float32(0.01)
    assert found[2, 4] == 0.5 and found[1, 4] == found[2, 2] == 0.25
    np.testing.assert_array_equal(patches.weights(1, 1), [[np.float32(0.01)]])


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ((8, 9, 1), "stride 9 must be at least 1 and at most the patch, 8"),
        ((8, 0, 1), "stride 0 must be at least 1"),
        ((8, 4, 3), "patch 8 and stride 4 must be multiples of 3"),
        ((16, 4, 2), "a patch of 16 pixels does not fit into a picture of 12 x 20"),
    ],
)
def test_patches_that_do_not_fit_are_told(told, words):
    patch, stride, unit = told
    with pytest.raises(ValueError, match=words):
        patches.check(12, 20, *told)
    with pytest.raises(ValueError, match=words):
        patches.over(same, np.zeros((1, 12, 20, 3)), patch, stride, down=unit)


def test_lines_are_where_patches_begin_and_end():
    assert list(np.flatnonzero(patches.lines(16, 8, 4)) + 1) == [4, 8, 12]
    # 0 to 8, 6 to 14 and 12 to 20, which stands out of the picture.
    assert list(np.flatnonzero(patches.lines(18, 8, 6)) + 1) == [6, 8, 12, 14]
    assert not patches.lines(8, 8, 4).any()


def test_a_planted_seam_is_measured_and_the_pictures_own_edges_are_not():
    gen = np.random.default_rng(0)
    original = gen.integers(0, 256, (64, 48, 3)).astype(np.uint8)
    original[:32] //= 8  # an edge where a seam would be
    restored = original + gen.normal(0, 1, original.shape)
    assert 0.9 < patches.seams(restored, original, 32, 16) < 1.1
    edge, elsewhere = restored.copy(), restored.copy()
    edge[16:] += 10
    elsewhere[21:] += 10
    assert patches.seams(edge, original, 32, 16) > 2
    assert patches.seams(elsewhere, original, 32, 16) < 1
    assert patches.seams(edge, original, 32, 32) < 1
    columns = restored.copy()
    columns[:, 32:] += 10
    assert patches.seams(columns, original, 32, 16) > 2


def test_seams_of_pictures_that_have_none():
    flat = np.zeros((16, 16, 3), np.uint8)
    assert patches.seams(flat, flat, 8, 4) == 1
    assert np.isnan(patches.seams(flat, flat, 16, 8))
    assert np.isnan(patches.seams(flat, flat, 8, 1))
    jump = flat.copy()
    jump[8:] = 255
    assert patches.seams(jump, flat, 8, 8) == np.inf


def test_patches_of_a_network_without_overlap_show_seams():
    """What the metric is for: each patch comes back with an offset of its own."""
    gen = np.random.default_rng(0)
    x = gen.standard_normal((1, 64, 64, 3))
    run = lambda part: part + 0.1 * gen.standard_normal(part.shape) + gen.normal()
    hard = patches.seams(patches.over(run, x, 16, 16)[0], x[0], 16, 16)
    soft = patches.seams(patches.over(run, x, 16, 8)[0], x[0], 16, 8)
    assert hard > 5 and soft < 0.6 * hard
