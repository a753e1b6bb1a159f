"""Learning-rate schedules and the optimizer chain, from `config.optim`."""

import jax
import jax.numpy as jnp
import optax
from optax import contrib

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


def muon(optim, rate):
    """Muon (Jordan, 2024) for weights, AdamW for the rest: none of the originals'.

    Updates of weights have the size of AdamW's (Liu et al., 2025: 0.2 a number), so
    that one rate serves both; the gradients' size has no effect on them. Betas are
    AdamW's, which has Nesterov's momentum here, as Muon has with its own 0.95.
    """
    b1, b2 = optim.betas
    return contrib.muon(
        rate,
        weight_decay=optim.weight_decay,
        adam_b1=b1,
        adam_b2=b2,
        adam_weight_decay=optim.weight_decay,
        eps=optim.eps,
        muon_weight_dimension_numbers=_matrices,
        consistent_rms=0.2,
    )


def _matrices(params):
    """How Muon reads each weight as a matrix, None where it is not for Muon.

    Kernels [..., in, out] are matrices of all inputs against the outputs. Tables of
    embeddings are not: a row is one input of its own, seen in few batches.
    """

    def read(path, x):
        if path[-1].key != "kernel":
            return None
        *inputs, output = range(x.ndim)
        return contrib.MuonDimensionNumbers(tuple(inputs), (output,))

    return jax.tree.map_with_path(read, params)


OPTIMIZERS = {"adamw": adamw, "adam": adam, "muon": muon}


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
