"""Metrics against hand-made values, and the judge of text on features made here."""

import numpy as np
import pytest
import scipy.linalg

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


def test_gradient_energy_of_known_slopes():
    ramp = np.tile(np.arange(8, dtype=np.uint8) * 3, (8, 1))[None, ..., None]
    ramp = np.repeat(ramp, 3, axis=-1)
    both = np.concatenate([ramp, ramp.swapaxes(1, 2), np.full_like(ramp, 9)])
    np.testing.assert_allclose(evaluation.gradient_energy(both), [4.5, 4.5, 0])
    checks = (np.indices((8, 8)).sum(0) % 2 * 255).astype(np.uint8)  # down and up
    checks = np.repeat(checks[None, ..., None], 3, axis=-1)
    np.testing.assert_allclose(evaluation.gradient_energy(checks), [255**2])


def by_sqrtm(a, b):
    """Frechet distance as it is usually written."""
    (cov_a, cov_b), shift = (np.cov(x.T) for x in (a, b)), a.mean(0) - b.mean(0)
    root = scipy.linalg.sqrtm(cov_a @ cov_b).real
    return shift @ shift + np.trace(cov_a + cov_b - 2 * root)


def test_frechet_of_equal_and_of_shifted_sets():
    a = np.random.default_rng(0).standard_normal((50, 8))
    assert abs(evaluation.frechet(a, a)) < 1e-12
    shift = np.arange(8)
    assert evaluation.frechet(a, a + shift) == pytest.approx(np.sum(shift**2))
    order = np.random.default_rng(1).permutation(50)
    assert abs(evaluation.frechet(a, a[order])) < 1e-12


def test_frechet_of_diagonal_covariances():
    signs = np.stack(np.meshgrid(*[[-1.0, 1.0]] * 4), axis=-1).reshape(-1, 4)
    a, b = np.array([1.0, 2.0, 3.0, 4.0]), np.array([2.0, 2.0, 0.0, 1.0])
    expected = np.sum((a - b) ** 2) * 16 / 15  # the covariances divide by n - 1
    assert evaluation.frechet(signs * a, signs * b) == pytest.approx(expected)


@pytest.mark.parametrize("counts", [(60, 60), (60, 40)])
def test_frechet_agrees_with_a_matrix_square_root(counts):
    gen = np.random.default_rng(2)
    a, b = (
        gen.standard_normal((n, 12)) @ gen.standard_normal((12, 12)) + gen.normal()
        for n in counts
    )
    there = evaluation.frechet(a, b)
    assert there == pytest.approx(by_sqrtm(a, b), rel=1e-9)
    assert there == pytest.approx(evaluation.frechet(b, a), rel=1e-9)


def test_frechet_of_fewer_pictures_than_features():
    a, b = np.random.default_rng(3).standard_normal((2, 6, 40)).astype(np.float32)
    assert abs(evaluation.frechet(a, a)) < 1e-6
    # In the space that they span nothing is singular.
    basis = np.linalg.qr(np.concatenate([a, b]).astype(float).T)[0]
    assert evaluation.frechet(a, b) == pytest.approx(
        by_eigenvalues(a @ basis, b @ basis), rel=1e-6
    )
    with pytest.raises(ValueError, match="two pictures, got 1 and 6"):
        evaluation.frechet(a[:1], b)


def by_eigenvalues(a, b):
    values, vectors = np.linalg.eigh(np.cov(a.T))
    root = vectors * np.sqrt(np.maximum(values, 0)) @ vectors.T
    middle = np.linalg.eigvalsh(root @ np.cov(b.T) @ root)
    spread = np.trace(np.cov(a.T) + np.cov(b.T))
    spread -= 2 * np.sum(np.sqrt(np.maximum(middle, 0)))
    return np.sum((a.mean(0) - b.mean(0)) ** 2) + spread


def test_use_of_a_codebook():
    even = np.full(8, 5)
    assert evaluation.usage(even) == 1
    assert evaluation.perplexity(even) == pytest.approx(8)
    one = np.array([0, 0, 7, 0])
    assert evaluation.usage(one) == 0.25 and evaluation.perplexity(one) == 1
    two = np.array([3, 1, 0, 0])
    assert evaluation.usage(two) == 0.5
    assert evaluation.perplexity(two) == pytest.approx(4 / 3**0.75)


def test_latents_are_measured_in_parts():
    gen = np.random.default_rng(5)
    z = gen.standard_normal((7, 4, 4, 3)).astype(np.float32) * (1, 2, 3) + (0, 1, 5)
    parts = evaluation.moments(z[:3]) + evaluation.moments(z[3:])
    told = evaluation.latent_statistics(parts)
    assert told["scale"] == evaluation.estimate_scale(parts)
    assert told["scale"] == pytest.approx(1 / z.std())
    np.testing.assert_allclose(told["latent_mean"], z.mean((0, 1, 2)))
    np.testing.assert_allclose(told["latent_std"], z.std((0, 1, 2)))
