"""LPIPS on random weights; the published ones in the tier `fetched`."""

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image, ImageFilter
import pytest

from ldm_jax import frozen
from ldm_jax.data import singles, sprites
from ldm_jax.models import perceptual

SIZES = {"alexnet": 31, "vgg16": 16}


@pytest.fixture(scope="module", params=["alexnet", "vgg16"])
def net(request):
    return request.param


@pytest.fixture(scope="module")
def params(net):
    """He-scaled random weights, and heads that are not negative."""
    gen = np.random.default_rng(0)

    def draw(path, shape):
        noise = gen.standard_normal(shape.shape, np.float32)
        if path[0].key == "heads":
            return np.abs(noise)
        fan_in = np.prod(shape.shape[:-1])
        return noise * np.sqrt(2 / fan_in) if len(shape.shape) > 1 else 0.1 * noise

    return jax.tree_util.tree_map_with_path(draw, perceptual.shapes(net))


def pictures(count, size, seed=1):
    gen = np.random.default_rng(seed)
    return jnp.asarray(gen.uniform(-1, 1, (count, size, size, 3)), jnp.float32)


def test_zero_at_equality_symmetric_and_positive(net, params):
    lpips = jax.jit(lambda x, y: perceptual.lpips(params, x, y, net))
    x, y = pictures(3, 32), pictures(3, 32, seed=2)
    there = lpips(x, y)
    assert there.shape == (3,) and there.dtype == jnp.float32
    assert np.all(np.asarray(there) > 1e-3)
    np.testing.assert_allclose(lpips(x, x), np.zeros(3), atol=1e-9)
    np.testing.assert_allclose(there, lpips(y, x), rtol=1e-6)


def test_gradient_is_finite_where_pictures_are_equal(net, params):
    def total(y):
        return jnp.sum(perceptual.lpips(params, x, y, net))

    grad = jax.jit(jax.grad(total))
    x = jnp.concatenate([pictures(1, 32), jnp.zeros((1, 32, 32, 3))])
    np.testing.assert_allclose(grad(x), np.zeros(x.shape), atol=1e-7)
    moved = np.asarray(grad(x + 0.1 * pictures(2, 32, seed=3)))
    assert np.all(np.isfinite(moved)) and np.abs(moved).max() > 0


def test_smallest_picture(net, params):
    taps = perceptual.features(params, pictures(1, SIZES[net]), net)
    assert list(taps) == list(params["heads"])
    assert list(taps.values())[-1].shape[1:3] == (1, 1)
    with pytest.raises(ValueError, match=f"{net} needs pictures of {SIZES[net]} px"):
        perceptual.features(params, pictures(1, SIZES[net] - 1), net)


def test_unknown_net_is_named():
    with pytest.raises(ValueError, match="'vgg19'.*'alexnet', 'vgg16'"):
        perceptual.shapes("vgg19")


def test_the_unit_has_no_gradient_at_zero():
    h = jnp.zeros((1, 1, 1, 4))
    pulled = jax.grad(lambda h: jnp.sum(perceptual.unit(h) * jnp.arange(4.0)))(h)
    assert np.all(np.isfinite(pulled))
    np.testing.assert_allclose(perceptual.unit(h + 0.5), np.full(h.shape, 0.5))


def slow_conv(x, kernel, bias, stride, padding):
    """One picture [H, W, C], written out over the output's pixels."""
    x = np.pad(x, ((padding, padding), (padding, padding), (0, 0)))
    size = kernel.shape[0]
    side = (x.shape[0] - size) // stride + 1
    y = np.empty((side, side, kernel.shape[-1]))
    for i in range(side):
        for j in range(side):
            top, left = i * stride, j * stride
            patch = x[top : top + size, left : left + size, :, None]
            y[i, j] = np.sum(patch * kernel, axis=(0, 1, 2)) + bias
    return y


def slow_pool(x, window, stride):
    side = (x.shape[0] - window) // stride + 1
    rows = [
        [
            x[i : i + window, j : j + window].max((0, 1))
            for j in stride * np.arange(side)
        ]
        for i in stride * np.arange(side)
    ]
    return np.array(rows)


def test_alexnet_agrees_with_loops_up_to_the_second_tap():
    gen = np.random.default_rng(4)
    shapes = perceptual.shapes("alexnet")
    params = jax.tree.map(lambda s: 0.1 * gen.standard_normal(s.shape), shapes)
    x = np.asarray(pictures(1, 31), np.float64)
    taps = perceptual.features(
        jax.tree.map(jnp.float32, params), jnp.float32(x), "alexnet"
    )

    h = (x[0] - [-0.030, -0.088, -0.188]) / [0.458, 0.448, 0.450]
    h = np.maximum(slow_conv(h, *_layer(params, "conv1"), 4, 2), 0)
    np.testing.assert_allclose(taps["relu1"][0], h, rtol=1e-4, atol=1e-4)
    h = np.maximum(slow_conv(slow_pool(h, 3, 2), *_layer(params, "conv2"), 1, 2), 0)
    np.testing.assert_allclose(taps["relu2"][0], h, rtol=1e-4, atol=1e-3)


def _layer(params, name):
    return params[name]["kernel"], params[name]["bias"]


def test_distance_agrees_with_its_definition():
    gen = np.random.default_rng(5)
    a, b = gen.standard_normal((2, 2, 3, 3, 4))
    weights = gen.uniform(size=4)
    unit = lambda h: h / (np.sqrt((h**2).sum(-1, keepdims=True)) + 1e-10)
    expected = (((unit(a) - unit(b)) ** 2) @ weights).mean((1, 2))
    found = perceptual.distance({"tap": weights}, {"tap": a}, {"tap": b})
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_only_what_is_counted_counts(net, params):
    """Pixels of weight 0 far from the others may be anything; ones are no weights."""
    x, side = pictures(2, 64), 64
    taps = lambda y: perceptual.features(params, y, net)
    told = lambda y, where: perceptual.distance(
        params["heads"], taps(x), taps(y), where
    )
    y = x.at[:, :16, :16].add(0.5)  # the upper left corner
    whole, ones = told(y, None), told(y, jnp.ones((2, side, side)))
    np.testing.assert_allclose(whole, ones, rtol=1e-5)
    corner = jnp.zeros((2, side, side)).at[:, :16, :16].set(1)
    assert (told(y, corner) > 4 * whole).all()
    far = jnp.zeros((2, side, side)).at[:, 56:, 56:].set(1)
    assert (told(y, far) < 0.4 * whole).all()


@pytest.mark.fetched
def test_published_weights_order_noise_blur_and_other_pictures():
    params = frozen.perceptual("alexnet")
    cells = sprites.load().scene_indices[:8]
    plain = [singles.single(cell, "blue", 64)[0] for cell in cells]
    blurred = [
        np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(2)))
        for image in plain
    ]
    x, blur = (np.float32(images) / 127.5 - 1 for images in (plain, blurred))
    noise = x + np.random.default_rng(0).normal(0, 0.1, x.shape).astype(np.float32)
    lpips = jax.jit(lambda y: perceptual.lpips(params, x, y, "alexnet").mean())
    same, noisy, soft, other = (float(lpips(y)) for y in (x, noise, blur, x[::-1]))
    assert same < 1e-9
    assert 0.01 < noisy < soft < other < 1


@pytest.mark.fetched
def test_published_weights_fit_the_networks(net):
    params = frozen.perceptual(net)
    found = jax.tree.map(lambda a: (a.shape, a.dtype), params)
    wanted = jax.tree.map(lambda s: (s.shape, s.dtype), perceptual.shapes(net))
    assert found == wanted
    assert all(np.all(head >= 0) for head in params["heads"].values())
