"""What is timed: training steps on random weights, and rounds of several things."""

import time

import jax
import jax.numpy as jnp
import numpy as np

from ldm_jax import runs, train_step, trees
from ldm_jax import system as system_lib


def inputs(shapes):
    """Random arrays of the shapes, all small."""
    gen = np.random.default_rng(0)

    def draw(s):
        if jnp.issubdtype(s.dtype, jnp.integer):
            return gen.integers(0, 200, s.shape).astype(s.dtype)
        return (0.02 * gen.standard_normal(s.shape, np.float32)).astype(s.dtype)

    return jax.tree.map(draw, shapes)


def params(system):
    """Random parameters of a System, on the device."""
    return jax.device_put(inputs(jax.eval_shape(system.init, jax.random.key(0))))


def training(config, optimizer=None):
    """A function that does one training step, compiled.

    optimizer: (tx, rate) instead of the config's.
    """
    system = system_lib.build(config)
    trained, frozen = trees.split(params(system), config.train.trainable)
    tx, rate = optimizer or runs.optimizer(config)
    step = train_step.make_train_step(
        system.grads,
        tx,
        rate,
        seed=0,
        ema_decay=config.train.ema_decay,
        accumulate=1,
    )
    batch = inputs(system.batch)
    step = jax.jit(step, donate_argnums=0)
    averaged = bool(config.train.ema_decay)
    state = [step(train_step.init_state(trained, {}, tx, averaged), frozen, batch)[0]]
    del trained

    def run():
        state[0] = jax.block_until_ready(step(state[0], frozen, batch)[0])

    return run


def rounds(timed, count):
    """{name: seconds of each round} of {name: function}, one after the other in each.

    What else the machine does so falls on all alike.
    """
    seconds = {name: [] for name in timed}
    for _ in range(count):
        for name, run in timed.items():
            began = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - began)
    return seconds
