import dataclasses

import helpers
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.models import unet

TINY = unet.Arch(
    out_channels=3,
    channels=8,
    mult=(1, 2),
    blocks=1,
    depths=(0, 1),
    mid_depth=1,
    attention="transformer",
    positions=False,
    heads=2,
    head_channels=0,
    scale_shift=False,
    resblock_updown=False,
    dropout=0.0,
    groups=4,
    remat=False,
    dtype="float32",
)
PLAIN = dataclasses.replace(TINY, attention="plain")
SMALL = dataclasses.replace(TINY, mult=(1,), depths=(1,))  # compiles in half the time


@dataclasses.dataclass(frozen=True)
class Rig:
    """A UNet, weights without a zero, and something to say to it."""

    net: unet.UNet
    params: dict
    z: jax.Array
    t: jax.Array
    context: jax.Array | None

    def __call__(self, **changes):
        """The UNet's answer; a field of the rig, `vector`, `train`... may change."""
        told = dict(
            net=self.net,
            params=self.params,
            z=self.z,
            t=self.t,
            context=self.context,
            vector=None,
            residuals=None,
            train=False,
            rngs=None,
        )
        told |= changes
        rngs = told.pop("rngs")
        return helpers.apply(*told.values(), rngs=rngs)


def make(arch, context=True):
    z, t = helpers.normal(0, 2, 8, 8, 4), jnp.array([3.0, 700.0])
    context = helpers.normal(1, 2, 5, 6) if context else None
    net = unet.UNet(arch)
    shapes = helpers.init_shapes(net, z, t, context)
    return Rig(net, helpers.random_params(shapes), z, t, context)


@pytest.fixture(scope="module")
def rig():
    return make(TINY)


@pytest.fixture(scope="module")
def plain(rig):
    """What the rig says when told nothing special."""
    return np.asarray(rig())


@pytest.fixture(scope="module")
def small():
    return make(SMALL)


@pytest.fixture(scope="module")
def trunk(rig):
    """(h, skips, temb) of its first half."""
    first = unet.Trunk(TINY)
    return helpers.apply(
        first, rig.params["trunk"], rig.z, rig.t, rig.context, None, None
    )


def differs(a, b, by=1e-2):
    return helpers.largest_difference(a, b) > by


def test_one_skip_for_the_stem_each_block_and_each_downsampling(trunk):
    h, skips, temb = trunk
    assert [skip.shape[1:] for skip in skips] == [
        (8, 8, 8),  # stem
        (8, 8, 8),  # level 0
        (4, 4, 8),  # down
        (4, 4, 16),  # level 1
    ]
    assert h.shape == (2, 4, 4, 16) and temb.shape == (2, 32)


def test_residuals_of_zeros_change_nothing(rig, plain, trunk):
    h, skips, _ = trunk
    zeros = [jnp.zeros_like(x) for x in (*skips, h)]
    np.testing.assert_allclose(rig(residuals=zeros), plain, atol=1e-6)


def test_residuals_are_added_to_the_skips_and_the_middle(rig, trunk):
    """All that the trunk says is taken away and the same of another input put there."""
    h, skips, _ = trunk
    first = unet.Trunk(TINY)
    z = helpers.normal(5, *rig.z.shape)
    h_2, skips_2, _ = helpers.apply(
        first, rig.params["trunk"], z, rig.t, rig.context, None, None
    )
    swap = [b - a for a, b in zip((*skips, h), (*skips_2, h_2), strict=True)]
    np.testing.assert_allclose(rig(residuals=swap), rig(z=z), atol=1e-4)


def test_every_residual_reaches_the_output(rig, plain, trunk):
    h, skips, _ = trunk

    zeros = [jnp.zeros_like(x) for x in (*skips, h)]
    for i in range(len(zeros)):
        one = [x + helpers.normal(i, *x.shape) * (i == j) for j, x in enumerate(zeros)]
        assert differs(rig(residuals=one), plain), f"residual {i}"


def test_a_wrong_number_of_residuals_is_an_error(rig, trunk):
    h, skips, _ = trunk
    with pytest.raises(ValueError, match="zip"):
        helpers.init_shapes(
            rig.net, rig.z, rig.t, rig.context, residuals=[*skips[:-1], h]
        )


def test_a_guide_is_added_behind_the_stem(rig, trunk):
    guide = helpers.normal(7, 2, 8, 8, 8)
    first = unet.Trunk(TINY)
    _, skips, _ = helpers.apply(
        first, rig.params["trunk"], rig.z, rig.t, rig.context, None, guide
    )
    np.testing.assert_allclose(skips[0], trunk[1][0] + guide, atol=1e-6)
    assert differs(skips[1], trunk[1][1])


def test_remat_changes_neither_gradients_nor_names(small):
    """With dropout on: the second forward pass must draw the same numbers."""
    grads = {}
    for remat in (False, True):
        net = unet.UNet(dataclasses.replace(SMALL, dropout=0.2, remat=remat))
        shapes = helpers.init_shapes(net, small.z, small.t, small.context)
        assert jax.tree.structure(shapes) == jax.tree.structure(small.params)

        def loss(params, net=net):
            told = small.z, small.t, small.context, None, None, True
            rngs = {"dropout": jax.random.key(0, impl="unsafe_rbg")}
            return jnp.mean(net.apply({"params": params}, *told, rngs=rngs) ** 2)

        traced = jax.jit(jax.grad(loss)).trace(small.params)
        assert ("remat" in str(traced.jaxpr)) == remat
        grads[remat] = traced.lower().compile()(small.params)
    assert all(np.abs(g).max() > 0 for g in jax.tree.leaves(grads[True]))
    assert helpers.largest_difference(grads[True], grads[False]) < 1e-5


def test_dropout_is_on_only_in_training(small):
    net = unet.UNet(dataclasses.replace(SMALL, dropout=0.3))
    rngs = {"dropout": jax.random.key(0, impl="unsafe_rbg")}
    plain = small()
    np.testing.assert_allclose(small(net=net, rngs=rngs), plain, atol=1e-6)
    assert differs(small(net=net, train=True, rngs=rngs), plain)


def test_half_precision_inside_float32_outside(small):
    net = unet.UNet(dataclasses.replace(SMALL, dtype="bfloat16"))
    shapes = helpers.init_shapes(net, small.z, small.t, small.context)
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {jnp.dtype("float32")}
    found, plain = small(net=net), small()
    assert found.dtype == jnp.float32
    error = np.sqrt(np.mean((found - plain) ** 2) / np.mean(plain**2))
    assert 1e-4 < error < 0.05


def test_context_and_time_are_heard(rig, plain):
    assert differs(rig(context=rig.context[:, ::-1] * 2), plain)
    assert differs(rig(t=rig.t + 100), plain)
    half = rig(z=rig.z.at[1].set(0.0))
    np.testing.assert_allclose(half[0], plain[0], atol=1e-5)
    assert differs(half[1], plain[1])


def test_plain_attention_needs_no_context():
    rig = make(PLAIN, context=False)
    names = set(rig.params["trunk"]["down_1_attn_0"])
    assert names == {"norm", "qkv", "proj_out"}
    assert rig().shape == (2, 8, 8, 3)


def test_a_vector_is_embedded_into_the_time(small):
    vector = helpers.normal(3, 2, 7)
    told = small.z, small.t, small.context
    trunk = helpers.init_shapes(small.net, *told, vector)["trunk"]
    new = {k: v for k, v in trunk.items() if k not in small.params["trunk"]}
    assert set(new) == {"vector_0", "vector_1"}

    def answer(new):
        params = {**small.params, "trunk": {**small.params["trunk"], **new}}
        return small(params=params, vector=vector)

    assert differs(answer(helpers.random_params(new)), small())
    silent = jax.tree.map(lambda s: jnp.zeros(s.shape), new)
    np.testing.assert_allclose(answer(silent), small(), atol=1e-6)


def test_resampling_blocks_have_no_resampling_convolution():
    z, t = helpers.normal(0, 1, 8, 8, 4), jnp.zeros(1)
    shapes = {}
    for inside in (False, True):
        arch = dataclasses.replace(PLAIN, resblock_updown=inside)
        shapes[inside] = helpers.init_shapes(unet.UNet(arch), z, t)
    for half, name in (("trunk", "down_0_resample"), (None, "up_1_resample")):
        without, inside = (shapes[i][half] if half else shapes[i] for i in (0, 1))
        assert set(without[name]) == {"kernel", "bias"}
        block = {"norm_in", "conv_in", "temb", "norm_out", "conv_out"}
        assert set(inside[name]) == block
    both = jax.tree.map(lambda s: s.shape, shapes)
    for tree in both.values():
        tree["trunk"].pop("down_0_resample")
        tree.pop("up_1_resample")
    assert both[False] == both[True]


def test_a_resampling_block_replaces_the_convolution():
    rig = make(dataclasses.replace(PLAIN, resblock_updown=True), context=False)
    assert rig().shape == (2, 8, 8, 3)
    assert differs(rig(t=rig.t + 100), rig())


def test_attention_stands_where_the_depths_say(rig):
    deep = dataclasses.replace(TINY, depths=(2, 0), mid_depth=3)
    shapes = helpers.init_shapes(unet.UNet(deep), rig.z, rig.t, rig.context)
    blocks = lambda tree: sum(name.startswith("block_") for name in tree)
    found = {
        name: blocks(tree)
        for half in (shapes, shapes["trunk"])
        for name, tree in half.items()
        if "attn" in name
    }
    wanted = {"down_0_attn_0": 2, "mid_attn": 3, "up_0_attn_0": 2, "up_0_attn_1": 2}
    assert found == wanted


def test_heads_by_number_or_by_width(small):
    """Two heads of 4 channels are one attention, one head of 8 another."""
    by_width = unet.UNet(dataclasses.replace(SMALL, heads=0, head_channels=4))
    np.testing.assert_allclose(small(net=by_width), small(), atol=1e-6)
    single = unet.UNet(dataclasses.replace(SMALL, heads=1))
    assert differs(small(net=single), small(), by=1e-3)


def test_a_fresh_unet_says_zero(rig):
    """The last layer, each residual block's and each attention's start as zero."""

    @jax.jit
    def silent(rng):
        fresh = rig.net.init(rng, rig.z, rig.t, rig.context)["params"]
        last = {"out": fresh["conv_out"], "stem": fresh["trunk"]["conv_in"]}
        for name, leaves in {**fresh, **fresh["trunk"]}.items():
            if "_res_" in name:
                last[name] = leaves["conv_out"]
            if "attn" in name:
                last[name] = leaves["proj_out"]
        return last

    last = silent(jax.random.key(0, impl="unsafe_rbg"))
    assert np.all(last.pop("stem")["kernel"] != 0)
    assert len(last) == 1 + 8 + 4
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(last))


def test_downsampling_pads_both_sides():
    """A lone pixel at (3, 3) meets the first tap of the output pixel (2, 2)."""
    arch = dataclasses.replace(PLAIN, mid_depth=0)
    z = jnp.zeros((1, 8, 8, 1)).at[0, 3, 3].set(1.0)
    net = unet.Trunk(arch)
    shapes = helpers.init_shapes(net, z, jnp.zeros(1), None, None)
    params = jax.tree.map(lambda s: np.zeros(s.shape, np.float32), shapes)
    params["conv_in"]["kernel"][1, 1, 0, 0] = 1.0
    params["down_0_resample"]["kernel"][0, 0, 0, 0] = 1.0
    _, skips, _ = helpers.apply(net, params, z, jnp.zeros(1), None, None)
    assert np.argwhere(skips[2][0, :, :, 0]).tolist() == [[2, 2]]
