import helpers
import jax
import jax.numpy as jnp
import numpy as np
import numpy_layers
import pytest

from ldm_jax import sharding
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


def test_an_unknown_norm_is_named():
    net = discriminator.PatchDiscriminator(norm="layer")
    with pytest.raises(ValueError, match="'layer'; there are .*'actnorm', 'batch'"):
        helpers.init_shapes(net, jnp.zeros((1, 64, 64, 3)))


def unseen(net, x):
    """(parameters, batch statistics of zeros) as the first stage's loss starts."""
    held = variables(net, x)
    return held["params"], zeros(net, x)


def zeros(net, x):
    shapes = jax.eval_shape(net.init, jax.random.key(0), x)["batch_stats"]
    return jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)


def judged(net):
    """Jitted: (params, stats, x) -> (logits, new statistics)."""

    @jax.jit
    def run(params, stats, x):
        held = {"params": params, "batch_stats": stats}
        logits, new = net.apply(held, x, mutable=["batch_stats"])
        return logits, new["batch_stats"]

    return run


KEPT = {"batch": {"mean", "var"}, "actnorm": {"loc", "scale", "initialized"}}


def test_where_things_lie_is_the_checkpoint_format():
    x = jnp.zeros((1, 32, 32, 3))
    kernel, biased = {"kernel"}, {"kernel", "bias"}
    names = lambda tree: {k: set(v) for k, v in tree.items()}
    for norm, middle, inside in (
        ("batch", kernel, {"scale", "bias"}),
        ("actnorm", biased, {"scale", "loc"}),
    ):
        net = discriminator.PatchDiscriminator(channels=2, depth=2, norm=norm)
        ends = dict(conv_0=biased, logits=biased)
        inner = dict(conv_1=middle, conv_2=middle, norm_1=inside, norm_2=inside)
        assert names(helpers.init_shapes(net, x)) == ends | inner
        held = jax.eval_shape(net.init, jax.random.key(0), x)
        assert set(held) == {"params", "batch_stats"}
        assert names(held["batch_stats"]) == dict(norm_1=KEPT[norm], norm_2=KEPT[norm])


def test_actnorm_starts_unseen_with_neutral_parameters():
    held = jax.jit(discriminator.ActNorm().init)(
        jax.random.key(0), jnp.ones((1, 2, 2, 4))
    )
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(held["batch_stats"]))
    assert np.all(held["params"]["loc"] == 0) and np.all(held["params"]["scale"] == 1)


def test_actnorm_takes_its_numbers_from_the_first_batch_alone():
    norm = discriminator.ActNorm()
    x, y = 3 + 2 * helpers.normal(0, 2, 3, 4, 5), helpers.normal(1, 2, 3, 4, 5)
    run = judged(norm)
    params, unset = {"loc": jnp.zeros(5), "scale": jnp.ones(5)}, zeros(norm, x)
    mean, std = np.mean(x, (0, 1, 2)), np.std(x, (0, 1, 2), ddof=1)

    first, seen = run(params, unset, x)
    np.testing.assert_allclose(first, (x - mean) / (std + 1e-6), atol=1e-5)
    assert seen["initialized"]
    second, still = run(params, seen, y)
    np.testing.assert_allclose(second, (y - mean) / (std + 1e-6), atol=1e-5)
    jax.tree.map(np.testing.assert_array_equal, still, seen)

    moved = {"loc": params["loc"] + 0.3, "scale": params["scale"] - 0.2}
    wanted = (1 / (std + 1e-6) - 0.2) * (y - mean + 0.3)
    np.testing.assert_allclose(run(moved, seen, y)[0], wanted, atol=1e-5)


def test_actnorm_wants_two_values_of_a_channel():
    with pytest.raises(ValueError, match="two values in a channel"):
        discriminator.ActNorm().init(jax.random.key(0), jnp.zeros((1, 1, 1, 8)))


def test_actnorm_in_bfloat16_counts_in_float32():
    kind = dict(channels=4, depth=2, norm="actnorm")
    x = helpers.normal(0, 2, 16, 16, 3)
    net = discriminator.PatchDiscriminator(**kind)
    params, unset = unseen(net, x)
    wide, _ = judged(net)(params, unset, x)
    narrow = discriminator.PatchDiscriminator(**kind, dtype=jnp.bfloat16)
    found, stats = judged(narrow)(params, unset, x)
    assert found.dtype == jnp.float32 and stats["norm_1"]["scale"].dtype == jnp.float32
    np.testing.assert_allclose(found, wide, atol=0.1)


@pytest.mark.parametrize("norm", discriminator.NORMS)
def test_a_batch_on_all_devices_is_one_batch(norm):
    """Logits, statistics and gradients; not those of one device's pictures."""
    net = discriminator.PatchDiscriminator(channels=4, depth=2, norm=norm)
    bright = np.arange(8, dtype=np.float32)[:, None, None, None]  # all differ
    x = np.array(helpers.normal(0, 8, 16, 16, 3)) + bright
    params, unset = unseen(net, x)
    mesh = sharding.make_mesh()
    assert mesh.size == 4
    spread = sharding.put_batch(x, mesh)
    assert spread.addressable_shards[0].data.shape[0] == 2
    copied = jax.device_put((params, unset), sharding.replicated(mesh))

    @jax.jit
    def run(params, stats, x):
        def total(params, x):
            held = {"params": params, "batch_stats": stats}
            logits, new = net.apply(held, x, mutable=["batch_stats"])
            return jnp.mean(jnp.square(logits)), (logits, new["batch_stats"])

        slopes, (logits, new) = jax.grad(total, (0, 1), has_aux=True)(params, x)
        return logits, jax.tree.map(jnp.float32, new), slopes

    one, four = run(params, unset, x), run(*copied, spread)
    assert helpers.largest_difference(four, one) < 1e-5
    alone = [run(params, unset, part) for part in np.split(x, 4)]
    apart = np.concatenate([logits for logits, _, _ in alone])
    assert helpers.largest_difference(four[0], apart) > 0.1
    assert helpers.largest_difference(four[1], alone[0][1]) > 0.1
