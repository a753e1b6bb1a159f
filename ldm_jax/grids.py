"""The timesteps that a sampler walks, from noise to picture: a Grid.

    trailing     any number of even steps in t, from T - 1 down to a clean picture
    ldm          those of the latent-diffusion release, for parity with it
    karras       dense where there is little noise (Karras et al., 2022, eq. 5)
    exponential  even in the logarithm of the noise

The last two are even in a function of sigma = sqrt((1 - alpha_bar) / alpha_bar), the
noise where the signal is 1, and so fall between the integers that a network was
trained on. A new grid is one function, and one entry of GRIDS.
"""

from flax import struct
import jax
import jax.numpy as jnp
import numpy as np

RHO = 7.0  # of Karras et al.: the higher, the more steps at little noise


@struct.dataclass
class Grid:
    """The steps of a sampler, from noise to picture, float32 [S] each.

    The step at t goes from alpha_bar to alpha_bar_prev, the next one's alpha_bar.
    """

    t: jax.Array
    alpha_bar: jax.Array
    alpha_bar_prev: jax.Array

    def __len__(self):
        return len(self.t)

    def __getitem__(self, places):
        """The rows at a slice: grid[k:] starts from the noise of step k."""
        return jax.tree.map(lambda x: x[places], self)


def numbered(grid):
    """What a sampler scans over: (number of the step, from 1; the grid's row)."""
    return jnp.arange(1, len(grid) + 1), grid


def at(z, t):
    """One t for each picture of z."""
    return jnp.full(z.shape[:1], t)


def make_grid(schedule, t, last):
    """The Grid of falling t [S], fractions allowed; it ends at alpha_bar `last`."""
    t = np.asarray(t, np.float32)
    whole = np.arange(schedule.num_timesteps)
    alpha_bar = np.interp(t, whole, schedule.alpha_bar)  # as schedule.alpha_bar_at
    prev = np.append(alpha_bar[1:], last)
    return Grid(*(jnp.asarray(x, jnp.float32) for x in (t, alpha_bar, prev)))


def trailing(schedule, steps):
    """Any number of even steps, from t = T - 1 down to a clean picture.

    The timesteps of SDXL, and the right ones for zero terminal SNR: the pure noise
    that sampling starts from is what the network was shown at T - 1.
    """
    total = schedule.num_timesteps
    check(schedule, steps)
    return make_grid(schedule, (total - 1) * np.arange(steps, 0, -1) // steps, last=1.0)


def ldm(schedule, steps):
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


def karras(schedule, steps):
    """Even in sigma^(1/7), from the noise at T - 1 to that at 0, then clean."""
    return by_sigma(schedule, steps, lambda s: s ** (1 / RHO), lambda s: s**RHO)


def exponential(schedule, steps):
    """Even in log sigma, from the noise at T - 1 to that at 0, then clean."""
    return by_sigma(schedule, steps, np.log, np.exp)


def by_sigma(schedule, steps, there, back):
    """Noise that is even in a rising function `there` of sigma; `back` undoes it."""
    check(schedule, steps)
    if schedule.alpha_bar[-1] == 0:
        raise ValueError(
            "a schedule without signal at T - 1 begins with an infinite sigma: only "
            "the 'trailing' grid begins there"
        )
    ends = np.sqrt((1 - schedule.alpha_bar) / schedule.alpha_bar)[[-1, 0]]
    sigma = back(np.linspace(*there(ends), steps))
    rising = schedule.alpha_bar[::-1]
    whole = np.arange(schedule.num_timesteps)[::-1]
    return make_grid(schedule, np.interp(1 / (1 + sigma**2), rising, whole), last=1.0)


def check(schedule, steps):
    """Raises ValueError for a number of steps that no grid has."""
    total = schedule.num_timesteps
    if not 1 <= steps <= total:
        raise ValueError(f"steps = {steps} must be between 1 and {total}")


GRIDS = {
    "trailing": trailing,
    "ldm": ldm,
    "karras": karras,
    "exponential": exponential,
}
