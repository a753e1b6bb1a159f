"""What a sampler may be told without a recompile, from `config.sample`."""

import jax.numpy as jnp

from ldm_jax import names, samplers
from ldm_jax import schedule as schedule_lib


def of(config):
    """The pytree of traced values that System.sample takes."""
    sample = config.sample
    schedule = schedule_lib.linear(**config.schedule)
    return {
        "scale": jnp.float32(sample.scale),
        "eta": jnp.float32(sample.eta),
        "posterior": jnp.float32(sample.posterior),
        "grid": names.pick(samplers.GRIDS, sample.grid)(schedule, sample.steps),
    }
