"""What control branches add at the seam and in a System, and how loud they are."""

from controlled import (
    ALL_ALIKE,
    BATCH,
    CONNECTIONS,
    SIDE,
    Z_T,
    T,
    asker,
    assert_same,
    batch_of,
    config_of,
    fresh,
    params_of,
    rigged,
    without,
)
import jax
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
    system,
)
from ldm_jax.data import hints as hints_lib


@pytest.fixture(scope="module")
def c():
    return config_of()


@pytest.fixture(scope="module")
def rig(c):
    return rigged(c)


@pytest.fixture(scope="module")
def ask(rig):
    return asker(rig[0])


@pytest.fixture(scope="module")
def draw(rig):
    return jax.jit(rig[0].draw)


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
