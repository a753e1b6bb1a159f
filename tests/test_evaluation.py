"""Metrics against hand-made values, and the judge of text on features made here."""

import numpy as np
import pytest

from ldm_jax import evaluation


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)


def test_psnr_of_a_known_error():
    x = np.full((2, 4, 4, 3), 100, np.uint8)
    y = x.copy()
    y[0] += 5
    y[1, 0, 0, 0] = 0  # one value of 48 is off by 100
    expected = [20 * np.log10(255 / 5), 10 * np.log10(255**2 / (100**2 / 48))]
    np.testing.assert_allclose(evaluation.psnr(x, y), expected)
    np.testing.assert_allclose(evaluation.psnr(y, x), expected)
    assert np.all(np.isinf(evaluation.psnr(x, x)))


def test_ssim_is_one_at_equality_and_symmetric():
    x, y = noise(3, 16, 20, 3), noise(3, 16, 20, 3, seed=1)
    np.testing.assert_allclose(evaluation.ssim(x, x), np.ones(3))
    there = evaluation.ssim(x, y)
    np.testing.assert_allclose(there, evaluation.ssim(y, x))
    assert np.all(np.abs(there) < 0.2)


def test_ssim_of_flat_pictures_is_its_light_term():
    x, y = (np.full((1, 11, 11, 3), value, np.uint8) for value in (100, 150))
    c1 = (0.01 * 255) ** 2
    expected = (2 * 100 * 150 + c1) / (100**2 + 150**2 + c1)
    np.testing.assert_allclose(evaluation.ssim(x, y), [expected], rtol=1e-9)


def test_ssim_agrees_with_its_definition_in_one_window():
    x, y = noise(1, 11, 11, 3), noise(1, 11, 11, 3, seed=1)
    offsets = np.arange(-5, 6)
    weights = np.exp(-(offsets[:, None] ** 2 + offsets**2) / (2 * 1.5**2))
    weights /= weights.sum()
    mean = lambda a: np.tensordot(weights, a, ((0, 1), (0, 1)))
    a, b = x[0].astype(float), y[0].astype(float)
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    ma, mb = mean(a), mean(b)
    va, vb = mean((a - ma) ** 2), mean((b - mb) ** 2)
    both = mean((a - ma) * (b - mb))
    value = (2 * ma * mb + c1) * (2 * both + c2)
    value /= (ma**2 + mb**2 + c1) * (va + vb + c2)
    np.testing.assert_allclose(evaluation.ssim(x, y), [value.mean()], rtol=1e-9)
    with pytest.raises(ValueError, match="11 pixels"):
        evaluation.ssim(x[:, :10], y[:, :10])


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


@pytest.fixture
def references():
    return unit(np.random.default_rng(2).standard_normal((266, 32)))


def test_the_judge_finds_a_disturbed_own_reference(references):
    gen = np.random.default_rng(3)
    own = gen.integers(0, 266, 100)
    near = unit(references[own] + 0.05 * gen.standard_normal((100, 32)))
    assert np.all(evaluation.judge(references, near, own) == 0)


def test_the_judge_counts_the_nearer_references():
    references = np.eye(4)
    sample = unit(np.array([[4.0, 3.0, 2.0, 1.0]]))
    ranks = [evaluation.judge(references, sample, [own])[0] for own in range(4)]
    assert ranks == [0, 1, 2, 3]


def test_features_that_say_nothing_come_last(references):
    same = np.tile(references[:1], (266, 1))
    ranks = evaluation.judge(same, same[:5], np.arange(5))
    np.testing.assert_array_equal(ranks, np.full(5, 265))


def test_shuffled_owners_are_at_chance(references):
    gen = np.random.default_rng(4)
    own = np.repeat(np.arange(266), 20)
    samples = references[own]
    ranks = evaluation.judge(references, samples, gen.permutation(own))
    assert abs(np.mean(ranks < 5) - 5 / 266) < 0.008
    assert abs(np.mean(ranks) - 132.5) < 5


def test_the_frame_gives_the_colour():
    images = np.zeros((2, 16, 16, 3), np.uint8)
    images[0] = (250, 214, 40)
    images[0, 2:14, 2:14] = noise(12, 12, 3)
    images[0, :2, :5] = 0  # something reaches the frame
    images[1] = (38, 92, 214)
    colours = evaluation.border_colour(images)
    np.testing.assert_array_equal(colours, [[250, 214, 40], [38, 92, 214]])
    palette = [(255, 0, 0), (30, 100, 220), (255, 220, 30)]
    assert evaluation.nearest_colour(colours, palette).tolist() == [2, 1]
