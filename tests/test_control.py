"""Control branches at the seam and in a System: what hears them, what learns, rules."""

import functools

import helpers
import jax
from jax.extend.core import jaxprs_in_params
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax import (
    branches,
    config,
    control,
    denoise,
    draws,
    grids,
    inputs,
    knobs,
    runs,
    system,
    trees,
)
from ldm_jax.data import hints as hints_lib
from ldm_jax.models import unet as unet_lib

BATCH, SIDE = 4, 8
ALL_ALIKE = dict(cond_stage=dict(kind="none", classes=0, drop=0.0))
ALL_ALIKE |= dict(sample=dict(scale=1.0), unet=dict(mid_depth=0))
CONNECTIONS = 5  # of two levels with a block each


def config_of(hints=("canny", "depth"), **sections):
    """Classes to pictures of 8x8, in pixels: as little to compile as there may be."""
    c = config.latent_diffusion()
    c.data.update(name="emoji_scenes", image_size=SIDE, batch_size=BATCH)
    c.first_stage.update(kind="identity", mult=(1,), attention=(0,))
    c.cond_stage.update(kind="label", classes=5, width=8, drop=0.25)
    c.unet.update(channels=8, mult=(1, 2), blocks=1, depths=(0, 0), mid_depth=1)
    c.unet.update(head_channels=8, groups=4)
    c.control.update(hints=hints, channels=(4, 8))
    c.train.update(pictures=2, trainable=hints[:1])
    c.sample.update(grid="trailing", steps=2, scale=3.0)
    for section, changes in sections.items():
        c[section].update(changes)
    return config.check(c)


def fresh(params, *names):
    """The parameters with those branches as new ones: what connects them is zero."""

    def silent(path, leaf):
        mine = path.split("/")[0] in names
        connects = path.split("/")[1].startswith(("zero_", "hint_out"))
        return 0 * leaf if mine and connects else leaf

    return trees.nested({k: silent(k, v) for k, v in trees.flatten(params).items()})


def params_of(built):
    return helpers.random_params(jax.eval_shape(built.init, jax.random.key(0)))


def batch_of(built):
    gen = np.random.default_rng(0)
    batch = helpers.random_batch(built.heldout)
    if "label" in batch:
        batch["label"] = jnp.asarray(gen.integers(0, 4, BATCH), jnp.int32)
    return batch


def without(batch, *hints):
    return {k: v for k, v in batch.items() if k not in map(control.key, hints)}


def asker(built):
    """(params, z_t, t, batch, strengths=None) -> Pred, compiled."""

    def run(params, z_t, t, batch, strengths=None):
        cond = built.condition(params, batch)
        if strengths is not None:
            cond = cond.replace(strengths=strengths)
        return built.denoise(params, z_t, t, cond)

    return jax.jit(run)


@pytest.fixture(scope="module")
def c():
    return config_of()


@pytest.fixture(scope="module")
def rig(c):
    """(system, params, keys, batch with both hints); no parameter is zero."""
    built = system.build(c)
    keys = jax.random.split(jax.random.key(1), BATCH)
    return built, params_of(built), keys, batch_of(built)


@pytest.fixture(scope="module")
def ask(rig):
    return asker(rig[0])


@pytest.fixture(scope="module")
def draw(rig):
    return jax.jit(rig[0].draw)


Z_T, T = helpers.normal(7, BATCH, SIDE, SIDE, 3), jnp.array([0.0, 9.5, 500.0, 999.0])


def assert_same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def ones(*names):
    return {name: jnp.ones((BATCH, CONNECTIONS)) for name in names}


# What a fresh branch changes


def test_a_fresh_branch_changes_no_prediction_by_a_bit(rig, ask):
    _, params, _, batch = rig
    one = without(batch, "depth")
    plain = ask(params, Z_T, T, without(one, "canny"))
    assert_same(ask(fresh(params, "canny"), Z_T, T, one, ones("canny")), plain)
    heard = ask(params, Z_T, T, one, ones("canny"))
    assert np.abs(heard.eps - plain.eps).max() > 1e-2


@pytest.mark.parametrize("changes", [dict(dtype="bfloat16"), dict(remat=True)])
def test_nor_does_one_in_bfloat16_or_with_remat(rig, changes):
    _, params, _, batch = rig
    other = asker(system.build(config_of(("canny",), unet=changes)))
    one = without(batch, "depth")
    plain = other(params, Z_T, T, without(one, "canny"))
    assert_same(other(fresh(params, "canny"), Z_T, T, one), plain)


def test_a_fresh_branch_changes_no_sample_by_a_bit(c, rig, draw):
    """Guided, and at a scale at which nothing is."""
    _, params, keys, batch = rig
    one = without(batch, "depth")
    for scale in (3.0, 1.0):
        told = knobs.of(c) | {"scale": jnp.float32(scale)}
        plain = draw(params, keys, without(one, "canny"), told)
        assert_same(draw(fresh(params, "canny"), keys, one, told), plain)
        heard = draw(params, keys, one, told)
        assert np.abs(heard - plain).max() > 1e-2


def test_a_system_starts_branches_with_its_unets_trunk_and_silent():
    built = system.build(config_of(("canny",)))

    @jax.jit
    def start(rng):
        params = built.init(rng)
        return params["unet"]["trunk"], params["canny"]

    trunk, branch = start(jax.random.key(0, impl="unsafe_rbg"))
    assert_same(branch["trunk"], trunk)
    assert any(x.any() for x in jax.tree.leaves(trunk))
    for name, layer in branch.items():
        if name.startswith(("zero_", "hint_out")):
            assert not any(x.any() for x in layer.values()), name
        elif name.startswith("hint_"):
            assert layer["kernel"].any(), name


# What is added


@pytest.fixture(scope="module")
def said(c, rig):
    """What two branches and their compositions add: {name: [n arrays]}.

    At the strengths of (3, 5): "three" and "five" have that of canny.
    """
    built, params, _, batch = rig
    arch = system.arch_of_unet(c)
    net = branches.net(c.control, arch, factor=1)
    spy = lambda params, z_t, t, cond, rng=None: cond.residuals
    both = denoise.with_control(spy, net, "canny")
    both = denoise.with_control(both, net, "depth")
    section = c.control.copy_and_resolve_references()
    section.only_mid = True

    @jax.jit
    def run(params, batch):
        cond = built.condition(params, batch)
        ask = lambda cond: both(params, Z_T, T, cond)
        hint = lambda name: {name: cond.hints[name]}
        loud = ones("canny", "depth")
        rising = jnp.arange(BATCH * CONNECTIONS).reshape(BATCH, CONNECTIONS) / 10
        return {
            "none": ask(cond.replace(hints=None)),
            **{name: ask(cond.replace(hints=hint(name))) for name in cond.hints},
            "both": ask(cond),
            "ones": ask(cond.replace(strengths=loud)),
            "rising": ask(cond.replace(strengths=loud | {"canny": rising})),
            "nothing": ask(cond.replace(strengths=jax.tree.map(jnp.zeros_like, loud))),
            "only_mid": ask(branches.hinted(section, arch, cond, batch)),
            "before": ask(cond.replace(residuals=[jnp.ones(())] * CONNECTIONS)),
        }

    found = run(params, batch)
    return {name: x and [np.asarray(part) for part in x] for name, x in found.items()}


NAMES = ("both", "canny", "depth")


def test_without_a_hint_nothing_is_added(said):
    assert said["none"] is None


def test_two_branches_add_what_each_adds_alone(said):
    assert len(said["both"]) == CONNECTIONS
    for both, canny, depth in zip(*map(said.get, NAMES), strict=True):
        np.testing.assert_allclose(both, canny + depth, atol=1e-5)
        assert np.abs(canny - depth).max() > 1e-2


def test_what_came_before_is_kept(said):
    for found, both in zip(said["before"], said["both"], strict=True):
        np.testing.assert_allclose(found, both + 1, atol=1e-5)


def test_a_connection_is_multiplied_by_its_strength_in_each_picture(said):
    assert_same(said["ones"], said["both"])
    for i, (found, canny, depth) in enumerate(
        zip(*map(said.get, ("rising", "canny", "depth")), strict=True)
    ):
        share = (np.arange(BATCH) * CONNECTIONS + i)[:, None, None, None] / 10
        np.testing.assert_allclose(found, share * canny + depth, atol=1e-5)
    assert not any(x.any() for x in said["nothing"])


def test_only_mid_reaches_nothing_but_the_middle(said):
    *skips, middle = said["only_mid"]
    assert not any(x.any() for x in skips)
    np.testing.assert_array_equal(middle, said["both"][-1])


def test_only_mid_is_of_sampling_too():
    c = config_of(control=dict(only_mid=True), sample=dict(hint_weighting="guess"))
    for halves in knobs.of(c)["hints"].values():
        np.testing.assert_array_equal(halves["told"], [0, 0, 0, 0, 1])
        assert not halves["untold"].any()


# How loud it is


def test_guess_mode_is_the_originals():
    """Of Stable Diffusion's thirteen connections."""
    wanted = [0.0994, 0.1205, 0.1461, 0.1770, 0.2146, 0.2601, 0.3153]
    wanted += [0.3822, 0.4633, 0.5615, 0.6806, 0.825, 1.0]
    found = control.strengths((1, 2, 4, 4), 2, "guess")
    np.testing.assert_allclose(found["told"], wanted, atol=5e-5)
    assert found["told"].dtype == np.float32 and found["told"][-1] == 1
    assert not found["untold"].any()


def test_resolution_weighting_is_the_papers():
    found = control.strengths((1, 2, 4, 4), 2, "resolution")
    np.testing.assert_array_equal(found["told"], [1] * 3 + [2] * 3 + [4] * 3 + [8] * 4)
    assert not found["untold"].any()
    heights = 64 / control.shrinking((1, 2, 4, 4), 2)
    np.testing.assert_array_equal(heights[[0, 3, 6, 9, 12]], [64, 32, 16, 8, 8])


def test_by_default_both_halves_hear_all():
    found = control.strengths((1, 2), 1)
    for half in ("told", "untold"):
        np.testing.assert_array_equal(found[half], np.ones(CONNECTIONS))
    with pytest.raises(ValueError, match="'gess' is not one of .* did you mean 'guess"):
        control.strengths((1, 2), 1, "gess")


def test_connections_are_counted_as_the_network_has_them(said):
    smaller = SIDE / control.shrinking((1, 2), 1)
    assert [x.shape[1] for x in said["both"]] == smaller.tolist()


def loud(c, weighting, strengths=()):
    c = c.copy_and_resolve_references()
    c.sample.update(hint_weighting=weighting, hint_strengths=strengths)
    return knobs.of(config.check(c))


HEARD = {  # of each weighting, by hand
    "even": ([1, 1, 1, 1, 1], [1, 1, 1, 1, 1]),
    "guess": (0.825 ** np.arange(4, -1, -1), np.zeros(5)),
    "resolution": ([1, 1, 2, 2, 2], np.zeros(5)),
}


@pytest.mark.parametrize("weighting", HEARD)
def test_guided_sampling_is_two_passes_by_hand(c, rig, ask, draw, weighting):
    """Of which the untold one, but for "even", hears nothing: it is told no hint."""
    _, params, keys, batch = rig
    one = without(batch, "depth")
    told = loud(c, weighting, (0.5, 7.0))
    found = draw(params, keys, one, told)

    untold = {**one, "label": jnp.full(BATCH, 4)}
    heard, unheard = (
        {"canny": jnp.broadcast_to(0.5 * jnp.asarray(x, jnp.float32), (BATCH, 5))}
        for x in HEARD[weighting]
    )
    z, grid = draws.initial_noise(keys, (SIDE, SIDE, 3)), told["grid"]
    for i in range(2):
        now = z, grids.at(z, grid.t[i])
        a = ask(params, *now, one, heard)
        if weighting == "even":
            b = ask(params, *now, untold, unheard)
        else:
            b = ask(params, *now, without(untold, "canny"))
        z_0, eps = (y + 3 * (x - y) for x, y in ((a.z_0, b.z_0), (a.eps, b.eps)))
        share = grid.alpha_bar_prev[i]
        z = jnp.sqrt(share) * z_0 + jnp.sqrt(1 - share) * eps
    np.testing.assert_allclose(found, z, rtol=1e-3, atol=1e-3)


def test_no_strength_is_the_plain_model_to_the_bit(c, rig, draw):
    _, params, keys, batch = rig
    one = without(batch, "depth")
    plain = draw(params, keys, without(one, "canny"), knobs.of(c))
    assert_same(draw(params, keys, one, loud(c, "even", (0.0, 1.0))), plain)
    # Strengths are those of control.hints, in that order.
    other = draw(params, keys, one, loud(c, "even", (1.0, 0.0)))
    assert_same(other, draw(params, keys, one, knobs.of(c)))


def test_another_strength_weighting_or_scale_compiles_nothing(c, rig):
    _, params, keys, batch = rig
    one, traced = without(batch, "depth"), []

    @jax.jit
    def run(*told):
        traced.append(told)
        return rig[0].draw(*told)

    ways = [loud(c, name) for name in control.WEIGHTINGS]
    ways += [loud(c, "even", (0.7, 1.0)), knobs.of(c) | {"scale": jnp.float32(9.0)}]
    drawn = [run(params, keys, one, told) for told in ways]
    assert len(traced) == 1
    for i, a in enumerate(drawn):
        assert all(np.abs(a - b).max() > 1e-3 for b in drawn[:i]), i


# What learns

UNLOCKED = ("canny", "unet/up_*", "unet/norm_out", "unet/conv_out")


@pytest.fixture(scope="module")
def learn(rig):
    """(params) -> (loss, gradients) of canny's branch, all else frozen."""
    built, _, keys, batch = rig

    @jax.jit
    def run(params):
        trained, frozen = trees.split(params, ("canny",))
        told = trained, frozen, {}, jnp.int32(0), keys, without(batch, "depth")
        grads, _, metrics = built.grads(*told)
        return metrics["loss"], grads

    return run


def under(tree, start):
    flat = trees.flatten(tree)
    return [leaf for name, leaf in flat.items() if name.startswith(start)]


def test_zero_convolutions_learn_first_and_then_the_trunk(rig, learn):
    _, params, *_ = rig
    params, lowered = fresh(params, "canny"), []
    for step in range(3):
        loss, grads = learn(params)
        assert grads.keys() == {"canny"}
        for start, first in {
            "zero_": 0,
            "trunk": 1,
            "hint_out": 1,
            "hint_0": 2,
        }.items():
            found = [np.any(x) for x in under(grads["canny"], start)]
            assert found and all(found) == any(found) == (step >= first), (start, step)
        step = jax.tree.map(lambda p, g: p - 0.2 * g, params["canny"], grads["canny"])
        params = params | {"canny": step}
        lowered.append(float(loss))
    assert lowered[2] < lowered[0]


def convolutions(jaxpr):
    """How many there are in a jaxpr and in those within it."""
    count = 0
    for eqn in jaxpr.eqns:
        count += eqn.primitive.name == "conv_general_dilated"
        for inner in jaxprs_in_params(eqn.params):
            count += convolutions(inner)
    return count


@pytest.fixture(scope="module")
def learning(rig):
    """(*patterns) -> (convolutions of a step, shapes of its gradients)."""
    built, params, keys, batch = rig

    @functools.cache
    def run(*patterns):
        trained, frozen = trees.split(params, patterns)
        told = trained, frozen, {}, jnp.int32(0), keys, without(batch, "depth")
        jaxpr, shapes = jax.make_jaxpr(built.grads, return_shape=True)(*told)
        return convolutions(jaxpr.jaxpr), shapes[0]

    return run


def test_gradients_go_through_the_locked_decoder_and_not_its_encoder(c, rig, learning):
    """A convolution is one forwards, one for its weights, one for what it was given."""
    _, params, _, batch = rig
    arch, context = system.arch_of_unet(c), jnp.zeros((BATCH, 1, 8))
    count = lambda run, *args: convolutions(jax.make_jaxpr(run)(*args).jaxpr)

    def of(net, role, *args):
        run = lambda params, z: net.apply({"params": params}, z, T, *args)
        return count(run, role, Z_T)

    trunk = of(unet_lib.Trunk(arch), params["unet"]["trunk"], context, None)
    decoder = of(unet_lib.UNet(arch), params["unet"], context) - trunk
    branch = branches.net(c.control, arch, 1)
    branch = of(branch, params["canny"], batch["hint_canny"] / 255.0, context)
    assert min(trunk, decoder, branch) > 5

    # Nobody asks for the gradients of z_t and of the hint.
    assert learning("canny")[0] == trunk + 2 * decoder + 3 * branch - 2
    assert learning(*UNLOCKED)[0] == trunk + 3 * decoder + 3 * branch - 2
    assert learning("canny", "unet")[0] == 3 * (trunk + decoder + branch) - 3


def test_captions_are_dropped_while_hints_stay(rig):
    _, params, keys, batch = rig
    built = system.build(config_of(("canny",), cond_stage=dict(drop=1.0)))
    run = jax.jit(lambda *told: built.grads(*told)[2]["loss"])
    trained, frozen = trees.split(params, ("canny",))
    batch = without(batch, "depth")

    def loss(**changes):
        told = batch | changes
        return float(run(trained, frozen, {}, jnp.int32(0), keys, told))

    assert loss(label=(batch["label"] + 1) % 4) == loss()
    assert abs(loss(hint_canny=batch["hint_canny"][::-1]) - loss()) > 1e-4


def state_shapes(c):
    built = system.build(c)
    return jax.eval_shape(runs.initial_state(c, built), jax.random.key(0))


def test_the_optimizer_has_nothing_of_what_is_frozen(c):
    state = state_shapes(c)
    assert state.params.keys() == state.ema.keys() == {"canny"}
    branch = helpers.count(state.params)
    held = helpers.count(jax.tree.leaves(state.opt_state))
    assert 2 * branch <= held < 2 * branch + 10  # Adam's moments, and counters
    everything = jax.eval_shape(system.build(c).init, jax.random.key(0))
    assert branch == helpers.count(everything["canny"])


def test_an_unlocked_decoder_trains_and_nothing_else(rig, learning):
    """The originals' sd_locked False: output_blocks and out."""
    c = config_of(("canny",), train=dict(trainable=UNLOCKED))
    params = state_shapes(c).params
    assert params.keys() == {"canny", "unet"}
    everything = jax.eval_shape(system.build(c).init, jax.random.key(0))
    assert params["canny"].keys() == everything["canny"].keys()
    assert set(everything["unet"]) - set(params["unet"]) == {"trunk"}
    trained, _ = trees.split(rig[1], UNLOCKED)
    grads = learning(*UNLOCKED)[1]
    assert jax.tree.structure(grads) == jax.tree.structure(trained)
    # A pattern that matches nothing is told.
    c.train.trainable = (*UNLOCKED, "unet/out")
    with pytest.raises(ValueError, match="'unet/out' matches no parameter"):
        state_shapes(c)


# Validation


def test_validation_says_how_loud_each_connection_is(rig):
    """Root mean squares of what is added, by hand; 0 of a fresh branch."""
    built, params, keys, batch = rig
    one = without(batch, "depth")
    run = jax.jit(built.validate)
    sides = {"new": fresh(params, "canny"), "old": params}
    spoken = {name: run(told, keys, one) for name, told in sides.items()}
    names = [f"residual_canny_{i:02}" for i in range(CONNECTIONS)]
    assert spoken["old"].keys() == {"loss_simple", "loss_vlb", "t", *names}
    assert all(x.shape == (BATCH,) for x in spoken["old"].values())
    assert not any(spoken["new"][name].any() for name in names)
    assert all((spoken["old"][name] > 0).all() for name in names)


def test_loudness_is_a_root_mean_square(c, rig, said):
    built, params, _, batch = rig
    net = branches.net(c.control, system.arch_of_unet(c), factor=1)

    @jax.jit
    def run(params):
        cond = built.condition(params, batch)
        return branches.loudness(net, params, Z_T, T, cond)

    found = run(params)
    assert len(found) == 2 * CONNECTIONS
    for i, (a, b) in enumerate(zip(said["canny"], said["depth"], strict=True)):
        for name, x in (("canny", a), ("depth", b)):
            wanted = np.sqrt(np.mean(np.square(x), axis=(1, 2, 3)))
            np.testing.assert_allclose(found[f"residual_{name}_{i:02}"], wanted, 1e-4)


# Other conditions


def test_a_branch_works_beside_planes_and_without_a_null():
    """A map joins z_t, also that of the branch; nothing is guided."""
    cond = dict(kind="segmentation", classes=14, stages=0, drop=0.0)
    sample = dict(scale=1.0, steps=1, hint_weighting="guess")
    c = config_of(
        ("canny",), cond_stage=cond, sample=sample, unet=dict(mult=(1,), depths=(0,))
    )
    built = system.build(c)
    params, batch = params_of(built), batch_of(built)
    batch["segmentation"] %= 14
    planes = params["canny"]["trunk"]["conv_in"]["kernel"].shape[2]
    assert planes == 3 + c.cond_stage.width == 11
    assert planes == params["unet"]["trunk"]["conv_in"]["kernel"].shape[2]
    keys = jax.random.split(jax.random.key(1), BATCH)
    run, told = jax.jit(built.draw), knobs.of(c)
    plain = run(params, keys, without(batch, "canny"), told)
    assert_same(run(fresh(params, "canny"), keys, batch, told), plain)
    heard = run(params, keys, batch, told)
    assert np.abs(heard - plain).max() > 1e-2
    even = jax.tree.map(jnp.ones_like, told["hints"])
    other = run(params, keys, batch, told | {"hints": even})
    assert np.abs(heard - other).max() > 1e-3
    assert np.isfinite(heard).all()


def test_a_branch_sees_the_masked_picture_of_in_painting():
    c = config_of(("canny",), cond_stage=dict(inpaint="sd"))
    built = system.build(c)
    shapes = jax.eval_shape(built.init, jax.random.key(0))
    for role in ("canny", "unet"):
        assert shapes[role]["trunk"]["conv_in"]["kernel"].shape[2] == 3 + 1 + 3
    one = jax.eval_shape(system.init_control(c), jax.random.key(0))
    assert one == shapes["canny"]


def test_a_batch_of_training_has_the_hints_of_its_pictures(c):
    built = system.build(c)
    assert set(built.batch) == {"image", "label", "hint_canny", "hint_depth"}
    assert built.batch == built.heldout
    assert built.batch["hint_depth"].shape == (BATCH, SIDE, SIDE, 3)
    assert built.batch["hint_depth"].dtype == np.uint8
    c = config_of(("canny",), **ALL_ALIKE)
    example = {"image": np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)}
    found = inputs.prepare(c)(example)
    np.testing.assert_array_equal(
        found["hint_canny"], hints_lib.canny(example["image"])
    )
    assert found["image"] is example["image"] and example.keys() == {"image"}


# Rules

WITH = {  # of a config with hints: what is changed, and words of what is said
    "control.hints ('canny', 'canny') must differ": dict(
        control=dict(hints=("canny", "canny"))
    ),
    "control.hints ('unet',) must differ from each other and from": dict(
        control=dict(hints=("unet",))
    ),
    "control.hints (1,) must hold nothing but texts": dict(control=dict(hints=(1,))),
    "sample.branches (3, 4) must hold nothing but texts": dict(
        sample=dict(branches=(3, 4))
    ),
    "sample.hint_strengths ('a', 'b') must hold nothing but numbers": dict(
        sample=dict(hint_strengths=("a", "b"))
    ),
    "sample.hint_strengths (1.0,) must be empty or have one entry for each of control.h"
    "ints ('canny', 'depth')": dict(sample=dict(hint_strengths=(1.0,))),
    "sample.branches ('a', 'b', 'c') must be empty or have one": dict(
        sample=dict(branches=("a", "b", "c"))
    ),
    "data.latents 'kept' must be '': control.hints ('canny', 'depth') are of": dict(
        data=dict(latents="kept"),
        first_stage=dict(
            kind="kl", mult=(1, 2), attention=(0, 0), z_channels=3, embed_channels=3
        ),
    ),
    "control.channels () must be widths of as many levels": dict(
        control=dict(channels=())
    ),
    "control.channels (4, 0) must be widths": dict(control=dict(channels=(4, 0))),
    "control.channels (4, 8) must be widths of as many levels as make a hint the first "
    "stage's factor 4 smaller": dict(
        first_stage=dict(kind="kl", mult=(1, 2, 4), attention=(0, 0, 0)),
    ),
    "control.connections 'one' must be 'zero' or 'gaussian'": dict(
        control=dict(connections="one")
    ),
    "sample.hint_weighting 'odd' must be 'even', 'guess' or": dict(
        sample=dict(hint_weighting="odd")
    ),
    "sample.guide 'weak.safetensors' leads away from no null": dict(
        sample=dict(hint_weighting="guess", guide="weak.safetensors")
    ),
    "control.channels is (1.5,) (tuple), it must be of type tuple, like": dict(
        control=dict(channels=(1.5,))
    ),
    "train.frozen_dtype 'bfloat16' must be 'float32', or 'bfloat16' for what train.init"
    " brings": dict(train=dict(frozen_dtype="bfloat16")),
    "train.frozen_dtype 'float16' must be": dict(
        train=dict(frozen_dtype="float16", init="base.safetensors")
    ),
}
ALONE = {  # of one without, which has nobody who hears
    "control.channels": (4, 8),
    "control.connections": "gaussian",
    "control.lite": True,
    "control.only_mid": True,
    "sample.branches": ("a",),
    "sample.hint_strengths": (1.0,),
    "sample.hint_weighting": "guess",
}


@pytest.mark.parametrize("words", WITH)
def test_what_cannot_work_is_refused(words):
    with pytest.raises((ValueError, TypeError)) as caught:
        config_of(**WITH[words])
    assert words in str(caught.value)


@pytest.mark.parametrize("key", ALONE)
def test_what_does_nothing_without_hints_is_refused(key):
    c = helpers.tiny_config()
    section, name = key.split(".")
    c[section][name] = ALONE[key]
    with pytest.raises(ValueError) as caught:
        config.check(c)
    assert str(caught.value).startswith(f"{key} {ALONE[key]!r} does nothing where cont")


def test_what_may_be_is_taken():
    held = dict(frozen_dtype="bfloat16", init="base.safetensors")
    c = config_of(
        train=held,
        control=dict(channels=(4,), connections="gaussian", lite=True, only_mid=True),
        sample=dict(branches=("a", "b"), hint_strengths=(1, 0.5)),
    )
    halves = knobs.of(c)["hints"]
    assert list(halves) == ["canny", "depth"]
    np.testing.assert_array_equal(halves["depth"]["told"], [0, 0, 0, 0, 0.5])


def test_an_unknown_hint_and_one_that_no_example_has_are_named():
    with pytest.raises(ValueError, match="'cany' is not one of .* did you mean 'canny"):
        inputs.check(config_of(("cany",)))
    c = config_of(("pose",), **ALL_ALIKE)
    prepare = inputs.prepare(c)
    words = "control.hints 'pose' is made of joints, image, and an example has no joint"
    with pytest.raises(ValueError, match=words):
        prepare({"image": np.zeros((8, 8, 3), np.uint8)})
