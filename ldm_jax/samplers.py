"""The reverse process: from noise z_T down a grid of timesteps to z_0.

    sampler(denoise, params, keys, z_T, cond, grid, knobs) -> z_0

    denoise  the seam (ldm_jax/denoise.py)
    keys     [B] typed keys, one per picture
    z_T      [B, h, w, c] at the noise of the grid's first step, see draws.py
    grid     grids.Grid [S], the falling timesteps to walk
    knobs    dict of traced numbers; a sampler reads those that its docstring names

Each sampler is one scan, and its body asks the network once. Everything random
about a picture comes from its own key, so that a picture is the same in any
batch. A new sampler is one function, and one entry of SAMPLERS.

One-step methods and those that average eps are here, those that extrapolate z_0
in multistep.py. All follow, or with noise keep to, the same ordinary differential
equation: of x = z / sqrt(alpha_bar) over sigma, dx / dsigma = eps (Karras et al.,
2022, eq. 1, with the signal at 1).
"""

from flax import struct
import jax
from jax import lax
import jax.numpy as jnp

from ldm_jax import draws, grids, multistep


def ddim(denoise, params, keys, z_T, cond, grid, knobs):
    """DDIM, eq. 12 of Song et al. (2021): jump to z_0, and back to less noise.

    knobs["eta"]: 0 follows the deterministic ODE; 1 adds as much noise as DDPM.
    """

    def step(z, numbered_row):
        i, row = numbered_row
        now, prev = row.alpha_bar, row.alpha_bar_prev
        pred = denoise(params, z, grids.at(z, row.t), cond)
        sigma = knobs["eta"] * jnp.sqrt((1 - prev) / (1 - now) * (1 - now / prev))
        # At eta = 1 the last step's difference is 0 up to rounding: not below it.
        direction = jnp.sqrt(jnp.maximum(1 - prev - sigma**2, 0))
        fresh = sigma * draws.noise(keys, i, z.shape[1:])
        return jnp.sqrt(prev) * pred.z_0 + direction * pred.eps + fresh, None

    return lax.scan(step, z_T, grids.numbered(grid))[0]


def euler(denoise, params, keys, z_T, cond, grid, knobs):
    """Euler's method, of order 1: to the letter DDIM at eta = 0."""
    return ddim(denoise, params, keys, z_T, cond, grid, {**knobs, "eta": 0.0})


def euler_ancestral(denoise, params, keys, z_T, cond, grid, knobs):
    """Euler's method to less noise than asked for, and fresh noise for the rest.

    k-diffusion's, whose two steps come to those of DDIM at eta = 1.
    """
    return ddim(denoise, params, keys, z_T, cond, grid, {**knobs, "eta": 1.0})


def ddpm(denoise, params, keys, z_T, cond, grid, knobs):
    """Ancestral sampling, Ho et al. (2020): a draw from q(z_prev | z_t, z_0).

    knobs["posterior"]: the variance, from beta-tilde at 0 to beta at 1. A step
    that ends on a clean picture (alpha_bar_prev = 1) adds no noise.
    """

    def step(z, numbered_row):
        i, row = numbered_row
        now, prev = row.alpha_bar, row.alpha_bar_prev
        pred = denoise(params, z, grids.at(z, row.t), cond)
        alpha = now / prev
        beta = 1 - alpha
        # Eq. 7. Putting eps in for z_0 gives the equal and better known
        # (z_t - beta / sqrt(1 - now) eps) / sqrt(alpha), which fails at now = 0.
        mean = jnp.sqrt(prev) * beta / (1 - now) * pred.z_0
        mean += jnp.sqrt(alpha) * (1 - prev) / (1 - now) * z
        share = knobs["posterior"]
        variance = (1 - share) * beta * (1 - prev) / (1 - now) + share * beta
        sigma = jnp.sqrt(variance) * (prev < 1)
        return mean + sigma * draws.noise(keys, i, z.shape[1:]), None

    return lax.scan(step, z_T, grids.numbered(grid))[0]


def along(z, eps, now, prev):
    """z at alpha_bar `now`, moved to `prev` in the direction of an averaged eps.

    It divides by the signal, so that it has no meaning at now = 0.
    """
    z_0 = (z - jnp.sqrt(1 - now) * eps) / jnp.sqrt(now)
    return jnp.sqrt(prev) * z_0 + jnp.sqrt(1 - prev) * eps


@struct.dataclass
class Call:
    """One call of the network by a method that may take two for a step."""

    t: jax.Array
    step: object  # the grid's row that it is for
    corrects: jax.Array  # whether it is the second, at the step's end


def calls(grid, corrected):
    """The Calls of a grid [S] whose first `corrected` steps have two of them."""
    after = jnp.append(grid.t[1:], grid.t[-1])  # at S = 1 there is no next t
    first = Call(grid.t, grid, jnp.zeros(len(grid), bool))
    second = Call(after, grid, jnp.ones(len(grid), bool))
    both = jax.tree.map(lambda *x: jnp.stack(x, 1)[:corrected], first, second)
    both = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), both)
    rest = jax.tree.map(lambda x: x[corrected:], first)
    return jax.tree.map(lambda *x: jnp.concatenate(x), both, rest)


def heun(denoise, params, keys, z_T, cond, grid, knobs):
    """Heun's method, of order 2: algorithm 1 of Karras et al. (2022).

    A step is made by Euler's method, and again with the mean of the directions at
    both of its ends; the last one by Euler's method alone. S steps ask the network
    2 S - 1 times.
    """
    del keys, knobs

    def ask(carry, call):
        z, begin, direction = carry  # of the step: z where it begins, eps there
        pred = denoise(params, z, grids.at(z, call.t), cond)
        eps = jnp.where(call.corrects, (direction + pred.eps) / 2, pred.eps)
        begin = jnp.where(call.corrects, begin, z)
        now, prev = call.step.alpha_bar, call.step.alpha_bar_prev
        return (along(begin, eps, now, prev), begin, pred.eps), None

    rows = calls(grid, len(grid) - 1)
    return lax.scan(ask, (z_T, z_T, jnp.zeros_like(z_T)), rows)[0][0]


# Adams and Bashforth's, for the newest eps and up to three older ones.
ADAMS = (
    (1, 0, 0, 0),
    (3 / 2, -1 / 2, 0, 0),
    (23 / 12, -16 / 12, 5 / 12, 0),
    (55 / 24, -59 / 24, 37 / 24, -9 / 24),
)


def plms(denoise, params, keys, z_T, cond, grid, knobs):
    """Pseudo linear multistep, Liu et al. (2022): eps extrapolated from the last four.

    As in latent diffusion the first step is Heun's, so that S steps ask the network
    S + 1 times; what it says to correct that step is not among those four.
    """
    del keys, knobs

    def ask(carry, call):
        z, begin, count, (first, *older) = carry  # newest first
        pred = denoise(params, z, grids.at(z, call.t), cond)
        weights = jnp.asarray(ADAMS)[jnp.minimum(count, 3)]
        line = (pred.eps, first, *older)
        ahead = sum(w * eps for w, eps in zip(weights, line, strict=True))
        eps = jnp.where(call.corrects, (first + pred.eps) / 2, ahead)
        begin = jnp.where(call.corrects, begin, z)
        now, prev = call.step.alpha_bar, call.step.alpha_bar_prev
        kept = [
            jnp.where(call.corrects, old, new)
            for old, new in zip((first, *older), line, strict=False)
        ]
        count += jnp.where(call.corrects, 0, 1)
        return (along(begin, eps, now, prev), begin, count, tuple(kept)), None

    blank = (jnp.zeros_like(z_T),) * 3
    return lax.scan(ask, (z_T, z_T, 0, blank), calls(grid, 1))[0][0]


def invert(denoise, params, z_0, cond, grid, rounds=1):
    """The z_T from which DDIM at eta = 0 comes to z_0 [B, h, w, c], down this grid.

    A step is undone by its own eps, which is that of its noisier end. That end is not
    known yet: the first guess takes the cleaner one in its place (as is common), and
    each further round the last guess. With enough of them nothing is lost.
    """

    def undo(z, row):
        now, prev = row.alpha_bar, row.alpha_bar_prev

        def guess(_, noisy):
            eps = denoise(params, noisy, grids.at(z, row.t), cond).eps
            clean = (z - jnp.sqrt(1 - prev) * eps) / jnp.sqrt(prev)
            return jnp.sqrt(now) * clean + jnp.sqrt(1 - now) * eps

        return lax.fori_loop(0, rounds, guess, z), None

    return lax.scan(undo, z_0, grid, reverse=True)[0]


SAMPLERS = {
    "ddim": ddim,
    "ddpm": ddpm,
    "plms": plms,
    "euler": euler,
    "euler_ancestral": euler_ancestral,
    "heun": heun,
    "dpmpp_2m": multistep.dpmpp_2m,
    "dpmpp_2m_sde": multistep.dpmpp_2m_sde,
    "unipc": multistep.unipc,
}
