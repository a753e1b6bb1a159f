import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax import denoise as dn
from ldm_jax import guidance
from ldm_jax import schedule as schedule_lib

SHAPE = (3, 4, 4, 2)
KINDS = ["eps", "v", "z_0"]


class Toy(nn.Module):
    """Mixes everything that a UNet is told into its output, position by position."""

    @nn.compact
    def __call__(self, z, t, context, vector, residuals, train):
        told = nn.Dense(4, name="t")(t[:, None] / 1000)
        if context is not None:
            told += nn.Dense(4, name="context")(context.mean(axis=1))
        if vector is not None:
            told += nn.Dense(4, name="vector")(vector)
        h = nn.tanh(nn.Dense(4, name="z")(z) + told[:, None, None])
        if residuals is not None:
            h += residuals[0]
        h = nn.Dropout(0.5, deterministic=not train)(h)
        return nn.Dense(2, name="out")(h)


def draw(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


def make_params(cond):
    z = draw(0, *SHAPE)
    z = z if cond.concat is None else jnp.concatenate([z, cond.concat], axis=-1)
    arguments = z, jnp.ones(3), cond.context, cond.vector, cond.residuals, False
    return {"unet": Toy().init(jax.random.key(1), *arguments)["params"]}


@pytest.fixture(scope="module")
def schedule():
    return schedule_lib.linear(1000, 0.0015, 0.0195)


@pytest.fixture(scope="module")
def rig(schedule):
    """A denoise, its parameters, z_t, t, and conditions told and untold."""
    cond = dn.Cond(context=draw(2, 3, 5, 6), vector=draw(3, 3, 7))
    null = jax.tree.map(jnp.zeros_like, cond)
    z_t, t = draw(4, *SHAPE), jnp.array([3.0, 310.5, 800.0])
    return jax.jit(dn.from_unet(Toy(), schedule)), make_params(cond), z_t, t, cond, null


def cfg(denoise, scale, null):
    """Plain guidance by one scale at all t, a number or [B]."""
    weight = functools.partial(jnp.full_like, fill_value=scale)
    return guidance.with_cfg(denoise, null, guidance.cfg, weight)


def assert_close(a, b, tolerance=1e-5):
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=tolerance, atol=tolerance),
        a,
        b,
    )


@pytest.mark.parametrize("kind", KINDS)
def test_both_fields_make_up_z_t(rig, schedule, kind):
    _, params, z_t, t, cond, _ = rig
    pred = dn.from_unet(Toy(), schedule, predicts=kind)(params, z_t, t, cond)
    again = schedule_lib.add_noise(schedule, pred.z_0, pred.eps, t)
    np.testing.assert_allclose(again, z_t, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_the_predicted_field_is_the_networks_output(rig, schedule, kind):
    _, params, z_t, t, cond, _ = rig
    pred = dn.from_unet(Toy(), schedule, predicts=kind)(params, z_t, t, cond)
    output = Toy().apply(
        {"params": params["unet"]}, z_t, t, cond.context, cond.vector, None, False
    )
    found = schedule_lib.target(schedule, kind, pred.z_0, pred.eps, t)
    np.testing.assert_allclose(found, output, atol=1e-5)


def test_every_port_reaches_the_network(schedule):
    full = dn.Cond(
        context=draw(2, 3, 5, 6),
        vector=draw(3, 3, 7),
        concat=draw(5, 3, 4, 4, 1),
        residuals=[draw(6, 3, 4, 4, 4)],
    )
    denoise, params = dn.from_unet(Toy(), schedule), make_params(full)
    z_t, t = draw(4, *SHAPE), jnp.full(3, 500.0)
    plain = denoise(params, z_t, t, full).eps
    for port in ("context", "vector", "concat", "residuals"):
        changed = jax.tree.map(lambda x: x + 1, getattr(full, port))
        other = denoise(params, z_t, t, full.replace(**{port: changed})).eps
        assert np.abs(other - plain).max() > 1e-3, port


def test_an_rng_switches_dropout_on(rig):
    denoise, params, z_t, t, cond, _ = rig
    still = denoise(params, z_t, t, cond)
    a, again, b = (
        denoise(params, z_t, t, cond, jax.random.key(i)).eps for i in (0, 0, 1)
    )
    np.testing.assert_array_equal(a, again)
    assert np.abs(a - b).max() > 1e-3
    assert np.abs(a - still.eps).max() > 1e-3


@pytest.mark.parametrize("kind", ["v", "z_0"])
def test_no_nan_where_no_signal_is_left(rig, kind):
    _, params, z_t, _, cond, null = rig
    schedule = schedule_lib.from_betas([0.1, 0.5, 1.0])
    guided = cfg(dn.from_unet(Toy(), schedule, kind), 3.0, null)
    pred = guided(params, z_t, jnp.full(3, 2.0), cond)
    np.testing.assert_allclose(pred.eps, z_t, atol=1e-5)
    assert np.isfinite(pred.z_0).all() and np.abs(pred.z_0).max() < 100


def test_eps_is_refused_where_no_signal_is_left():
    with pytest.raises(ValueError, match="does not determine z_0"):
        dn.from_unet(Toy(), schedule_lib.from_betas([0.1, 1.0]), "eps")


def test_predictions_are_float32(rig):
    denoise, params, z_t, t, cond, _ = rig
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), params)
    pred = denoise(half, z_t.astype(jnp.bfloat16), t, cond)
    assert pred.z_0.dtype == pred.eps.dtype == jnp.float32


def test_guidance_of_one_is_the_plain_denoiser(rig):
    denoise, params, z_t, t, cond, null = rig
    guided = cfg(denoise, 1.0, null)
    assert_close(guided(params, z_t, t, cond), denoise(params, z_t, t, cond))


def test_guidance_of_zero_is_the_unconditional_denoiser(rig):
    denoise, params, z_t, t, cond, null = rig
    guided = cfg(denoise, 0.0, null)
    assert_close(guided(params, z_t, t, cond), denoise(params, z_t, t, null))


def test_guidance_is_linear_in_both_fields_and_keeps_them_consistent(rig, schedule):
    denoise, params, z_t, t, cond, null = rig
    told, untold = (denoise(params, z_t, t, c) for c in (cond, null))
    pred = cfg(denoise, 4.0, null)(params, z_t, t, cond)
    assert_close(pred, jax.tree.map(lambda u, c: u + 4 * (c - u), untold, told), 1e-4)
    z_0, _ = schedule_lib.solve(schedule, "eps", pred.eps, z_t, t)
    np.testing.assert_allclose(pred.z_0, z_0, rtol=1e-4, atol=1e-4)


def test_guidance_has_a_scale_for_each_picture(rig):
    denoise, params, z_t, t, cond, null = rig
    scales = jnp.array([0.0, 1.0, 5.0])
    pred = cfg(denoise, scales, null)(params, z_t, t, cond)
    for i, scale in enumerate(scales):
        alone = cfg(denoise, scale, null)(params, z_t, t, cond)
        np.testing.assert_allclose(pred.eps[i], alone.eps[i], atol=1e-5)


def test_guidance_is_one_call_with_the_null_half_first(rig):
    _, params, z_t, t, cond, null = rig
    calls = []

    def spy(params, z_t, t, cond, rng=None):
        calls.append(cond.vector)
        return dn.Pred(z_t, z_t)

    cfg(spy, 2.0, null)(params, z_t, t, cond)
    (vector,) = calls
    np.testing.assert_array_equal(vector, jnp.concatenate([null.vector, cond.vector]))


def test_a_new_scale_compiles_nothing(rig):
    denoise, params, z_t, t, cond, null = rig
    traces = []

    @jax.jit
    def eps(scale):
        traces.append(scale)
        return cfg(denoise, scale, null)(params, z_t, t, cond).eps

    assert np.abs(eps(1.0) - eps(7.5)).max() > 1e-3
    assert len(traces) == 1


@pytest.mark.parametrize(
    "change, port",
    [
        ({"vector": None}, "vector"),
        ({"context": jnp.zeros((3, 4, 6))}, "context"),
        ({"hints": {"canny": jnp.zeros((3, 8, 8, 3))}}, "hints"),
    ],
)
def test_a_null_of_another_shape_is_refused_by_name(rig, change, port):
    denoise, params, z_t, t, cond, null = rig
    with pytest.raises(ValueError, match=rf"null\.{port} must be shaped"):
        cfg(denoise, 2.0, null.replace(**change))(params, z_t, t, cond)
