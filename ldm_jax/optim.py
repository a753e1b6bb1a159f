"""Learning-rate schedules and the optimizer chain, from `config.optim`."""

import jax.numpy as jnp
import optax

from ldm_jax import names


def constant(optim):
    """lr at every step."""
    return optax.schedules.constant_schedule(optim.lr)


def warmup(optim):
    """Linear from start_factor * lr to lr, then constant: LambdaLinearScheduler."""
    start = optim.lr * optim.start_factor
    return optax.schedules.linear_schedule(start, optim.lr, optim.warmup_steps)


def warmup_cosine(optim):
    """Warm-up, half a cosine to final_factor * lr, then constant.

    The originals' LambdaWarmUpCosineScheduler with lr_max = 1.
    """

    def rate(step):
        step = jnp.asarray(step, jnp.float32)
        rising = step / optim.warmup_steps
        rising = optim.start_factor + (1 - optim.start_factor) * rising
        span = optim.decay_steps - optim.warmup_steps
        done = jnp.clip((step - optim.warmup_steps) / span, 0.0, 1.0)
        falling = 0.5 * (1 - optim.final_factor) * (1 + jnp.cos(jnp.pi * done))
        falling = optim.final_factor + falling
        return optim.lr * jnp.where(step < optim.warmup_steps, rising, falling)

    return rate


SCHEDULES = {"constant": constant, "warmup": warmup, "warmup_cosine": warmup_cosine}


def adamw(optim, rate):
    """Torch's AdamW: the decay is decoupled and covers every parameter."""
    b1, b2 = optim.betas
    return optax.adamw(rate, b1, b2, optim.eps, weight_decay=optim.weight_decay)


def adam(optim, rate):
    """Adam without weight decay: the originals' first stages."""
    b1, b2 = optim.betas
    return optax.adam(rate, b1, b2, optim.eps)


OPTIMIZERS = {"adamw": adamw, "adam": adam}


def learning_rate(optim):
    """The schedule: step -> rate."""
    return names.pick(SCHEDULES, optim.schedule)(optim)


def make(optim):
    """The optax chain. Generator and discriminator have an optimizer each."""

    def player():
        tx = names.pick(OPTIMIZERS, optim.optimizer)(optim, learning_rate(optim))
        if not optim.clip_norm:
            return tx
        return optax.chain(optax.clip_by_global_norm(optim.clip_norm), tx)

    def players(params):
        return {
            name: "discriminator" if name == "discriminator" else "generator"
            for name in params
        }

    return optax.partition({"generator": player(), "discriminator": player()}, players)
