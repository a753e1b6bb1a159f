import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax import names
from ldm_jax import schedule as schedule_lib

KINDS = ["eps", "v", "z_0"]


def latents(seed, shape=(3, 4, 4, 2)):
    return jax.random.normal(jax.random.key(seed), shape)


@pytest.fixture(scope="module")
def schedule():
    return schedule_lib.linear(1000, 0.0015, 0.0195)


def zero_terminal():
    return schedule_lib.from_betas([0.1, 0.4, 0.7, 1.0])


@pytest.mark.parametrize(
    "start, end, first, last",
    [
        (0.0015, 0.0195, "0.99850", "1.4230e-04"),
        (0.0015, 0.0205, "0.99850", "9.6911e-05"),
        (0.0015, 0.0155, "0.99850", "6.6867e-04"),
        (0.0015, 0.015, "0.99850", "8.1252e-04"),
        (0.00085, 0.012, "0.99915", "4.6601e-03"),
    ],
)
def test_the_released_models_tables(start, end, first, last):
    schedule = schedule_lib.linear(1000, start, end)
    assert schedule.alpha_bar.dtype == np.float64
    assert f"{schedule.alpha_bar[0]:.5f}" == first
    assert f"{schedule.alpha_bar[999]:.4e}" == last


@pytest.mark.parametrize("betas", [[0.1], [0.0, 0.1], [0.5, 1.1], [0.1, np.nan]])
def test_betas_that_make_no_schedule_are_refused(betas):
    with pytest.raises(ValueError, match="betas"):
        schedule_lib.from_betas(betas)


def test_alpha_bar_is_the_table_at_integers_to_the_bit(schedule):
    t = jnp.arange(1000, dtype=jnp.float32)
    found = jax.jit(lambda t: schedule_lib.alpha_bar_at(schedule, t))(t)
    np.testing.assert_array_equal(found, schedule.alpha_bar.astype(np.float32))


def test_alpha_bar_between_and_beyond_the_integers(schedule):
    table = schedule.alpha_bar
    found = schedule_lib.alpha_bar_at(schedule, jnp.array([10.75, 998.5, -3, 2000]))
    wanted = [
        0.25 * table[10] + 0.75 * table[11],
        (table[998] + table[999]) / 2,
        table[0],
        table[999],
    ]
    np.testing.assert_allclose(found, wanted, rtol=1e-6)
    coarse = schedule_lib.from_betas([0.5, 0.5, 0.5])
    np.testing.assert_allclose(schedule_lib.alpha_bar_at(coarse, 0.75), 0.3125)


def test_added_noise_has_the_schedules_shares(schedule):
    t = jnp.array([0.0, 500.0, 999.0])
    signal = schedule_lib.add_noise(schedule, jnp.ones((3, 2, 2, 1)), 0.0, t)
    noise = schedule_lib.add_noise(
        schedule, jnp.zeros((3, 2, 2, 1)), jnp.ones((3, 2, 2, 1)), t
    )
    shares = schedule.alpha_bar[[0, 500, 999]]
    np.testing.assert_allclose(signal[:, 0, 0, 0] ** 2, shares, rtol=1e-5)
    np.testing.assert_allclose(noise[:, 1, 1, 0] ** 2, 1 - shares, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_a_right_prediction_gives_back_what_was_mixed(schedule, kind):
    z_0, eps, t = latents(0), latents(1), jnp.array([20.0, 310.5, 700.0])

    @jax.jit
    def round_trip(z_0, eps):
        z_t = schedule_lib.add_noise(schedule, z_0, eps, t)
        output = schedule_lib.target(schedule, kind, z_0, eps, t)
        return schedule_lib.solve(schedule, kind, output, z_t, t)

    for found, wanted in zip(round_trip(z_0, eps), (z_0, eps), strict=True):
        np.testing.assert_allclose(found, wanted, atol=2e-5)


def test_v_is_the_derivative_along_the_angle():
    """With z_t = cos(a) z_0 + sin(a) eps, v = d z_t / d a."""
    schedule = schedule_lib.from_betas([0.3, 0.3])
    z_0, eps, t = 0.8, -0.4, jnp.zeros(1)
    angle = np.arccos(np.sqrt(0.7))
    wanted = -np.sin(angle) * z_0 + np.cos(angle) * eps
    ones = jnp.ones((1, 1, 1, 1))
    v = schedule_lib.target(schedule, "v", z_0 * ones, eps * ones, t)
    np.testing.assert_allclose(v, wanted * ones, rtol=1e-6)


@pytest.mark.parametrize("kind", ["v", "z_0"])
def test_zero_terminal_snr_is_solved_without_nan(kind):
    schedule = zero_terminal()
    z_0, eps, t = latents(0), latents(1), jnp.full(3, 3.0)
    z_t = schedule_lib.add_noise(schedule, z_0, eps, t)
    np.testing.assert_array_equal(z_t, eps)
    output = schedule_lib.target(schedule, kind, z_0, eps, t)
    for found, wanted in zip(
        schedule_lib.solve(schedule, kind, output, z_t, t), (z_0, eps), strict=True
    ):
        np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_eps_alone_is_refused_at_zero_terminal_snr():
    with pytest.raises(ValueError, match="predict 'v' or 'z_0'"):
        schedule_lib.check_prediction(zero_terminal(), "eps")
    with pytest.raises(ValueError, match="alpha_bar = 0"):
        schedule_lib.lvlb_weights(zero_terminal())


def test_solving_is_float32_whatever_the_network_computes_in(schedule):
    z = latents(0).astype(jnp.bfloat16)
    z_0, eps = schedule_lib.solve(schedule, "v", z, z, jnp.ones(3))
    assert z_0.dtype == eps.dtype == jnp.float32


def test_posterior_variance_is_the_conditional_one(schedule):
    """var(z_prev | z_t, z_0) from the joint Gaussian of two steps."""
    before, beta = schedule.alpha_bar[99], schedule.betas[100]
    covariance = np.sqrt(1 - beta) * (1 - before)
    variance = (1 - before) - covariance**2 / (1 - schedule.alpha_bar[100])
    np.testing.assert_allclose(
        schedule_lib.posterior_variance(schedule)[100], variance, rtol=1e-9
    )
    assert schedule_lib.posterior_variance(schedule)[0] == 0
    np.testing.assert_array_equal(
        schedule_lib.posterior_variance(schedule, posterior=1.0), schedule.betas
    )


def test_lvlb_weights_are_those_of_the_kl_divergence(schedule):
    """The bound weighs errors of z_0 by half the drop of the signal-to-noise ratio;
    an error of eps is one of z_0 times the ratio's root."""
    snr = schedule.alpha_bar / (1 - schedule.alpha_bar)
    weights = schedule_lib.lvlb_weights(schedule)
    wanted = (snr[:-1] - snr[1:]) / 2 / snr[1:]
    np.testing.assert_allclose(weights[1:], wanted, rtol=1e-9)
    assert weights[0] == weights[1]


def test_an_unknown_name_is_refused_with_the_nearest():
    with pytest.raises(ValueError, match="'epss' is not one of .*did you mean 'eps'"):
        schedule_lib.check_prediction(zero_terminal(), "epss")
    assert names.pick({"a": 1}, "a") == 1
    with pytest.raises(ValueError, match="None is not one of a; did you mean 'a'"):
        names.pick({"a": 1}, None)


def test_the_last_step_loses_its_signal_and_the_first_keeps_it():
    plain = schedule_lib.linear(1000, 0.0015, 0.0195)
    ended = schedule_lib.linear(1000, 0.0015, 0.0195, zero_terminal=True)
    assert ended.alpha_bar[-1] == 0 and ended.betas[-1] == 1
    assert ended.alpha_bar[0] == pytest.approx(plain.alpha_bar[0], rel=1e-12)
    # Roots are moved along a line: three of them tell how.
    before, after = np.sqrt(plain.alpha_bar), np.sqrt(ended.alpha_bar)
    slope = (after[0] - after[700]) / (before[0] - before[700])
    wanted = after[0] - slope * (before[0] - before)
    np.testing.assert_allclose(after, wanted, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_min_snr_counts_an_error_of_z_0_by_the_clipped_ratio(schedule, kind):
    """An error e of z_0 is one of the output; squared and weighted: e^2 min(SNR, 5)."""
    t = jnp.array([0, 5, 200, 600, 999])
    z_0, eps = latents(0, (5, 2, 2, 1)), latents(1, (5, 2, 2, 1))
    z_t = schedule_lib.add_noise(schedule, z_0, eps, t)
    right = schedule_lib.target(schedule, kind, z_0, eps, t)
    moved = right + 0.1
    error = schedule_lib.solve(schedule, kind, moved, z_t, t)[0] - z_0
    weights = schedule_lib.min_snr(schedule, kind, 5.0, t)
    share = schedule.alpha_bar[np.asarray(t)]
    wanted = np.minimum(share / (1 - share), 5) * np.mean(error**2, axis=(1, 2, 3))
    np.testing.assert_allclose(0.1**2 * weights, wanted, rtol=2e-2)
