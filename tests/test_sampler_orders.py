"""Samplers against exact solutions: their orders, and what their noise adds up to."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from docs import orders
from ldm_jax import denoise as dn
from ldm_jax import draws, grids, multistep, samplers
from ldm_jax import schedule as schedule_lib

NOISY = ("ddpm", "euler_ancestral", "dpmpp_2m_sde")
CALLS = {"heun": 2 * 10 - 1, "plms": 10 + 1}  # of 10 steps; the others ask 10 times


@pytest.mark.parametrize("name", orders.ORDERS)
def test_the_order_of_convergence(name):
    """Twice the steps, a 2^order-th of the error, in float64."""
    with jax.enable_x64(True):
        errors = [orders.error(name, steps) for steps in (40, 80, 160)]
    rates = -np.diff(np.log2(errors))
    assert abs(rates[-1] - orders.ORDERS[name]) < 0.3, (errors, rates)


@pytest.mark.parametrize("name", NOISY)
def test_noise_adds_up_to_the_data(name):
    """Mean and variance of 4,000 draws, within four standard errors."""
    grid, keys = orders.even(100, 20.0, 0.01), jax.random.split(jax.random.key(1), 4000)
    found = orders.walk(name, grid, draws.initial_noise(keys, (1, 1, 1)))
    mean, std = orders.moments(grid.alpha_bar_prev[-1])
    assert abs(found.mean() - mean) < 4 * std / np.sqrt(4000)
    assert abs(found.var() / std**2 - 1) < 4 * np.sqrt(2 / 4000) + 0.02


def test_who_is_who():
    """Euler's method is DDIM without noise, the ancestral one with all of it."""
    keys = jax.random.split(jax.random.key(0), 2)
    z, grid = draws.initial_noise(keys, (4, 4, 2)), orders.even(7, 20.0, 0.01)

    def ddim(eta):
        knobs = orders.KNOBS | {"eta": eta}
        return samplers.ddim(orders.gaussian, {}, keys, z, dn.Cond(), grid, knobs)

    np.testing.assert_allclose(orders.walk("euler", grid, z), ddim(0.0), atol=1e-6)
    np.testing.assert_allclose(
        orders.walk("euler_ancestral", grid, z), ddim(1.0), atol=1e-5
    )
    x, sigma = z / jnp.sqrt(grid.alpha_bar[0]), multistep.sigma(grid.alpha_bar)
    ends = multistep.sigma(grid.alpha_bar_prev)
    for t, now, end in zip(grid.t, sigma, ends, strict=True):  # of dx = eps dsigma
        z = x / jnp.sqrt(1 + now**2)
        x += (end - now) * orders.gaussian({}, z, jnp.full(2, t), dn.Cond()).eps
    z = draws.initial_noise(keys, (4, 4, 2))
    found = orders.walk("euler", grid, z) / jnp.sqrt(grid.alpha_bar_prev[-1])
    np.testing.assert_allclose(found, x, atol=1e-5)


@pytest.mark.parametrize("name", samplers.SAMPLERS)
def test_how_often_the_network_is_asked(name):
    asked = []

    def counted(params, z_t, t, cond, rng=None):
        jax.debug.callback(lambda t: asked.append(float(t)), t[0])
        return orders.gaussian(params, z_t, t, cond)

    grid = orders.even(10, 20.0, 0.01)
    orders.walk(name, grid, jnp.ones((1, 1, 1, 1)), counted)
    jax.effects_barrier()
    assert len(asked) == CALLS.get(name, 10)
    assert set(asked) == set(map(float, grid.t))


@pytest.mark.parametrize("name", samplers.SAMPLERS)
def test_a_single_step_is_allowed(name):
    grid = orders.even(1, 20.0, 0.01)
    found = orders.walk(name, grid, jnp.ones((2, 1, 1, 1)))
    assert np.isfinite(found).all()


@pytest.mark.parametrize("rounds, within", [(1, 0.2), (30, 1e-4)])
def test_inversion_finds_where_a_picture_comes_from(rounds, within):
    grid = orders.even(20, 20.0, 0.05)
    z_0 = orders.MEAN + orders.STD * jnp.linspace(-2, 2, 5).reshape(5, 1, 1, 1)
    z_0 *= jnp.sqrt(grid.alpha_bar_prev[-1])
    run = jax.jit(functools.partial(samplers.invert, orders.gaussian), static_argnums=4)
    z_T = run({}, z_0, dn.Cond(), grid, rounds)
    back = np.abs(orders.walk("ddim", grid, z_T) - z_0).max()
    assert back < within
    assert rounds > 1 or back > 1e-3  # which is why there are rounds


def test_grids_by_sigma_are_even_in_what_they_say():
    schedule = schedule_lib.linear(1000, 0.00085, 0.012)
    for name, even_in in (("karras", lambda s: s ** (1 / 7)), ("exponential", np.log)):
        grid = grids.GRIDS[name](schedule, 12)
        steps = np.diff(even_in(multistep.sigma(np.asarray(grid.alpha_bar, float))))
        np.testing.assert_allclose(steps, steps[0], rtol=2e-4)
        assert grid.t[0] == 999 and grid.t[-1] == 0 and grid.alpha_bar_prev[-1] == 1
        again = schedule_lib.alpha_bar_at(schedule, grid.t)
        np.testing.assert_allclose(grid.alpha_bar, again, rtol=1e-5)
        zero = schedule_lib.without_signal_at_the_end(schedule)
        with pytest.raises(ValueError, match="only the 'trailing' grid"):
            grids.GRIDS[name](zero, 12)
        with pytest.raises(ValueError, match="between 1 and 1000"):
            grids.GRIDS[name](schedule, 0)


def test_a_part_of_a_grid_is_a_grid():
    grid = orders.even(10, 20.0, 0.01)
    assert len(grid[4:]) == 6 and grid[4:].t[0] == grid.t[4]


def test_the_way_between_two_noises_keeps_to_the_sphere():
    keys = jax.random.split(jax.random.key(0), 4)
    a, b = (draws.noise(keys, i, (16, 16, 4)) for i in (0, 1))
    share = jnp.array([0.0, 0.3, 0.5, 1.0])
    found = draws.between(a, b, share)
    np.testing.assert_allclose(found[0], a[0], atol=1e-6)
    np.testing.assert_allclose(found[3], b[3], atol=1e-6)
    length = jnp.sqrt(jnp.mean(found**2, axis=(1, 2, 3)))
    np.testing.assert_allclose(length, 1, atol=0.05)
    np.testing.assert_allclose(draws.between(a, a, share), a, atol=1e-6)
