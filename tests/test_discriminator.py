import helpers
import jax
import jax.numpy as jnp
import numpy as np
import numpy_layers
import pytest

from ldm_jax.models import discriminator

ONE = ((1, 1), (1, 1))


def variables(net, x):
    rng = jax.random.key(0)
    shapes = jax.eval_shape(lambda: net.init(rng, x))
    return {name: helpers.random_params(tree) for name, tree in shapes.items()}


@pytest.fixture(scope="module")
def rig():
    """(net, variables, x, logits, new batch statistics)."""
    net = discriminator.PatchDiscriminator(channels=4, depth=2)
    x = helpers.normal(0, 3, 16, 16, 3)
    held = variables(net, x)
    logits, new = jax.jit(lambda v: net.apply(v, x, mutable=["batch_stats"]))(held)
    return net, held, x, logits, new["batch_stats"]


@pytest.mark.parametrize(("depth", "side"), [(3, 30), (2, 62)])
def test_one_logit_per_patch_of_a_256_pixel_picture(depth, side):
    net = discriminator.PatchDiscriminator(depth=depth)
    x = jax.ShapeDtypeStruct((1, 256, 256, 3), jnp.float32)
    run = lambda x: net.init_with_output(jax.random.key(0), x)[0]
    out = jax.eval_shape(run, x)
    assert out.shape == (1, side, side, 1) and out.dtype == jnp.float32


def leaky(x):
    return np.where(x > 0, x, 0.2 * x)


def test_it_is_the_written_out_one(rig):
    """Statistics are the batch's own, over pictures and pixels."""
    _, held, x, logits, new = rig
    params = numpy_layers.double(held["params"])
    h = leaky(numpy_layers.conv(params["conv_0"], np.float64(x), 2, ONE))
    for i, stride in ((1, 2), (2, 1)):
        h = numpy_layers.conv(params[f"conv_{i}"], h, stride, ONE)
        mean, variance = h.mean((0, 1, 2)), h.var((0, 1, 2))
        running = 0.9 * np.float64(held["batch_stats"][f"norm_{i}"]["mean"])
        np.testing.assert_allclose(
            new[f"norm_{i}"]["mean"], running + 0.1 * mean, atol=1e-5
        )
        norm = params[f"norm_{i}"]
        h = (h - mean) / np.sqrt(variance + 1e-5) * norm["scale"] + norm["bias"]
        h = leaky(h)
    wanted = numpy_layers.conv(params["logits"], h, 1, ONE)
    np.testing.assert_allclose(logits, wanted, atol=1e-4)


def test_biases_only_where_no_norm_follows(rig):
    biased = {k for k, v in rig[1]["params"].items() if "bias" in v and "kernel" in v}
    assert biased == {"conv_0", "logits"}


def test_running_averages_are_not_read(rig):
    net, held, x, logits, _ = rig
    doubled = jax.tree.map(lambda leaf: 2 * leaf + 1, held["batch_stats"])
    again, _ = jax.jit(lambda v: net.apply(v, x, mutable=["batch_stats"]))(
        {**held, "batch_stats": doubled}
    )
    np.testing.assert_array_equal(again, logits)


def test_a_picture_is_judged_by_the_company_it_is_in(rig):
    net, held, x, logits, _ = rig
    alone, _ = jax.jit(lambda v: net.apply(v, x[:1], mutable=["batch_stats"]))(held)
    assert helpers.largest_difference(alone, logits[:1]) > 1e-2


def test_width_stops_at_eight_times():
    net = discriminator.PatchDiscriminator(channels=2, depth=5)
    shapes = helpers.init_shapes(net, jnp.zeros((1, 128, 128, 3)))
    widths = [shapes[f"conv_{i}"]["kernel"].shape[-1] for i in range(6)]
    assert widths == [2, 4, 8, 16, 16, 16]


def test_weights_start_narrow():
    net = discriminator.PatchDiscriminator(channels=32, depth=1)
    params = helpers.fresh_params(net, jnp.zeros((1, 16, 16, 3)))
    kernel = np.asarray(params["conv_1"]["kernel"])
    np.testing.assert_allclose([kernel.mean(), kernel.std()], [0, 0.02], atol=5e-4)
    scale = np.asarray(params["norm_1"]["scale"])
    np.testing.assert_allclose([scale.mean(), scale.std()], [1, 0.02], atol=0.01)
    assert not np.any(params["norm_1"]["bias"])


def test_biases_start_as_torchs():
    """U(-1, 1) over the root of 16 times the input channels; Flax's are zero."""
    net = discriminator.PatchDiscriminator(channels=64, depth=2)
    params = helpers.fresh_params(net, jnp.zeros((1, 16, 16, 3)))
    bias = np.asarray(params["conv_0"]["bias"])
    bound = 1 / np.sqrt(16 * 3)
    assert 0.8 * bound < np.abs(bias).max() <= bound and abs(bias.mean()) < 0.3 * bound
    last = np.abs(np.asarray(params["logits"]["bias"]))
    assert 0 < last.max() <= 1 / np.sqrt(16 * 256)
