"""How fast the samplers converge, on data whose solution is known: docs/orders.png.

python -m docs.orders        (needs matplotlib: requirements-test.txt)

For data from one Gaussian the denoise is a formula, and so is where the ODE ends. A
method of order p has 2^p times less of an error where the steps are doubled, which
tests/test_sampler_orders.py holds each of them to.
"""

import functools
import pathlib

import jax
import jax.numpy as jnp

from ldm_jax import denoise as denoise_lib
from ldm_jax import grids, samplers

HERE = pathlib.Path(__file__).parent
MEAN, STD = 0.7, 0.3  # of the data
FIRST, LAST = (
    10.0,
    0.5,
)  # sigma; not the ends, where a single step of order 1 would show
ORDERS = {"ddim": 1, "heun": 2, "plms": 2, "dpmpp_2m": 2, "unipc": 3}
KNOBS = {"eta": 0.0, "posterior": 0.0}


def moments(alpha_bar):
    """Mean and std of z_t."""
    return alpha_bar**0.5 * MEAN, (alpha_bar * STD**2 + 1 - alpha_bar) ** 0.5


def gaussian(params, z_t, t, cond, rng=None):
    """The exact denoise; its t is alpha_bar itself."""
    del params, cond, rng
    alpha_bar = t.reshape(-1, 1, 1, 1)
    mean, std = moments(alpha_bar)
    surprise = (z_t - mean) / std**2
    z_0 = MEAN + jnp.sqrt(alpha_bar) * STD**2 * surprise
    return denoise_lib.Pred(z_0, jnp.sqrt(1 - alpha_bar) * surprise)


def even(steps, first, last):
    """A Grid that is even in log sigma, from one level of noise to another."""
    alpha_bar = 1 / (1 + jnp.geomspace(first, last, steps + 1) ** 2)
    return grids.Grid(alpha_bar[:-1], alpha_bar[:-1], alpha_bar[1:])


def walk(name, grid, z, denoise=gaussian):
    """z [B, h, w, c] after all of a grid."""
    keys = jax.random.split(jax.random.key(0), len(z))
    run = jax.jit(functools.partial(samplers.SAMPLERS[name], denoise))
    return run({}, keys, z, denoise_lib.Cond(), grid, KNOBS)


def error(name, steps):
    """The largest distance from where the ODE ends, of starts within two std."""
    grid = even(steps, FIRST, LAST)
    surprises = jnp.linspace(-2, 2, 5).reshape(5, 1, 1, 1)
    starts, ends = (moments(x) for x in (grid.alpha_bar[0], grid.alpha_bar_prev[-1]))
    found = walk(name, grid, starts[0] + starts[1] * surprises)
    return float(jnp.abs(found - (ends[0] + ends[1] * surprises)).max())


def main():
    import matplotlib.pyplot as plt  # tests import this module without it

    steps = (5, 10, 20, 40, 80, 160)
    figure, axis = plt.subplots(figsize=(6, 4))
    with jax.enable_x64(True):
        for name, order in ORDERS.items():
            errors = [error(name, count) for count in steps]
            axis.loglog(steps, errors, marker="o", label=f"{name}: order {order}")
    for order in (1, 2, 3):
        axis.loglog(steps, [(steps[0] / n) ** order * 0.3 for n in steps], "k:", lw=0.7)
    axis.set(xlabel="steps", ylabel="largest error", title="Gaussian data, float64")
    axis.set_xticks(steps, map(str, steps))
    axis.minorticks_off()
    axis.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(HERE / "orders.png", dpi=80)


if __name__ == "__main__":
    main()
