"""Samplers that extrapolate z_0 over the logarithm of the noise: DPM-Solver++, UniPC.

Where the network's z_0 is all that is not known, the ODE of samplers.py has the
solution (Lu et al., 2022, DPM-Solver++, eq. 9), with lambda = -log sigma,

    z_prev = sqrt((1 - prev) / (1 - now)) z
             + sqrt(prev) * integral of exp(lambda - lambda_prev) z_0 over lambda

so that only a polynomial in lambda stands for z_0. With a constant it is DDIM; with
a line it is of order 2. A step to a clean picture has the constant, for lambda is
infinite there. Nothing is divided by the signal, which may be 0 at the start.
"""

import math

from jax import lax
import jax.numpy as jnp

from ldm_jax import draws, grids

FAINTEST = 2.0**-24  # signal that stands for none in sigma; diffusers' number


def sigma(alpha_bar):
    """The noise where the signal is 1."""
    return jnp.sqrt((1 - alpha_bar) / jnp.maximum(alpha_bar, FAINTEST))


def log_snr(alpha_bar):
    """lambda, half of the logarithm of the signal-to-noise ratio."""
    return -jnp.log(sigma(alpha_bar))


def carried(z, z_0, now, prev):
    """z at alpha_bar `now`, moved to `prev` as if z_0 were the same all the way."""
    kept = jnp.sqrt((1 - prev) / (1 - now))
    return kept * z + jnp.sqrt(prev) * (1 - sigma(prev) / sigma(now)) * z_0


def redrawn(z, z_0, now, prev, eps):
    """The same of the reverse SDE: part of the noise is taken out and drawn again."""
    ratio = sigma(prev) / sigma(now)
    kept = jnp.sqrt((1 - prev) / (1 - now)) * ratio
    fresh = jnp.sqrt((1 - prev) * (1 - ratio**2)) * eps
    return kept * z + jnp.sqrt(prev) * (1 - ratio**2) * z_0 + fresh


def _two_last(move, denoise, params, z_T, cond, grid):
    """Scans steps move(i, z, z_0, now, prev) whose z_0 is extrapolated half a step."""

    def step(carry, numbered_row):
        z, before, level = carry  # z_0 of the step before, and its lambda
        i, row = numbered_row
        now, prev = row.alpha_bar, row.alpha_bar_prev
        z_0 = denoise(params, z, grids.at(z, row.t), cond).z_0
        here = log_snr(now)
        slope = (z_0 - before) / (here - level)
        line = z_0 + slope * (log_snr(prev) - here) / 2
        straight = (i > 1) & (prev < 1)
        return (move(i, z, jnp.where(straight, line, z_0), now, prev), z_0, here), None

    begin = (z_T, jnp.zeros_like(z_T), 0.0)
    return lax.scan(step, begin, grids.numbered(grid))[0][0]


def dpmpp_2m(denoise, params, keys, z_T, cond, grid, knobs):
    """DPM-Solver++(2M), of order 2: algorithm 2 of Lu et al. (2022)."""
    del keys, knobs

    def move(i, *step):
        return carried(*step)

    return _two_last(move, denoise, params, z_T, cond, grid)


def dpmpp_2m_sde(denoise, params, keys, z_T, cond, grid, knobs):
    """SDE-DPM-Solver++(2M), appendix B of Lu et al. (2022): with fresh noise."""
    del knobs

    def move(i, z, *step):
        return redrawn(z, *step, draws.noise(keys, i, z.shape[1:]))

    return _two_last(move, denoise, params, z_T, cond, grid)


def unipc(denoise, params, keys, z_T, cond, grid, knobs):
    """UniPC-2 with B_2(h) = e^h - 1 and z_0 predicted, of order 3: Zhao et al. (2023).

    What the network says at the end of a step also corrects that step, before the
    next one is made with it: still one call for each.
    """
    del keys, knobs

    def step(carry, numbered_row):
        z, begin, (last, before), (left, level, older) = carry
        i, row = numbered_row
        now, prev = row.alpha_bar, row.alpha_bar_prev
        z_0 = denoise(params, z, grids.at(z, row.t), cond).z_0
        here = log_snr(now)

        h = here - level
        ratio = (older - level) / h  # of the steps, negative
        slow, fast = _corrections(-h, ratio)
        curve = last + slow * (before - last) / ratio + fast * (z_0 - last)
        bent = jnp.where(i > 2, curve, (last + z_0) / 2)
        z = jnp.where(i > 1, carried(begin, bent, left, now), z)

        slope = (z_0 - last) / (here - level)
        line = z_0 + slope * (log_snr(prev) - here) / 2
        straight = (i > 1) & (prev < 1)
        ahead = carried(z, jnp.where(straight, line, z_0), now, prev)
        return (ahead, z, (z_0, last), (now, here, level)), None

    blank = jnp.zeros_like(z_T)
    begin = (z_T, blank, (blank, blank), (0.5, 0.0, 0.0))
    return lax.scan(step, begin, grids.numbered(grid))[0][0]


def _corrections(x, ratio):
    """The weights (a, b) of UniC-2 (Zhao et al., 2023, eq. 5) for x = -h.

    They solve a + b = x R_2 / (e^x - 1) and ratio a + b = 2 x R_3 / (e^x - 1), where
    R_k is what the exponential series has from x^k / k! on, over x^k.
    """
    scale = x / jnp.expm1(x)
    first, second = scale * _rest(x, 2), 2 * scale * _rest(x, 3)
    a = (first - second) / (1 - ratio)
    return a, first - a


def _rest(x, k):
    """R_k of x < 0. In float32 the difference has no digits left where x is small."""
    terms = [1 / math.factorial(n) for n in range(k + 8)]
    difference = jnp.exp(x) - jnp.polyval(jnp.asarray(terms[:k][::-1]), x)
    series = jnp.polyval(jnp.asarray(terms[k:][::-1]), x)
    return jnp.where(x < -1, difference / x**k, series)
