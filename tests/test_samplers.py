import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax import denoise as dn
from ldm_jax import draws, grids, names, samplers
from ldm_jax import schedule as schedule_lib

KNOBS = {"eta": 0.0, "posterior": 0.0}
ONE = (1, 1, 1)  # the smallest latent: one number
SMALL = (4, 4, 2)


@pytest.fixture(scope="module")
def schedule():
    return schedule_lib.linear(1000, 0.0015, 0.0195)


def keys_of(count, seed=0):
    return jax.vmap(jax.random.key)(jnp.arange(count) + 10_000 * seed)


def gaussian(schedule, mean, std):
    """The exact denoise for data from N(mean, std^2); std = 0 is a point mass."""

    def denoise(params, z_t, t, cond, rng=None):
        signal, noise = schedule_lib.signal_and_noise(schedule, t, z_t)
        variance = signal**2 * std**2 + noise**2
        surprise = (z_t - signal * mean) / variance
        return dn.Pred(mean + signal * std**2 * surprise, noise * surprise)

    return denoise


def sample(name, denoise, keys, start, grid, **knobs):
    """z_0 from z_T, or from initial noise where `start` is the shape of a latent."""

    @jax.jit
    def run(keys, knobs):
        drawn = isinstance(start, tuple)
        z_T = draws.initial_noise(keys, start) if drawn else start
        return samplers.SAMPLERS[name](denoise, {}, keys, z_T, dn.Cond(), grid, knobs)

    return np.asarray(run(keys, {**KNOBS, **knobs}))


def squash(schedule):
    """A denoise that is no exact one of anything, and has a shape to it."""

    def denoise(params, z_t, t, cond, rng=None):
        eps = jnp.tanh(z_t + t[:, None, None, None] / 1000)
        return dn.Pred(*schedule_lib.solve(schedule, "eps", eps, z_t, t))

    return denoise


def test_ldm_grid_is_the_releases(schedule):
    grid = grids.ldm(schedule, 50)
    t = np.arange(981, 0, -20)
    np.testing.assert_array_equal(grid.t, t)
    np.testing.assert_allclose(grid.alpha_bar, schedule.alpha_bar[t], rtol=1e-7)
    np.testing.assert_array_equal(grid.alpha_bar_prev[:-1], grid.alpha_bar[1:])
    np.testing.assert_allclose(
        grid.alpha_bar_prev[-1], schedule.alpha_bar[0], rtol=1e-7
    )
    assert grids.ldm(schedule, 200).t[0] == 996


def test_ldm_grid_takes_the_counts_that_work_in_the_release():
    assert grids.ldm_steps(1000) == (
        [1, 2, 4, 5, 8, 10, 20, 25, 40, 50, 100, 125, 200, 250, 500]
    )


@pytest.mark.parametrize(
    "steps, near",
    [(3, "1, 2, 4"), (300, "200, 250"), (400, "250, 500"), (600, "250, 500")],
)
def test_ldm_grid_refuses_other_counts_and_names_near_ones(schedule, steps, near):
    with pytest.raises(ValueError, match=f"{steps} steps of 1000.*{near}"):
        grids.ldm(schedule, steps)


@pytest.mark.parametrize("steps", [1, 7, 30, 50, 300, 400, 999, 1000])
def test_trailing_grid_has_any_count_and_both_ends(schedule, steps):
    grid = grids.trailing(schedule, steps)
    assert grid.t.shape == grid.alpha_bar.shape == grid.alpha_bar_prev.shape == (steps,)
    assert grid.t[0] == 999 and grid.alpha_bar_prev[-1] == 1
    assert (np.diff(grid.t) < 0).all()
    assert (np.asarray(grid.alpha_bar_prev) > np.asarray(grid.alpha_bar)).all()
    np.testing.assert_array_equal(
        grid.alpha_bar, schedule_lib.alpha_bar_at(schedule, grid.t)
    )


@pytest.mark.parametrize("steps", [0, -1, 1001])
def test_impossible_counts_are_refused(schedule, steps):
    with pytest.raises(ValueError, match="between 1 and 1000"):
        grids.trailing(schedule, steps)
    with pytest.raises(ValueError, match="the nearest are"):
        grids.ldm(schedule, steps)


def test_an_unknown_grid_or_sampler_is_named():
    with pytest.raises(ValueError, match="did you mean 'trailing'"):
        names.pick(grids.GRIDS, "trailling")
    with pytest.raises(ValueError, match="did you mean 'ddim'"):
        names.pick(samplers.SAMPLERS, "dimm")


@pytest.mark.parametrize("spacing", grids.GRIDS)
def test_ddim_walks_the_exact_path_to_a_point(schedule, spacing):
    """The path to a point mass is straight in (z_0, eps), so any grid is exact."""
    grid = grids.GRIDS[spacing](schedule, 10)
    point = jax.random.normal(jax.random.key(1), (2, 3, 3, 2))
    eps = jax.random.normal(jax.random.key(2), (2, 3, 3, 2))
    z_T = schedule_lib.add_noise(schedule, point, eps, jnp.full(2, grid.t[0]))
    end = float(grid.alpha_bar_prev[-1])
    found = sample("ddim", gaussian(schedule, point, 0.0), keys_of(2), z_T, grid)
    wanted = end**0.5 * point + (1 - end) ** 0.5 * eps
    np.testing.assert_allclose(found, wanted, atol=2e-5)


def test_ddim_converges_to_the_ode_of_gaussian_data():
    """On a schedule fine enough for thousands of steps, the error is of order 1/S."""
    schedule = schedule_lib.linear(16_000, 0.0015 / 16, 0.0195 / 16)
    mean, std = 0.7, 0.3
    z_T = jnp.linspace(-2, 2, 9).reshape(9, *ONE)
    signal = schedule.alpha_bar[-1] ** 0.5
    spread = (signal**2 * std**2 + 1 - signal**2) ** 0.5
    wanted = mean + std * (z_T - signal * mean) / spread
    errors = []
    for steps in (250, 1000, 4000):
        grid = grids.trailing(schedule, steps)
        found = sample("ddim", gaussian(schedule, mean, std), keys_of(9), z_T, grid)
        errors.append(np.abs(found - wanted).max())
    assert all(b < a / 3 for a, b in itertools.pairwise(errors)), errors
    assert errors[-1] < 0.01


def linear_gaussian(name, schedule, grid, mean, std, eta=0.0, posterior=0.0):
    """Mean and variance of z_0 by the algebra of each step, in float64.

    With the exact denoise of Gaussian data every step is z -> a z + b + sigma xi.
    The reverse step is written in eps, as DDPM's eq. 11 has it.
    """
    m, variance = 0.0, 1.0
    for t, prev in zip(np.asarray(grid.t, int), grid.alpha_bar_prev, strict=True):
        now, prev = schedule.alpha_bar[t], float(prev)
        total = now * std**2 + 1 - now
        slope = np.sqrt(1 - now) / total  # eps = slope z - slope sqrt(now) mean
        alpha, tilde = now / prev, (1 - now / prev) * (1 - prev) / (1 - now)
        if name == "ddpm":
            sigma2 = (1 - posterior) * tilde + posterior * (1 - alpha) * (prev < 1)
            by_z, by_eps = alpha**-0.5, -(1 - alpha) / np.sqrt((1 - now) * alpha)
        else:
            sigma2 = eta**2 * tilde
            by_z = np.sqrt(prev / now)
            by_eps = np.sqrt(max(1 - prev - sigma2, 0)) - by_z * np.sqrt(1 - now)
        a = by_z + by_eps * slope
        m = a * m - by_eps * slope * np.sqrt(now) * mean
        variance = a**2 * variance + sigma2
    return m, variance


def assert_moments(found, mean, variance):
    """Within four standard errors, with the seed fixed."""
    count = found.size
    assert abs(found.mean() - mean) < 4 * np.sqrt(variance / count)
    assert abs(found.var() / variance - 1) < 4 * np.sqrt(2 / count)


@pytest.mark.parametrize(
    "name, knobs",
    [
        ("ddpm", {"posterior": 0.0}),
        ("ddpm", {"posterior": 0.4}),
        ("ddpm", {"posterior": 1.0}),
        ("ddim", {"eta": 0.0}),
        ("ddim", {"eta": 0.5}),
        ("ddim", {"eta": 1.0}),
    ],
)
def test_moments_are_those_of_the_algebra(schedule, name, knobs):
    """Few steps, so that variances differ by far more than the test allows."""
    grid, keys = grids.trailing(schedule, 8), keys_of(20_000)
    denoise = gaussian(schedule, 0.7, 0.5)
    found = sample(name, denoise, keys, ONE, grid, **knobs)
    assert_moments(found, *linear_gaussian(name, schedule, grid, 0.7, 0.5, **knobs))


def test_ddpm_draws_from_gaussian_data(schedule):
    """All thousand steps: the variance may be off by a step's worth, no more."""
    keys = keys_of(4000)
    for posterior in (0.0, 1.0):
        found = sample(
            "ddpm",
            gaussian(schedule, 0.7, 0.5),
            keys,
            ONE,
            grids.trailing(schedule, schedule.num_timesteps),
            posterior=posterior,
        )
        assert abs(found.mean() - 0.7) < 4 * 0.5 / np.sqrt(4000)
        assert abs(found.var() / 0.25 - 1) < 4 * np.sqrt(2 / 4000) + 0.02


def test_beta_is_right_for_unit_gaussians_and_beta_tilde_for_a_point(schedule):
    grid, keys = grids.trailing(schedule, 8), keys_of(20_000)
    unit = gaussian(schedule, 0.0, 1.0)
    # The last step goes without its noise, beta = 1 - alpha_bar.
    left = float(grid.alpha_bar[-1])
    assert_moments(sample("ddpm", unit, keys, ONE, grid, posterior=1.0), 0.0, left)
    point = gaussian(schedule, 0.7, 0.0)
    np.testing.assert_allclose(sample("ddpm", point, keys, ONE, grid), 0.7, atol=1e-5)


def test_eta_of_one_is_ddpm(schedule):
    """The two are the same process: Song et al. (2021), section 4.1."""
    grid, keys, denoise = (
        grids.trailing(schedule, 20),
        keys_of(3),
        squash(schedule),
    )
    ancestral = sample("ddpm", denoise, keys, SMALL, grid)
    found = sample("ddim", denoise, keys, SMALL, grid, eta=1.0)
    np.testing.assert_allclose(found, ancestral, atol=1e-4)


@pytest.mark.parametrize("name", sorted(set(samplers.SAMPLERS) - {"heun", "plms"}))
def test_zero_terminal_snr_makes_no_nan(name):
    schedule = schedule_lib.from_betas([0.1, 0.3, 0.6, 1.0])
    grid, point = (
        grids.trailing(schedule, schedule.num_timesteps),
        gaussian(schedule, 0.7, 0.0),
    )
    found = sample(name, point, keys_of(3), SMALL, grid, eta=1.0, posterior=0.5)
    np.testing.assert_allclose(found, 0.7, atol=1e-5)


@pytest.mark.parametrize("name", samplers.SAMPLERS)
def test_a_picture_is_the_same_in_any_batch(schedule, name):
    grid, keys = grids.trailing(schedule, 5), keys_of(4)
    knobs = {"eta": 0.7, "posterior": 0.5}
    together = sample(name, squash(schedule), keys, SMALL, grid, **knobs)
    third = sample(name, squash(schedule), keys[2:3], SMALL, grid, **knobs)
    np.testing.assert_allclose(third[0], together[2], atol=1e-5)
    assert np.abs(together[0] - together[1]).max() > 0.1


@pytest.mark.parametrize("name, knob", [("ddim", "eta"), ("ddpm", "posterior")])
def test_a_knob_changes_the_picture_and_compiles_nothing(schedule, name, knob):
    grid, keys, traces = grids.trailing(schedule, 5), keys_of(2), []
    z_T = draws.initial_noise(keys, SMALL)

    @jax.jit
    def run(knobs):
        traces.append(name)
        return samplers.SAMPLERS[name](
            squash(schedule), {}, keys, z_T, dn.Cond(), grid, knobs
        )

    low, high = run({**KNOBS, knob: 0.0}), run({**KNOBS, knob: 1.0})
    assert np.abs(low - high).max() > 1e-2
    assert len(traces) == 1


def test_draws_differ_by_picture_and_by_number():
    keys = keys_of(2)
    drawn = [draws.noise(keys, i, (64, 64, 1)) for i in (0, 1, 2)]
    np.testing.assert_array_equal(draws.initial_noise(keys, (64, 64, 1)), drawn[0])
    rows = np.concatenate([np.reshape(d, (2, -1)) for d in drawn])
    assert np.abs(np.corrcoef(rows) - np.eye(6)).max() < 0.06
    assert abs(rows.std() - 1) < 0.02


def test_no_step_draws_what_z_T_was_drawn_from(schedule):
    """DDPM's first step on a denoise that sees nothing leaves its noise bare."""
    grid = grids.trailing(schedule, schedule.num_timesteps)
    first = jax.tree.map(lambda x: x[:1], grid)
    keys = keys_of(1)
    z_T = draws.initial_noise(keys, (64, 64, 1))

    def blank(params, z_t, t, cond, rng=None):
        return dn.Pred(-z_t * 0, z_t * 0)

    moved = sample("ddpm", blank, keys, z_T, first, posterior=1.0)
    alpha = float(first.alpha_bar[0] / first.alpha_bar_prev[0])
    prev, now = float(first.alpha_bar_prev[0]), float(first.alpha_bar[0])
    fresh = moved - np.sqrt(alpha) * (1 - prev) / (1 - now) * z_T
    assert abs(np.corrcoef(fresh.ravel(), np.ravel(z_T))[0, 1]) < 0.06
