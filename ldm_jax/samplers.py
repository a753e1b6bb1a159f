"""The reverse process: from noise z_T down a grid of timesteps to z_0.

    sampler(denoise, params, keys, z_T, cond, grid, knobs) -> z_0

    denoise  the seam (ldm_jax/denoise.py)
    keys     [B] typed keys, one per picture
    z_T      [B, h, w, c], see initial_noise
    grid     Grid [S], the falling timesteps to walk
    knobs    dict of traced numbers; a sampler reads those that its docstring names

Each sampler is one scan, and its body is one reverse step. Everything random
about a picture comes from its own key, so that a picture is the same in any
batch. A new sampler is one function, and one entry of SAMPLERS.
"""

from flax import struct
import jax
from jax import lax
import jax.numpy as jnp
import numpy as np


@struct.dataclass
class Grid:
    """The steps of a sampler, from noise to picture, float32 [S] each.

    The step at t goes from alpha_bar to alpha_bar_prev, the next one's alpha_bar.
    """

    t: jax.Array
    alpha_bar: jax.Array
    alpha_bar_prev: jax.Array


def make_grid(schedule, t, last):
    """The Grid of falling integers t [S]; its last step ends at alpha_bar `last`."""
    alpha_bar = schedule.alpha_bar[t]
    prev = np.append(alpha_bar[1:], last)
    return Grid(*(jnp.asarray(x, jnp.float32) for x in (t, alpha_bar, prev)))


def trailing_grid(schedule, steps):
    """Any number of even steps, from t = T - 1 down to a clean picture.

    The timesteps of SDXL, and the right ones for zero terminal SNR: the pure noise
    that sampling starts from is what the network was shown at T - 1.
    """
    total = schedule.num_timesteps
    if not 1 <= steps <= total:
        raise ValueError(f"steps = {steps} must be between 1 and {total}")
    t = (total - 1) * np.arange(steps, 0, -1) // steps
    return make_grid(schedule, t, last=1.0)


def ldm_grid(schedule, steps):
    """The timesteps of the latent-diffusion release, for parity with it.

    Even spacing T // steps from t = 1, so the walk starts below T - 1 (at 981 for
    50 of 1000) and ends at alpha_bar[0], with a trace of noise left. Most numbers
    of steps give another number, or run past the table: those are refused.
    """
    total = schedule.num_timesteps
    choices = ldm_steps(total)
    if steps not in choices:
        near = sorted(sorted(choices, key=lambda n: abs(n - steps))[:3])
        raise ValueError(
            f"the 'ldm' grid has no {steps} steps of {total}: the nearest are "
            f"{', '.join(map(str, near))}; the 'trailing' grid takes any number"
        )
    t = np.arange(0, total, total // steps)[::-1] + 1
    return make_grid(schedule, t, last=schedule.alpha_bar[0])


def ldm_steps(total):
    """The numbers of steps for which range(0, total, total // steps) + 1 is right."""

    def works(steps):
        t = range(1, total + 1, total // steps)
        return len(t) == steps and t[-1] < total

    return [steps for steps in range(1, total + 1) if works(steps)]


GRIDS = {"trailing": trailing_grid, "ldm": ldm_grid}


def noise(keys, i, shape):
    """Draw number i of each picture: keys [B] -> [B, *shape], shape of one z."""

    def draw(key):
        return jax.random.normal(jax.random.fold_in(key, i), shape)

    return jax.vmap(draw)(keys)


def initial_noise(keys, shape):
    """z_T [B, *shape]: draw 0; the steps of a sampler draw from 1 on."""
    return noise(keys, 0, shape)


def numbered(grid):
    """What a sampler scans over: (number of the step, from 1; the grid's row)."""
    return jnp.arange(1, len(grid.t) + 1), grid


def ddim(denoise, params, keys, z_T, cond, grid, knobs):
    """DDIM, eq. 12 of Song et al. (2021): jump to z_0, and back to less noise.

    knobs["eta"]: 0 follows the deterministic ODE; 1 adds as much noise as DDPM.
    """

    def step(z, numbered_row):
        i, row = numbered_row
        now, prev = row.alpha_bar, row.alpha_bar_prev
        pred = denoise(params, z, jnp.full(z.shape[:1], row.t), cond)
        sigma = knobs["eta"] * jnp.sqrt((1 - prev) / (1 - now) * (1 - now / prev))
        # At eta = 1 the last step's difference is 0 up to rounding: not below it.
        direction = jnp.sqrt(jnp.maximum(1 - prev - sigma**2, 0))
        fresh = sigma * noise(keys, i, z.shape[1:])
        return jnp.sqrt(prev) * pred.z_0 + direction * pred.eps + fresh, None

    return lax.scan(step, z_T, numbered(grid))[0]


def ddpm(denoise, params, keys, z_T, cond, grid, knobs):
    """Ancestral sampling, Ho et al. (2020): a draw from q(z_prev | z_t, z_0).

    knobs["posterior"]: the variance, from beta-tilde at 0 to beta at 1. A step
    that ends on a clean picture (alpha_bar_prev = 1) adds no noise.
    """

    def step(z, numbered_row):
        i, row = numbered_row
        now, prev = row.alpha_bar, row.alpha_bar_prev
        pred = denoise(params, z, jnp.full(z.shape[:1], row.t), cond)
        alpha = now / prev
        beta = 1 - alpha
        # Eq. 7. Putting eps in for z_0 gives the equal and better known
        # (z_t - beta / sqrt(1 - now) eps) / sqrt(alpha), which fails at now = 0.
        mean = jnp.sqrt(prev) * beta / (1 - now) * pred.z_0
        mean += jnp.sqrt(alpha) * (1 - prev) / (1 - now) * z
        share = knobs["posterior"]
        variance = (1 - share) * beta * (1 - prev) / (1 - now) + share * beta
        sigma = jnp.sqrt(variance) * (prev < 1)
        return mean + sigma * noise(keys, i, z.shape[1:]), None

    return lax.scan(step, z_T, numbered(grid))[0]


SAMPLERS = {"ddim": ddim, "ddpm": ddpm}
