"""ControlNet's module: layers that start as nothing, the hint's encoder, outputs."""

import dataclasses
import functools

import flax.linen as nn
import helpers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import released_configs

from ldm_jax import system
from ldm_jax.models import controlnet, layers, unet

ARCH = unet.Arch(
    out_channels=3,
    channels=8,
    mult=(1,),
    blocks=1,
    depths=(1,),
    mid_depth=0,
    attention="transformer",
    positions=False,
    heads=0,
    head_channels=8,
    scale_shift=False,
    resblock_updown=False,
    dropout=0.0,
    groups=4,
    remat=False,
    dtype="float32",
)
# Changes of ARCH, widths of the hint's encoder, factor: UNets on latents of factor 4
# with an embedded vector, and of one level. The released one is below.
SHAPES = {
    "f4": (dict(mult=(1, 2), depths=(0, 1), resblock_updown=True), (4, 6, 8), 4),
    "one level": ({}, (4, 8, 8, 8, 8), 16),
}


class Connection(controlnet.ControlNet):
    """One of a branch's connections, alone."""

    @nn.compact
    def __call__(self, x):
        return self.connect(x, 3, "zero", kernel=1)


class Layer(nn.Module):
    """A zero layer of ldm_jax.models.layers, alone."""

    kind: str

    @nn.compact
    def __call__(self, x):
        if self.kind == "dense":
            return layers.dense(x, 3, "zero", zero=True, dtype=jnp.float32)
        return layers.conv(x, 3, "zero", kernel=1, zero=True, dtype=jnp.float32)


ZEROS = {
    "connection": Connection(ARCH),
    "convolution": Layer("conv"),
    "dense": Layer("dense"),
}


@pytest.mark.parametrize("name", ZEROS)
def test_a_zero_layer_learns_before_it_is_heard_through(name):
    """The paper's table: dZ/dB = 1, dZ/dI = 0, dZ/dW = I; after a step dZ/dI too."""
    net, x, wanted = ZEROS[name], helpers.normal(0, 1, 2, 2, 4), helpers.normal(1, 3)
    params = helpers.fresh_params(net, x)
    assert params["zero"]["kernel"].shape[-2:] == (4, 3)

    def out(params, x):
        return net.apply({"params": params}, x)

    @jax.jit
    def tables(params):
        by_params, by_input = jax.jacobian(out, (0, 1))(params, x)
        return out(params, x), by_params["zero"], by_input

    z, by_params, by_input = tables(params)
    assert not z.any() and not by_input.any()
    ones = np.broadcast_to(np.eye(3), by_params["bias"].shape)
    np.testing.assert_array_equal(by_params["bias"], ones)
    by_weight = np.asarray(by_params["kernel"]).reshape(1, 2, 2, 3, 4, 3)
    for i in range(3):
        np.testing.assert_array_equal(by_weight[..., i, :, i], x)
        assert not np.delete(by_weight[..., i, :, :], i, axis=-1).any()

    loss = lambda params: jnp.sum((out(params, x) - wanted) ** 2)
    params = jax.tree.map(lambda p, g: p - 0.1 * g, params, jax.grad(loss)(params))
    assert all(np.all(leaf != 0) for leaf in jax.tree.leaves(params))
    assert np.abs(tables(params)[2]).max() > 1e-3


def test_the_hints_encoder_is_the_released_one():
    found = controlnet.hint_convs((16, 32, 96, 256), 8)
    assert found == [(16, 1), (16, 1), (32, 2), (32, 1), (96, 2), (96, 1), (256, 2)]


@pytest.mark.parametrize("factor", [1, 2, 4, 16])
def test_the_hints_encoder_shrinks_by_the_first_stages_factor(factor):
    """Early, so that what follows is cheap; widths and depth are the same."""
    channels = (16, 32, 96, 256, 256)
    found = controlnet.hint_convs(channels, factor)
    widths, strides = zip(*found, strict=True)
    assert widths == (16, 16, 32, 32, 96, 96, 256, 256, 256)
    assert np.prod(strides) == factor
    shrinking = [stride for stride in strides[2::2]]
    assert shrinking == sorted(shrinking, reverse=True)
    assert set(strides[:1] + strides[1::2]) == {1}


def of(name, **changes):
    """(arch, the branch, its arguments)."""
    told, channels, factor = SHAPES[name]
    arch = dataclasses.replace(ARCH, **told)
    net = controlnet.ControlNet(arch, channels, factor, **changes)
    side = 2 ** len(arch.mult)
    z, hint = helpers.normal(0, 2, side, side, 3), (2, side * factor, side * factor, 3)
    vector = helpers.normal(3, 2, 5) if name == "f4" else None
    told = helpers.normal(2, 2, 4, 6), vector
    return arch, net, (z, jnp.array([3.0, 700.0]), helpers.normal(1, *hint), *told)


@functools.cache
def traced(module, *shapes):
    """(outputs, parameters) of a module, as shapes; shapes: of its arguments.

    Those are tuples of numbers, None, or tuples of such.
    """
    rng = jax.random.key(0, impl="unsafe_rbg")
    arguments = jax.tree.map(jnp.zeros, shapes, is_leaf=is_shape)
    found = jax.eval_shape(lambda: module.init_with_output(rng, *arguments))
    return found[0], found[1]["params"]


def is_shape(x):
    return isinstance(x, tuple) and all(isinstance(side, int) for side in x)


def shapes_of(arrays):
    return jax.tree.map(jnp.shape, arrays)


@pytest.mark.parametrize("lite", [False, True])
@pytest.mark.parametrize("name", SHAPES)
def test_there_is_an_output_for_each_skip_and_the_middle(name, lite):
    """Shaped as those of the UNet, which takes them."""
    arch, net, arguments = of(name, lite=lite)
    z, t, hint, *told = shapes_of(arguments)
    found, shapes = traced(net, z, t, hint, *told)
    (h, skips, _), of_trunk = traced(unet.Trunk(arch), z, t, *told)
    assert [(x.shape, x.dtype) for x in found] == [
        (x.shape, x.dtype) for x in (*skips, h)
    ]
    assert ("trunk" in shapes) == (not lite)
    assert lite or shapes["trunk"] == of_trunk
    connections = {f"zero_{i}" for i in range(len(skips))} | {"zero_mid", "hint_out"}
    assert connections < shapes.keys()
    drawn, _ = traced(unet.UNet(arch), z, t, *told, tuple(x.shape for x in found))
    assert drawn.shape == z


def test_the_released_one_has_fourteen_zero_layers_and_its_size():
    arch = system.arch_of_unet(released_configs.shipped("stable_diffusion", "v1"))
    net, z, told = controlnet.ControlNet(arch), (1, 8, 8, 4), ((1, 77, 768), None)
    found, shapes = traced(net, z, (1,), (1, 64, 64, 3), *told)
    assert helpers.count(shapes) == 361_279_120
    widths = [1, 1, 1, 1, 2, 2, 2, 4, 4, 4, 4, 4, 4]
    assert [x.shape[-1] for x in found] == [320 * factor for factor in widths]
    assert [x.shape[1] for x in found] == [8, 8, 8, 4, 4, 4, 2, 2, 2, 1, 1, 1, 1]
    silent = [name for name in shapes if name.startswith(("zero_", "hint_out"))]
    assert len(silent) == 14
    encoder = {name: shapes[name]["kernel"].shape for name in shapes if "hint" in name}
    assert encoder.pop("hint_out") == (3, 3, 256, 320) and len(encoder) == 7
    assert all(shape[:2] == (3, 3) for shape in encoder.values())
    lite, _ = traced(
        dataclasses.replace(net, lite=True), z, (1,), (1, 64, 64, 3), *told
    )
    assert lite == found


@pytest.fixture(scope="module")
def small():
    """A branch of one level, as `of`."""
    return of("one level")


def drawn(net, arguments):
    return helpers.random_params(traced(net, *shapes_of(arguments))[1])


def say(net, params, arguments):
    return helpers.apply(net, params, *arguments)


def test_a_fresh_branch_says_nothing_and_starts_with_what_connects_it(small):
    """At first the connections alone learn; then all but the hint's encoder; then it.

    The hint is heard through two zero layers in a row.
    """
    _, net, arguments = small
    params = helpers.fresh_params(net, *arguments)
    aims = [helpers.normal(9, *x.shape) for x in say(net, params, arguments)]

    @jax.jit
    def learn(params):
        def loss(params):
            found = net.apply({"params": params}, *arguments)
            return sum(jnp.mean((x - y) ** 2) for x, y in zip(found, aims, strict=True))

        grads = jax.grad(loss)(params)
        stepped = jax.tree.map(lambda p, g: p - 0.3 * g, params, grads)
        return stepped, jax.tree.map(lambda g: jnp.any(g != 0), grads)

    assert not any(x.any() for x in say(net, params, arguments))
    heard = {"zero": [], "trunk": [], "hint_out": [], "hint_0": []}
    for _ in range(3):
        params, moved = learn(params)
        for start, told in heard.items():
            some = [moved[name] for name in moved if name.startswith(start)]
            told.append([bool(x) for x in jax.tree.leaves(some)])
    for start, first in {"zero": 0, "trunk": 1, "hint_out": 1, "hint_0": 2}.items():
        moved = [all(step) for step in heard[start]]
        still = [not any(step) for step in heard[start]]
        assert still == [True] * first + [False] * (3 - first), start
        # In the trunk a zero layer ends each block: what lies before it waits.
        assert start == "trunk" or moved == [not x for x in still], start


def test_connections_of_ones_say_what_the_trunk_says(small):
    """The hint joins after the first convolution; without it that is the UNet's."""
    arch, net, arguments = small
    params = drawn(net, arguments)
    for name in params:
        if name.startswith("zero"):
            ones = jnp.eye(arch.channels)[None, None]
            params[name] = {"kernel": ones, "bias": jnp.zeros(arch.channels)}
    z, t, hint, context, vector = arguments
    silent = jax.tree.map(jnp.zeros_like, params["hint_out"])
    trunk = helpers.apply(unet.Trunk(arch), params["trunk"], z, t, context, vector)
    found = say(net, params | {"hint_out": silent}, arguments)
    for x, y in zip(found, (*trunk[1], trunk[0]), strict=True):
        np.testing.assert_allclose(x, y, atol=1e-5)
    bias = helpers.normal(5, arch.channels)
    moved = say(net, params | {"hint_out": silent | {"bias": bias}}, arguments)
    np.testing.assert_allclose(moved[0] - found[0], bias + 0 * found[0], atol=1e-5)
    heard = say(net, params, arguments)
    other = say(net, params, (z, t, hint[::-1], context, vector))
    for x, y, still in zip(heard, other, found, strict=True):
        assert np.abs(x - y).max() > 1e-3 and np.abs(x - still).max() > 1e-3


def test_all_that_a_trunk_is_told_reaches_it():
    _, net, arguments = of("f4")
    params = drawn(net, arguments)
    plain = say(net, params, arguments)
    for i, what in enumerate(("z", "t", "hint", "context", "vector")):
        changed = [x + (0.5 if j == i else 0) for j, x in enumerate(arguments)]
        middle = say(net, params, changed)[-1]
        assert np.abs(middle - plain[-1]).max() > 1e-4, what


def test_gaussian_connections_disturb_from_the_start(small):
    """Of the size of what passes through them; their biases are zero."""
    _, net, arguments = small
    net = dataclasses.replace(net, connections="gaussian", lite=True)
    params = helpers.fresh_params(net, *arguments)
    found = say(net, params, arguments)
    assert all(np.abs(x).max() > 1e-2 for x in found)
    for name in ("zero_0", "zero_1", "zero_mid", "hint_out"):
        kernel = np.asarray(params[name]["kernel"])
        assert not params[name]["bias"].any()
        spread = np.std(kernel) * np.sqrt(np.prod(kernel.shape[:-1]))
        assert 0.7 < spread < 1.3
    silent = dataclasses.replace(net, connections="zero")
    params = helpers.fresh_params(silent, *arguments)
    assert not any(x.any() for x in say(silent, params, arguments))
    with pytest.raises(ValueError, match="'zeros' is not one of zero, gaussian"):
        net = dataclasses.replace(net, connections="zeros")
        helpers.init_shapes(net, *arguments)


def test_a_branch_computes_in_its_archs_dtype_on_float32_parameters():
    for lite in (False, True):
        arch, net, arguments = of("f4", lite=lite)
        arch = dataclasses.replace(arch, dtype="bfloat16", remat=True)
        net = dataclasses.replace(net, arch=arch)
        found, shapes = traced(net, *shapes_of(arguments))
        assert {x.dtype for x in found} == {jnp.dtype("bfloat16")}
        assert {x.dtype for x in jax.tree.leaves(shapes)} == {jnp.dtype("float32")}


def test_a_new_branch_has_the_trunk_of_the_unet():
    fresh = {"trunk": "drawn", "zero_0": "zero", "hint_0": "drawn too"}
    unet_params = {"trunk": "taught", "conv_out": "of the UNet"}
    found = controlnet.copied(fresh, unet_params)
    assert found == {"trunk": "taught", "zero_0": "zero", "hint_0": "drawn too"}
    assert fresh["trunk"] == "drawn"
    lite = {"light_in": "drawn", "zero_0": "zero"}
    assert controlnet.copied(lite, unet_params) == lite
