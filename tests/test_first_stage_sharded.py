"""A whole VQ step, GAN term and restarts included, on one device and on four."""

import functools

import helpers
import jax
import numpy as np
import pytest

from ldm_jax import config, optim, sharding, system, train_step, trees

STEPS = 4


def vq():
    c = helpers.tiny_autoencoder_config()
    c.first_stage.update(kind="vq", codes=64, mid_attention=False)
    c.loss.update(perceptual_weight=0.0, disc_start=0, restart_after=2)
    c.loss.lecam_weight = 0.1
    return config.check(c)


@functools.cache
def trained(devices):
    """(state, metrics of every step) after STEPS on a mesh of so many devices."""
    c = vq()
    built, tx = system.build(c), optim.make(c.optim)
    step = train_step.make_train_step(
        built.grads,
        tx,
        optim.learning_rate(c.optim),
        seed=0,
        ema_decay=0.5,
        accumulate=1,
        after_step=built.after_step,
    )
    params = helpers.random_params(jax.eval_shape(built.init, jax.random.key(0)))
    state = train_step.init_state(params, built.init_extra(params), tx, 0.5)
    mesh = sharding.make_mesh(devices=jax.devices()[:devices])
    state = jax.device_put(state, sharding.params_sharding(state, mesh))
    run, told = jax.jit(step), []
    for i in range(STEPS):
        batch = helpers.random_batch(built.batch, seed=i)
        batch = jax.device_put(batch, sharding.batch_sharding(mesh))
        state, metrics = run(state, {}, batch)
        told.append(jax.device_get(metrics))
    return jax.device_get(state), told


@pytest.mark.parametrize("part", ["params", "ema", "extra"])
def test_four_devices_train_what_one_does(part):
    one, four = (getattr(trained(n)[0], part) for n in (1, 4))
    one, four = trees.flatten(one), trees.flatten(four)
    for name, leaf in one.items():
        np.testing.assert_allclose(four[name], leaf, atol=2e-4, err_msg=name)


def test_codes_did_restart_and_both_agree_which():
    one, four = (trained(n)[1] for n in (1, 4))
    restarted = [int(row["restarted"]) for row in one]
    assert sum(restarted) > 0
    assert restarted == [int(row["restarted"]) for row in four]
    watched = [trained(n)[0].extra["codes"]["last_used"] for n in (1, 4)]
    np.testing.assert_array_equal(*watched)
