"""What a sampler may be told without a recompile, from `config.sample`."""

import jax.numpy as jnp

from ldm_jax import control, grids, guidance, names
from ldm_jax import schedule as schedule_lib

NUMBERS = (
    *("scale", "eta", "posterior", "rescale"),
    *("apg_radius", "apg_parallel", "threshold"),
)


def of(config):
    """The pytree of traced values that System.sample takes.

    grid: of a share `strength` of the steps, the last ones, and at least of one.
    table: how much of scale - 1 is due at each t.
    begun: whether sampling begins with a picture, which it does at strength below 1.
    hints: {name: {"told", "untold": [n]}}, what a branch's connections are times.
    """
    sample = config.sample
    schedule = schedule_lib.linear(**config.schedule)
    grid = names.pick(grids.GRIDS, sample.grid)(schedule, sample.steps)
    walked = max(1, round(sample.strength * sample.steps))
    table = guidance.weights(schedule, sample.shape, sample.interval)
    return {name: jnp.float32(sample[name]) for name in NUMBERS} | {
        "grid": grid[sample.steps - walked :],
        "table": jnp.asarray(table),
        "begun": jnp.asarray(sample.strength < 1),
        "hints": _hints(config),
    }


def _hints(config):
    section, unet, sample = config.control, config.unet, config.sample
    loud = sample.hint_strengths or (1.0,) * len(section.hints)
    ways = unet.mult, unet.blocks, sample.hint_weighting, section.only_mid
    halves = control.strengths(*ways)
    return {
        name: {half: jnp.asarray(x * factor) for half, x in halves.items()}
        for name, factor in zip(section.hints, loud, strict=True)
    }
