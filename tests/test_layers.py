import functools

import flax.linen as nn
import helpers
import jax
import jax.numpy as jnp
import numpy as np
import numpy_layers
import pytest

from ldm_jax.models import layers


@pytest.mark.parametrize("dim", [8, 9])
def test_timestep_embedding_has_the_cosines_first(dim):
    t = np.array([0.0, 1.0, 17.5, 999.0])
    found = np.asarray(layers.timestep_embedding(jnp.asarray(t), dim))
    assert found.shape == (4, dim) and found.dtype == np.float32
    for i in range(4):
        frequency = 10_000 ** (-i / 4)
        np.testing.assert_allclose(found[:, i], np.cos(t * frequency), atol=1e-4)
        np.testing.assert_allclose(found[:, 4 + i], np.sin(t * frequency), atol=1e-4)
    assert np.all(found[:, 8:] == 0)


def test_timestep_embedding_takes_integers_and_stays_float32():
    t = jnp.array([3, 500])
    found = layers.timestep_embedding(t, 16)
    np.testing.assert_array_equal(found, layers.timestep_embedding(t * 1.0, 16))


def test_up_repeats_and_down_averages():
    x = helpers.normal(0, 2, 4, 6, 3)
    np.testing.assert_array_equal(layers.nearest_up(x), numpy_layers.nearest_up(x))
    wanted = numpy_layers.mean_down(np.float64(x))
    np.testing.assert_allclose(layers.mean_down(x), wanted, atol=1e-6)
    again = layers.mean_down(layers.nearest_up(x))
    np.testing.assert_allclose(again, x, atol=1e-6)


def test_gelu_is_exact():
    x = np.linspace(-4, 4, 33, dtype=np.float32)
    np.testing.assert_allclose(layers.gelu(x), numpy_layers.gelu(x), atol=1e-6)
    tanh = jax.nn.gelu(x, approximate=True)
    assert helpers.largest_difference(layers.gelu(x), tanh) > 1e-4


def block(features, **kwargs):
    return layers.ResBlock(features, groups=2, **kwargs)


@pytest.fixture(scope="module")
def inputs():
    return helpers.normal(0, 2, 4, 4, 4), helpers.normal(1, 2, 6)


def test_a_fresh_block_is_the_identity(inputs):
    x, temb = inputs
    params = helpers.fresh_params(block(4), x, temb)
    np.testing.assert_array_equal(helpers.apply(block(4), params, x, temb), x)


def test_a_fresh_block_of_another_width_is_its_skip(inputs):
    x, temb = inputs
    params = helpers.fresh_params(block(8), x, temb)
    skip = x @ params["skip"]["kernel"][0, 0] + params["skip"]["bias"]
    assert np.abs(skip).max() > 0.1
    found = helpers.apply(block(8), params, x, temb)
    np.testing.assert_allclose(found, skip, atol=1e-6)


def test_the_autoencoders_block_does_not_start_silent(inputs):
    x, _ = inputs
    net = block(4, zero=False)
    params = helpers.fresh_params(net, x)
    assert "temb" not in params
    assert helpers.largest_difference(helpers.apply(net, params, x), x) > 0.1


def reference(params, x, temb, *, epsilon, scale_shift=False, resample=None):
    """The residual block of the LDM code, written out."""
    change = {
        None: lambda h: h,
        "up": numpy_layers.nearest_up,
        "down": numpy_layers.mean_down,
    }[resample]

    def norm(name, h):
        return numpy_layers.group_norm(params[name], h, 2, epsilon)

    h = numpy_layers.conv(
        params["conv_in"], change(numpy_layers.silu(norm("norm_in", x)))
    )
    if temb is None:
        h = norm("norm_out", h)
    else:
        emb = numpy_layers.dense(params["temb"], numpy_layers.silu(temb))[:, None, None]
        half = h.shape[-1]
        if scale_shift:
            h = norm("norm_out", h) * (1 + emb[..., :half]) + emb[..., half:]
        else:
            h = norm("norm_out", h + emb)
    h = numpy_layers.conv(params["conv_out"], numpy_layers.silu(h))
    return change(x @ params["skip"]["kernel"][0, 0] + params["skip"]["bias"]) + h


@pytest.mark.parametrize("size", [1.0, 1e-3], ids=["large", "tiny"])
@pytest.mark.parametrize(
    "kwargs",
    [
        dict(epsilon=1e-5),
        dict(epsilon=1e-6),
        dict(epsilon=1e-5, scale_shift=True),
        dict(epsilon=1e-5, resample="up"),
        dict(epsilon=1e-5, resample="down"),
    ],
    ids=lambda kwargs: "-".join(f"{v}" for v in kwargs.values()),
)
def test_block_is_the_written_out_one(inputs, kwargs, size):
    """Tiny activations show which epsilon is under the root."""
    x, temb = size * inputs[0], inputs[1]
    temb = None if kwargs["epsilon"] == 1e-6 else temb
    net = block(8, **kwargs)
    params = helpers.random_params(helpers.init_shapes(net, x, temb))
    found = helpers.apply(net, params, x, temb)
    arrays = numpy_layers.double(params)
    temb = None if temb is None else np.float64(temb)
    wanted = reference(arrays, np.float64(x), temb, **kwargs)
    np.testing.assert_allclose(found, wanted, atol=2e-5)

    other = 1e-5 if kwargs["epsilon"] == 1e-6 else 1e-6
    wrong = reference(arrays, np.float64(x), temb, **{**kwargs, "epsilon": other})
    if size < 1:
        assert helpers.largest_difference(found, wrong) > 1e-2


def test_dropout_is_on_only_in_training(inputs):
    x, temb = inputs
    net = block(4, dropout=0.5)
    params = helpers.random_params(helpers.init_shapes(net, x, temb))

    @functools.partial(jax.jit, static_argnums=0)
    def apply(train, seed):
        rngs = {"dropout": jax.random.key(seed)}
        return net.apply({"params": params}, x, temb, train, rngs=rngs)

    plain = apply(False, 0)
    np.testing.assert_array_equal(apply(False, 1), plain)
    assert helpers.largest_difference(apply(True, 0), plain) > 0.1
    assert helpers.largest_difference(apply(True, 0), apply(True, 1)) > 0.1


class Pair(nn.Module):
    @nn.compact
    def __call__(self, x):
        h = layers.conv(x, 64, "conv", dtype=jnp.float32)
        h = layers.dense(h, 64, "dense", dtype=jnp.float32)
        h = layers.norm(h, "norm", groups=2, epsilon=1e-6)
        return layers.dense(h, 4, "silent", zero=True, dtype=jnp.float32)


def test_weights_start_as_torch_starts_them():
    x = helpers.normal(0, 1, 4, 4, 8)
    params = helpers.fresh_params(Pair(), x)
    for name, fan_in in (("conv", 9 * 8), ("dense", 64)):
        bound = fan_in**-0.5
        for leaf in params[name].values():
            assert 0.9 * bound < np.abs(leaf).max() <= bound
        spread = np.std(params[name]["kernel"])
        np.testing.assert_allclose(spread, bound / np.sqrt(3), rtol=0.05)
    assert all(np.all(leaf == 0) for leaf in params["silent"].values())
    assert np.all(params["norm"]["scale"] == 1) and np.all(params["norm"]["bias"] == 0)


@pytest.mark.parametrize("stride", [1, 2])
def test_conv_pads_one_on_every_side(stride):
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            return layers.conv(x, 3, "conv", stride=stride, dtype=jnp.float32)

    x = helpers.normal(0, 1, 6, 6, 2)
    params = helpers.random_params(helpers.init_shapes(Net(), x))
    wanted = numpy_layers.conv(
        numpy_layers.double(params["conv"]), np.float64(x), stride
    )
    np.testing.assert_allclose(Net().apply({"params": params}, x), wanted, atol=1e-5)
