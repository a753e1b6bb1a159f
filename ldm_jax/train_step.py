"""The train state and the one train step that every task shares."""

from flax import struct
import jax
from jax import lax
import jax.numpy as jnp
import numpy as np
import optax


@struct.dataclass
class TrainState:
    """All that a step changes; `extra` also holds the guard's two counters."""

    step: jax.Array  # int32 [], steps done
    params: dict  # what is trained, float32
    ema: dict  # its running average ({} without one)
    opt_state: optax.OptState
    extra: dict  # batch statistics, "bad_steps", "bad_in_a_row"


def init_state(params, extra, tx, averaged):
    """The state before the first step; averaged: whether there is an average."""
    extra = {**extra, "bad_steps": jnp.int32(0), "bad_in_a_row": jnp.int32(0)}
    ema = jax.tree.map(jnp.copy, params) if averaged else {}
    return TrainState(jnp.int32(0), params, ema, tx.init(params), extra)


def picture_keys(seed, step, batch):
    """One key per picture of a global batch: fold_in of seed, step and row."""
    key = jax.random.fold_in(jax.random.key(seed), step)
    return jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(batch))


def power_of(std):
    """The power p of an average whose weights grow as t^p (Karras et al., 2024).

    std: the standard deviation of those weights over the steps done, below 0.28: the
    average forgets in proportion to the run's length. p is the positive root of
    std^2 = (p + 1) / ((p + 2)^2 (p + 3)).
    """
    share = std**-2.0
    return float(np.roots([1, 7, 16 - share, 12 - share]).real.max())


def make_train_step(
    grads_fn,
    tx,
    learning_rate,
    *,
    seed,
    ema_decay,
    accumulate,
    ema_std=0.0,
    after_step=None,
):
    """(state, frozen, batch) -> (state, metrics), to be jitted with donation.

    `grads_fn` and `after_step` are System's. With `accumulate` > 1 the batch goes
    through the first in that many parts, one after the other; keys belong to
    pictures, so the sum is the big batch's. A step whose loss, gradients or updates
    are not finite changes nothing but the counters and `step`: its batch is skipped,
    its numbers are reported.
    """

    def train_step(state, frozen, batch):
        size = jax.tree.leaves(batch)[0].shape[0]
        keys = picture_keys(seed, state.step, size)
        grads, extra, metrics = accumulated(state, frozen, keys, batch)
        norm = optax.tree.norm(grads)
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        numbers = jnp.stack([norm, metrics["loss"], optax.tree.norm(updates)])
        finite = jnp.all(jnp.isfinite(numbers))

        params = optax.apply_updates(state.params, updates)
        ema = average(state, params)
        if after_step:
            params, ema, extra = after_step(params, ema, extra, state.step)
        new = (params, ema, opt_state, extra)
        old = (state.params, state.ema, state.opt_state, state.extra)
        params, ema, opt_state, extra = jax.tree.map(
            lambda a, b: jnp.where(finite, a, b), new, old
        )
        bad = jnp.int32(~finite)
        extra = {
            **extra,
            "bad_steps": state.extra["bad_steps"] + bad,
            "bad_in_a_row": bad * (state.extra["bad_in_a_row"] + 1),
        }
        metrics = {
            **metrics,
            "grad_norm": norm,
            # Skipped steps do not count for the optimizer.
            "lr": jnp.float32(learning_rate(state.step - state.extra["bad_steps"])),
            "bad_steps": extra["bad_steps"],
            "bad_in_a_row": extra["bad_in_a_row"],
        }
        state = TrainState(state.step + 1, params, ema, opt_state, extra)
        return state, metrics

    def accumulated(state, frozen, keys, batch):
        if accumulate == 1:
            return grads_fn(state.params, frozen, state.extra, state.step, keys, batch)

        def parts(x):
            # Part i takes rows i, i + accumulate, ...: every part has rows of every
            # device, so none has to be moved.
            return x.reshape(-1, accumulate, *x.shape[1:]).swapaxes(0, 1)

        def one(carry, part):
            extra, total = carry
            keys, batch = part
            grads, extra, metrics = grads_fn(
                state.params, frozen, extra, state.step, keys, batch
            )
            return (extra, jax.tree.map(jnp.add, total, grads)), metrics

        def all_parts(unroll):
            return lambda carry, inputs: lax.scan(one, carry, inputs, unroll=unroll)

        inputs = jax.tree.map(parts, (keys, batch))
        nothing = jax.tree.map(jnp.zeros_like, state.params)
        # In a loop XLA's CPU compiler has no fast code for the gradients of
        # convolutions: 0.33 s against 6.0 s for two parts of the demo.
        (extra, total), metrics = lax.platform_dependent(
            *((state.extra, nothing), inputs),
            cpu=all_parts(unroll=True),
            default=all_parts(unroll=1),
        )
        grads = jax.tree.map(lambda x: x / accumulate, total)
        metrics = jax.tree.map(lambda x: jnp.mean(x, axis=0), metrics)
        return grads, extra, metrics

    def average(state, params):
        if not (ema_decay or ema_std):
            return {}
        n = state.step - state.extra["bad_steps"] + 1
        if ema_std:
            # 1 - (1 - 1 / n)^(p + 1), which float32 rounds away at a million steps.
            share = -jnp.expm1((power_of(ema_std) + 1) * jnp.log1p(-1 / n))
        else:
            # The originals' warm-up: the first update averages with 2 / 11.
            share = 1 - jnp.minimum(ema_decay, (1 + n) / (10 + n))
        return optax.incremental_update(params, state.ema, share)

    return train_step
