import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax import denoise as dn
from ldm_jax import guidance
from ldm_jax import schedule as schedule_lib

SHAPE = (3, 4, 4, 2)
ORDINARY = schedule_lib.linear(1000, 0.0015, 0.0195)
TERMINAL = schedule_lib.linear(1000, 0.0015, 0.0195, zero_terminal=True)
SCHEDULES = {"ordinary": ORDINARY, "zero terminal": TERMINAL}
T = jnp.array([0.0, 310.5, 999.0])
PLAIN = {"apg_radius": 0.0, "apg_parallel": 1.0}  # with which apg is cfg


def draw(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


def said(schedule, seed, z_t, t):
    """What a network that says some v makes of z_t."""
    v = draw(seed, *z_t.shape) + 0.3
    return dn.Pred(*schedule_lib.solve(schedule, "v", v, z_t, t))


def rig(schedule):
    """told, untold, z_t, t"""
    z_t = draw(0, *SHAPE)
    return said(schedule, 1, z_t, T), said(schedule, 2, z_t, T), z_t, T


@functools.partial(jax.jit, static_argnums=(0, 1))
def guided(name, schedule, preds, weight, knobs=PLAIN, share=None):
    rule = guidance.RULES[name](schedule, knobs)
    if share is not None:
        rule = guidance.with_rescale(rule, schedule, share)
    return rule(*preds, jnp.broadcast_to(jnp.asarray(weight, jnp.float32), 3))


def toy(schedule):
    """A denoise without a network, in which everything told has a part."""

    def denoise(params, z_t, t, cond, rng=None):
        told = cond.vector * params["unet"] + t[:, None] / 1000
        v = jnp.tanh(z_t[..., ::-1] * 0.7 + told[:, None, None])
        return dn.Pred(*schedule_lib.solve(schedule, "v", v, z_t, t))

    return denoise


PARAMS = {"unet": jnp.array([0.5, -1.5]), "weak": jnp.array([0.2, -1.0])}
COND = dn.Cond(vector=jnp.array([[1.0, 2.0], [-1.0, 0.5], [0.3, 1.2]]))
NULL = jax.tree.map(jnp.zeros_like, COND)


def constant(scale):
    return guidance.weight_at(guidance.weights(ORDINARY, "constant", (0, 1)), scale)


def assert_close(a, b, tolerance=1e-5):
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=tolerance, atol=tolerance),
        a,
        b,
    )


def assert_same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def assert_consistent(pred, schedule, z_t, t):
    """(*): both fields make up z_t."""
    again = schedule_lib.add_noise(schedule, pred.z_0, pred.eps, t)
    np.testing.assert_allclose(again, z_t, atol=1e-5)
    assert np.isfinite(pred.z_0).all() and np.isfinite(pred.eps).all()


def inner(a, b):
    return np.sum(np.asarray(a, np.float64) * b, axis=(1, 2, 3))


def v_of(pred, schedule, t=T):
    signal = np.sqrt(np.interp(t, np.arange(1000), schedule.alpha_bar))
    noise = np.sqrt(1 - signal**2)
    signal, noise = (x[:, None, None, None] for x in (signal, noise))
    return signal * np.asarray(pred.eps) - noise * np.asarray(pred.z_0)


def spread(x):
    return np.std(x, axis=(1, 2, 3))


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
@pytest.mark.parametrize("share", [None, 0.0, 0.7])
@pytest.mark.parametrize("name", ["cfg", "apg"])
def test_both_fields_make_up_z_t(name, share, schedule):
    preds = rig(schedule)
    knobs = {"apg_radius": 3.0, "apg_parallel": 0.2}
    pred = guided(name, schedule, preds, [0.0, 3.0, 9.0], knobs, share)
    assert_consistent(pred, schedule, *preds[2:])
    assert np.abs(pred.z_0 - preds[0].z_0).min(axis=(1, 2, 3)).max() > 1e-3


@pytest.mark.parametrize("share", [None, 0.0])
@pytest.mark.parametrize("name", ["cfg", "apg"])
def test_a_weight_of_one_is_the_told_prediction_to_the_bit(name, share):
    preds = rig(ORDINARY)
    knobs = {"apg_radius": 3.0, "apg_parallel": 0.2}
    assert_same(guided(name, ORDINARY, preds, 1.0, knobs, share), preds[0])


def test_cfg_mixes_with_a_weight_for_each_picture():
    told, untold, *_ = preds = rig(ORDINARY)
    pred = guided("cfg", ORDINARY, preds, [0.0, 1.0, 4.0])
    for i, weight in enumerate([0, 1, 4]):
        mixed = jax.tree.map(
            lambda u, c, i=i, w=weight: u[i] + w * (c[i] - u[i]), untold, told
        )
        assert_close(jax.tree.map(lambda x, i=i: x[i], pred), mixed)


def test_cfg_pp_guides_z_0_and_renoises_by_the_untold_eps():
    preds = rig(ORDINARY)
    pred, plain = (
        guided(n, ORDINARY, preds, [0.2, 0.6, 1.0]) for n in ("cfg_pp", "cfg")
    )
    assert_same(pred, dn.Pred(plain.z_0, preds[1].eps))


def test_apg_without_a_limit_and_with_all_of_the_parallel_part_is_cfg():
    for schedule in SCHEDULES.values():
        preds = rig(schedule)
        apg, plain = (
            guided(n, schedule, preds, [0.0, 2.0, 5.0]) for n in ("apg", "cfg")
        )
        assert_close(apg, plain, 1e-4)


def test_apg_without_the_parallel_part_moves_at_a_right_angle():
    told, *_ = preds = rig(ORDINARY)
    pred = guided("apg", ORDINARY, preds, 5.0, PLAIN | {"apg_parallel": 0.0})
    update = np.asarray(pred.z_0) - told.z_0
    sizes = np.sqrt(inner(update, update) * inner(told.z_0, told.z_0))
    assert (np.abs(inner(update, told.z_0)) < 1e-5 * sizes).all()
    # What it leaves out lies along told.z_0.
    rest = np.asarray(guided("cfg", ORDINARY, preds, 5.0).z_0) - pred.z_0
    cosine = inner(rest, told.z_0) / np.sqrt(
        inner(rest, rest) * inner(told.z_0, told.z_0)
    )
    np.testing.assert_allclose(np.abs(cosine), 1, atol=1e-4)


def test_apg_multiplies_the_parallel_part():
    preds = rig(ORDINARY)
    none, half, all_of_it = (
        guided("apg", ORDINARY, preds, 3.0, PLAIN | {"apg_parallel": p}).z_0
        for p in (0.0, 0.5, 1.0)
    )
    np.testing.assert_allclose(half, (none + all_of_it) / 2, atol=1e-5)
    assert np.abs(none - all_of_it).max() > 1e-2


def test_apg_limits_the_norm_of_the_difference_and_keeps_its_direction():
    told, untold, *_ = preds = rig(ORDINARY)
    difference = np.asarray(told.z_0) - untold.z_0
    norm = np.sqrt(inner(difference, difference))
    radius = float(np.median(norm))
    pred = guided("apg", ORDINARY, preds, 3.0, PLAIN | {"apg_radius": radius})
    share = np.minimum(1, radius / norm)
    assert share.min() < 0.99 and (share == 1).any()
    expected = told.z_0 + 2 * share[:, None, None, None] * difference
    np.testing.assert_allclose(pred.z_0, expected, atol=1e-5)


def test_apg_of_equal_predictions_and_of_nothing_is_finite():
    told, untold, z_t, t = rig(TERMINAL)
    for radius in (0.0, 2.0):
        knobs = {"apg_radius": radius, "apg_parallel": 0.0}
        assert_same(guided("apg", TERMINAL, (told, told, z_t, t), 5.0, knobs), told)
        blank = told.replace(z_0=jnp.zeros(SHAPE))
        pred = guided("apg", TERMINAL, (blank, untold, z_t, t), 5.0, knobs)
        assert np.isfinite(pred.z_0).all() and np.isfinite(pred.eps).all()


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
def test_rescaling_is_that_of_the_paper(schedule):
    told, *_ = preds = rig(schedule)
    plain = guided("cfg", schedule, preds, 6.0)
    pred = guided("cfg", schedule, preds, 6.0, share=jnp.array([0.3, 0.7, 1.0]))
    v_told, v_plain = v_of(told, schedule), v_of(plain, schedule)
    ratio = (spread(v_told) / spread(v_plain))[:, None, None, None]
    share = np.array([0.3, 0.7, 1.0])[:, None, None, None]
    assert np.abs(ratio - 1).min() > 0.1
    v = share * (v_plain * ratio) + (1 - share) * v_plain  # eq. 15 and 16
    np.testing.assert_allclose(v_of(pred, schedule), v, atol=2e-5)
    expected = dn.Pred(*schedule_lib.solve(schedule, "v", jnp.asarray(v), preds[2], T))
    assert_close(pred, expected, 2e-5)


@pytest.mark.parametrize("name", guidance.RULES)
def test_a_share_of_nothing_changes_nothing(name):
    preds = rig(TERMINAL)
    plain = guided(name, TERMINAL, preds, 6.0)
    assert_close(guided(name, TERMINAL, preds, 6.0, share=0.0), plain, 1e-6)


def test_a_share_of_one_has_the_contrast_of_told():
    told, *_ = preds = rig(TERMINAL)
    pred = guided("cfg", TERMINAL, preds, 6.0, share=1.0)
    wanted = spread(v_of(told, TERMINAL))
    np.testing.assert_allclose(spread(v_of(pred, TERMINAL)), wanted, rtol=1e-5)


def test_rescaling_the_silence_of_a_fresh_network_is_finite():
    z_t, t = draw(0, *SHAPE), jnp.full(3, 999.0)
    v = jnp.zeros(SHAPE)
    silent = dn.Pred(*schedule_lib.solve(TERMINAL, "v", v, z_t, t))
    pred = guided("cfg", TERMINAL, (silent, silent, z_t, t), 6.0, share=0.7)
    assert_close(pred, silent, 1e-6)


def test_a_scale_of_one_is_the_plain_denoiser_to_the_bit():
    denoise, z_t = toy(ORDINARY), draw(0, *SHAPE)
    plain = denoise(PARAMS, z_t, T, COND)
    for shape in guidance.SHAPES:
        table = guidance.weights(ORDINARY, shape, (0.1, 0.8))
        weight = guidance.weight_at(table, jnp.float32(1.0))
        found = guidance.with_cfg(denoise, NULL, guidance.cfg, weight)
        assert_same(found(PARAMS, z_t, T, COND), plain)


def test_a_scale_of_zero_is_the_denoiser_that_is_told_null():
    denoise, z_t = toy(ORDINARY), draw(0, *SHAPE)
    found = guidance.with_cfg(denoise, NULL, guidance.cfg, constant(0.0))
    assert_same(found(PARAMS, z_t, T, COND), denoise(PARAMS, z_t, T, NULL))
    swapped = guidance.with_cfg(denoise, COND, guidance.cfg, constant(1.0))
    assert_same(found(PARAMS, z_t, T, COND), swapped(PARAMS, z_t, T, NULL))


def test_guidance_outside_of_its_interval_is_the_plain_denoiser():
    denoise, z_t = toy(ORDINARY), draw(0, *SHAPE)
    weight = guidance.weight_at(guidance.weights(ORDINARY, "cosine", (0.2, 0.5)), 7.0)
    found = guidance.with_cfg(denoise, NULL, guidance.cfg, weight)(PARAMS, z_t, T, COND)
    plain = denoise(PARAMS, z_t, T, COND)
    same = (np.asarray(found.eps) == plain.eps).all(axis=(1, 2, 3))
    np.testing.assert_array_equal(same, [True, False, True])


def test_guidance_is_one_call_with_the_null_half_first():
    calls = []

    def spy(params, z_t, t, cond, rng=None):
        calls.append((z_t, t, cond.vector, rng))
        return dn.Pred(z_t, z_t)

    z_t = draw(0, *SHAPE)
    rule = lambda told, untold, z_t, t, weight: weight
    found = guidance.with_cfg(spy, NULL, rule, constant(jnp.array([2.0, 3.0, 4.0])))
    np.testing.assert_allclose(found(PARAMS, z_t, T, COND, "rng"), [2, 3, 4])
    ((both, t, vector, rng),) = calls
    np.testing.assert_array_equal(both, jnp.concatenate([z_t, z_t]))
    np.testing.assert_array_equal(t, jnp.concatenate([T, T]))
    np.testing.assert_array_equal(vector, jnp.concatenate([NULL.vector, COND.vector]))
    assert rng == "rng"


def test_a_null_of_another_shape_is_refused_by_name():
    found = guidance.with_cfg(toy(ORDINARY), dn.Cond(), guidance.cfg, constant(2.0))
    with pytest.raises(ValueError, match=r"null\.vector must be shaped"):
        found(PARAMS, draw(0, *SHAPE), T, COND)


def test_a_model_guided_by_itself_is_unchanged():
    denoise, z_t = toy(ORDINARY), draw(0, *SHAPE)
    found = guidance.with_guide(denoise, denoise, guidance.cfg, constant(5.0))
    plain = denoise(PARAMS, z_t, T, COND)
    assert_close(found(PARAMS, z_t, T, COND), plain, 2e-6)


def test_a_role_takes_the_place_of_the_unet_and_of_nothing_else():
    spy = lambda params, z_t, t, cond, rng=None: (params, rng)
    params, rng = guidance.of_role(spy, "weak")(PARAMS, None, T, COND, "rng")
    assert_same(params, {"unet": PARAMS["weak"], "weak": PARAMS["weak"]})
    assert rng == "rng"


def test_a_weaker_model_is_guided_away_from_under_the_same_condition():
    denoise, z_t = toy(ORDINARY), draw(0, *SHAPE)
    weak = guidance.of_role(denoise, "weak")
    strong = denoise(PARAMS, z_t, T, COND)
    weaker = denoise({"unet": PARAMS["weak"]}, z_t, T, COND)
    assert_same(weak(PARAMS, z_t, T, COND), weaker)
    found = guidance.with_guide(denoise, weak, guidance.cfg, constant(3.0))
    expected = jax.tree.map(lambda s, w: w + 3 * (s - w), strong, weaker)
    assert_close(found(PARAMS, z_t, T, COND), expected)
    assert np.abs(expected.z_0 - strong.z_0).max() > 1e-2


@pytest.mark.parametrize("shape", guidance.SHAPES)
def test_every_shape_spends_as_much_guidance(shape):
    table = guidance.weights(ORDINARY, shape, (0.0, 1.0))
    assert table.shape == (1000,) and table.dtype == np.float32
    np.testing.assert_allclose(table.mean(dtype=np.float64), 1, atol=1e-6)
    ends = {"constant": (1, 1), "linear": (2, 0), "cosine": (2, 0)}[shape]
    np.testing.assert_allclose(table[[0, -1]], ends, atol=1e-7)
    assert (np.diff(table) <= 0).all()


def test_the_shapes_are_those_of_the_paper():
    u = 250 / 999
    linear, cosine = (
        guidance.weights(ORDINARY, shape, (0.0, 1.0))[250]
        for shape in ("linear", "cosine")
    )
    np.testing.assert_allclose(
        [linear, cosine], [2 - 2 * u, 1 + np.cos(np.pi * u)], 1e-6
    )


@pytest.mark.parametrize("shape", guidance.SHAPES)
def test_nothing_is_due_outside_of_the_interval(shape):
    schedule = schedule_lib.linear(101, 0.0015, 0.0195)
    whole, part = (guidance.weights(schedule, shape, i) for i in ((0, 1), (0.2, 0.7)))
    np.testing.assert_array_equal(part[20:71], whole[20:71])
    assert part[20:71].min() > 0 and not part[:20].any() and not part[71:].any()


@pytest.mark.parametrize(
    "interval", [(-0.1, 0.5), (0.5, 0.5), (0.6, 0.5), (0.5, 1.1), (0.0, float("nan"))]
)
def test_an_interval_outside_of_the_range_is_refused(interval):
    with pytest.raises(ValueError, match=r"0 <= low < high <= 1"):
        guidance.weights(ORDINARY, "constant", interval)


def test_an_unknown_shape_is_refused():
    with pytest.raises(ValueError, match="did you mean 'cosine'"):
        guidance.weights(ORDINARY, "cosin", (0, 1))


def test_the_weight_is_interpolated_and_clamped():
    table = np.array([2.0, 1.0, 0.0], np.float32)
    t = jnp.array([-1.0, 0.0, 0.25, 1.0, 2.0, 5.0])
    due = np.array([2, 2, 1.75, 1, 0, 0])
    np.testing.assert_allclose(guidance.weight_at(table, 5.0)(t), 1 + 4 * due)
    scale = jnp.arange(6.0)
    found = guidance.weight_at(table, scale)(t)
    np.testing.assert_allclose(found, 1 + (np.arange(6) - 1) * due)
    assert found.dtype == jnp.float32


@functools.partial(jax.jit, static_argnums=0)
def thresholded(schedule, pred, z_t, quantile):
    inside = lambda params, z_t, t, cond, rng=None: pred
    return guidance.with_threshold(inside, schedule, quantile)(None, z_t, T, None)


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
def test_thresholding_is_that_of_the_paper(schedule):
    told, _, z_t, _ = rig(schedule)
    # Of these pictures the first is within [-1, 1], and two are not.
    sizes = np.array([0.9, 2.0, 7.0]) / np.abs(told.z_0).max(axis=(1, 2, 3))
    told = guidance.moved(told, schedule, told.z_0 * sizes[:, None, None, None], T)
    pred = thresholded(schedule, told, z_t, 0.8)
    for i in range(3):
        z_0 = np.asarray(told.z_0[i], np.float64)
        s = max(1.0, np.quantile(np.abs(z_0), 0.8))
        np.testing.assert_allclose(pred.z_0[i], np.clip(z_0, -s, s) / s, atol=1e-6)
    assert np.abs(pred.z_0).max() <= 1
    assert_same(*(jax.tree.map(lambda x: x[0], p) for p in (pred, told)))
    assert_consistent(pred, schedule, z_t, T)


def test_the_quantile_decides_how_much_is_clipped():
    told, _, z_t, _ = rig(ORDINARY)
    told = guidance.moved(told, ORDINARY, told.z_0 * 5, T)
    whole = thresholded(ORDINARY, told, z_t, 1.0).z_0
    largest = np.abs(told.z_0).max(axis=(1, 2, 3), keepdims=True)
    np.testing.assert_allclose(whole, told.z_0 / largest, atol=1e-6)
    clipped = np.abs(thresholded(ORDINARY, told, z_t, 0.5).z_0) == 1
    np.testing.assert_allclose(clipped.mean(axis=(1, 2, 3)), 0.5)


@pytest.mark.parametrize("name", guidance.RULES)
def test_other_numbers_compile_nothing(name):
    traces, z_t = [], draw(0, *SHAPE)
    table = guidance.weights(TERMINAL, "cosine", (0.1, 0.9))

    @jax.jit
    def z_0(scale, share, quantile, knobs):
        traces.append(scale)
        rule = guidance.RULES[name](TERMINAL, knobs)
        rule = guidance.with_rescale(rule, TERMINAL, share)
        weight = guidance.weight_at(table, scale)
        denoise = guidance.with_cfg(toy(TERMINAL), NULL, rule, weight)
        denoise = guidance.with_threshold(denoise, TERMINAL, quantile)
        return denoise(PARAMS, z_t, T, COND).z_0

    knobs = {"apg_radius": 3.0, "apg_parallel": 0.2}
    start = [5.0, 0.5, 0.9, knobs]
    changes = [(0, 9.0), (1, 0.1), (2, 0.7)]
    if name == "apg":
        changes += [
            (3, knobs | {"apg_radius": 0.5}),
            (3, knobs | {"apg_parallel": 1.0}),
        ]
    first = z_0(*start)
    for place, number in changes:
        other = z_0(*start[:place], number, *start[place + 1 :])
        assert np.abs(other - first).max() > 1e-3, (place, number)
    assert len(traces) == 1
