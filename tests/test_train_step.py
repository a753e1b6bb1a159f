from collections.abc import Callable
import dataclasses
import re

import helpers
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ldm_jax import optim, sharding, system, train_step, trees

RATE = 0.1


def toy_grads(params, frozen, extra, step, keys, batch):
    """The gradient is the batch's mean times a frozen number; `extra` counts."""
    mean = jnp.mean(batch["image"])
    grads = jax.tree.map(lambda p: frozen["scale"] * mean + 0 * p, params)
    extra = {**extra, "seen": extra["seen"] + mean}
    return grads, extra, {"loss": jnp.mean(batch["loss"])}


def toy_step(ema_decay=0.5, accumulate=1, ema_std=0.0):
    tx = optax.adam(RATE)
    step = train_step.make_train_step(
        toy_grads,
        tx,
        lambda step: RATE / (step + 1),
        seed=0,
        ema_decay=ema_decay,
        ema_std=ema_std,
        accumulate=accumulate,
    )
    params = {"unet": {"w": jnp.array([1.0, 2.0])}}
    averaged = bool(ema_decay or ema_std)
    state = train_step.init_state(params, {"seen": jnp.float32(0)}, tx, averaged)
    return jax.jit(step), state


FROZEN = {"scale": jnp.float32(2)}


def toy_batch(*values, loss=0.0):
    image = jnp.array(values, jnp.float32)
    return {"image": image, "loss": jnp.full(image.shape, loss)}


def test_the_average_warms_up():
    """(1 + n) / (10 + n) from n = 1, until that exceeds the decay."""
    step, state = toy_step(ema_decay=0.3)
    wanted = param = 1.0
    for n in range(1, 6):
        state, _ = step(state, FROZEN, toy_batch(1.0, 1.0))
        param -= RATE  # Adam on one gradient again and again
        decay = [2 / 11, 3 / 12, 0.3, 0.3, 0.3][n - 1]
        wanted = decay * wanted + (1 - decay) * param
        assert float(state.params["unet"]["w"][0]) == pytest.approx(param, abs=1e-5)
        assert float(state.ema["unet"]["w"][0]) == pytest.approx(wanted, abs=1e-5)


@pytest.mark.parametrize("std", [0.05, 0.1, 0.25])
def test_the_power_average_weighs_by_a_power_of_the_step(std):
    """Step n of N counts as the growth of (n / N)^(p + 1), whose spread is `std`."""
    power = train_step.power_of(std)
    shares = np.linspace(0, 1, 200_001)
    weights = shares**power / np.sum(shares**power)
    mean = np.sum(weights * shares)
    assert np.sqrt(np.sum(weights * (shares - mean) ** 2)) == pytest.approx(std, 1e-3)

    step, state = toy_step(ema_decay=0, ema_std=std)
    params = []
    for _ in range(6):
        state, _ = step(state, FROZEN, toy_batch(1.0, 1.0))
        params.append(float(state.params["unet"]["w"][0]))
    grown = np.diff((np.arange(7) / 6) ** (power + 1))
    # Discrete steps: the weight of n is n^(p+1) - (n-1)^(p+1), over 6^(p+1).
    wanted = np.sum(grown * params)
    assert float(state.ema["unet"]["w"][0]) == pytest.approx(wanted, abs=1e-5)


def test_the_power_average_is_exact_after_a_million_steps():
    step, state = toy_step(ema_decay=0, ema_std=0.1)
    zeros = jax.tree.map(jnp.zeros_like, state.params)
    told = dict(params=zeros, ema=zeros, step=jnp.int32(999_999))
    state, _ = step(dataclasses.replace(state, **told), FROZEN, toy_batch(1.0, 1.0))
    share = 1 - (1 - 1e-6) ** (train_step.power_of(0.1) + 1)
    wanted = share * float(state.params["unet"]["w"][0])
    assert float(state.ema["unet"]["w"][0]) == pytest.approx(wanted, rel=1e-4)


def test_no_average_where_the_decay_is_0():
    step, state = toy_step(ema_decay=0)
    assert state.ema == {}
    state, _ = step(state, FROZEN, toy_batch(1.0, 1.0))
    assert state.ema == {}


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize(
    "bad",
    [toy_batch(np.nan, 1.0), toy_batch(1.0, np.inf), toy_batch(1.0, 1.0, loss=np.nan)],
    ids=["nan", "inf", "loss"],
)
def test_a_step_that_is_not_finite_is_as_if_it_had_not_been(bad, accumulate):
    step, state = toy_step(ema_decay=0.5, accumulate=accumulate)
    good = toy_batch(1.0, 3.0)
    before, _ = step(state, FROZEN, good)
    held, numbers = step(before, FROZEN, bad)
    held, numbers = step(held, FROZEN, bad)
    assert int(held.step) == 3
    for name in ("params", "ema", "opt_state"):
        now, then = getattr(held, name), getattr(before, name)
        assert helpers.largest_difference(now, then) == 0
    assert float(held.extra["seen"]) == float(before.extra["seen"])
    assert int(numbers["bad_steps"]) == int(numbers["bad_in_a_row"]) == 2
    assert not np.isfinite(float(numbers["loss"]) + float(numbers["grad_norm"]))

    after, numbers = step(held, FROZEN, good)
    wanted, _ = step(before, FROZEN, good)
    assert int(after.step) == 4
    assert helpers.largest_difference(after.params, wanted.params) == 0
    assert helpers.largest_difference(after.ema, wanted.ema) == 0
    assert helpers.largest_difference(after.params, held.params) > 0.5 * RATE
    assert int(numbers["bad_steps"]) == 2 and int(numbers["bad_in_a_row"]) == 0
    assert np.isfinite(float(numbers["grad_norm"]))


def test_numbers_that_are_reported():
    step, state = toy_step()
    state, numbers = step(state, FROZEN, toy_batch(1.0, 2.0, loss=7.0))
    assert set(numbers) == {"loss", "grad_norm", "lr", "bad_steps", "bad_in_a_row"}
    assert float(numbers["loss"]) == 7
    assert float(numbers["grad_norm"]) == pytest.approx(3 * np.sqrt(2))
    assert float(numbers["lr"]) == pytest.approx(RATE)
    _, numbers = step(state, FROZEN, toy_batch(1.0, 2.0))
    assert float(numbers["lr"]) == pytest.approx(RATE / 2)


def test_extra_goes_through_the_parts_one_after_the_other():
    step, state = toy_step(accumulate=2)
    state, _ = step(state, FROZEN, toy_batch(1.0, 3.0))
    assert float(state.extra["seen"]) == 4
    assert set(state.extra) == {"seen", "bad_steps", "bad_in_a_row"}


def test_an_update_that_is_not_finite_is_skipped_too():
    """A rate that is NaN from the third step on, with gradients that are fine."""
    rate = lambda step: jnp.where(step < 2, RATE, jnp.nan)
    step = train_step.make_train_step(
        toy_grads, optax.sgd(rate), rate, seed=0, ema_decay=0, accumulate=1
    )
    params = {"unet": {"w": jnp.ones(2)}}
    start = {"seen": jnp.float32(0)}
    state = train_step.init_state(params, start, optax.sgd(rate), 0)
    for _ in range(4):
        state, numbers = jax.jit(step)(state, FROZEN, toy_batch(1.0, 1.0))
    assert int(numbers["bad_in_a_row"]) == 2
    assert np.all(np.isfinite(state.params["unet"]["w"]))


def test_a_skipped_step_leaves_the_rate_where_it_was():
    step, state = toy_step()
    state, _ = step(state, FROZEN, toy_batch(np.nan, 1.0))
    _, numbers = step(state, FROZEN, toy_batch(1.0, 1.0))
    assert float(numbers["lr"]) == pytest.approx(RATE)


def test_parts_of_a_spread_batch_stay_where_they_are():
    """Each device has rows of each part: no row is sent to another device."""
    mesh = sharding.make_mesh()
    rows = sharding.batch_sharding(mesh)

    def grads(params, frozen, extra, step, keys, batch):
        loss = jnp.mean(batch["image"] ** 2)
        return params, extra, {"loss": loss}

    tx = optax.sgd(RATE)
    step = train_step.make_train_step(
        grads, tx, lambda step: RATE, seed=0, ema_decay=0, accumulate=2
    )
    state = train_step.init_state({"w": jnp.ones(2)}, {}, tx, 0)
    shape = jax.ShapeDtypeStruct((2 * mesh.size, 1000), jnp.float32, sharding=rows)
    program = jax.jit(step).lower(state, {}, {"image": shape}).compile().as_text()
    sent = re.compile("all-gather|all-to-all|all-reduce|collective-permute")
    moved = [x for x in program.splitlines() if "1000" in x and sent.search(x)]
    assert mesh.size == 4 and not moved
    assert "all-reduce" in program  # of the mean: it does run on all of them


def test_keys_belong_to_pictures():
    data = lambda *args: np.asarray(jax.random.key_data(train_step.picture_keys(*args)))
    small, large = data(0, 3, 4), data(0, 3, 8)
    np.testing.assert_array_equal(large[:4], small)
    assert len({row.tobytes() for row in large}) == 8
    assert np.all(data(0, 4, 4) != small) and np.all(data(1, 3, 4) != small)


@dataclasses.dataclass(frozen=True)
class Rig:
    system: system.System
    state: train_step.TrainState
    frozen: dict
    batch: dict
    step: Callable  # of four parts, compiled from shapes alone


@pytest.fixture(scope="module")
def rig():
    """Text to image, smaller still, on weights of which none is zero.

    With Adam, so that no parameter changes by decay alone.
    """
    c = helpers.tiny_config()
    c.unet.update(mult=(1,), depths=(1,))
    c.optim.update(optimizer="adam", schedule="constant")
    built = system.build(c)
    tx = optim.make(c.optim)
    start = lambda params: train_step.init_state(params, {}, tx, 0.999)
    step = train_step.make_train_step(
        built.grads,
        tx,
        optim.learning_rate(c.optim),
        seed=0,
        ema_decay=0.999,
        accumulate=4,
    )
    shapes = jax.eval_shape(built.init, jax.random.key(0))
    trained, frozen = trees.split(shapes, c.train.trainable)
    shapes = jax.eval_shape(start, trained), frozen, built.batch
    step = jax.jit(step).lower(*shapes).compile()
    state = jax.jit(start)(helpers.random_params(trained))
    frozen = helpers.random_params(frozen)
    return Rig(built, state, frozen, helpers.random_batch(built.batch), step)


def test_parts_add_up_to_the_big_batch(rig):
    """Adam's first moments are a tenth of the gradients that it was given."""

    @jax.jit
    def whole(state, frozen, batch):
        keys = train_step.picture_keys(0, state.step, 4)
        told = state.params, frozen, state.extra, state.step, keys, batch
        grads, _, metrics = rig.system.grads(*told)
        return grads, metrics["loss"]

    grads, loss = whole(rig.state, rig.frozen, rig.batch)
    state, numbers = rig.step(rig.state, rig.frozen, rig.batch)
    assert float(numbers["loss"]) == pytest.approx(float(loss), rel=1e-5)
    norm = float(optax.tree.norm(grads))
    assert float(numbers["grad_norm"]) == pytest.approx(norm, rel=1e-5)
    chain = state.opt_state.inner_states["generator"].inner_state
    moments = optax.tree.get(chain, "mu")
    tenth = jax.tree.map(lambda g: 0.1 * g, grads)
    assert helpers.largest_difference(tenth, moments) < 1e-5 * max(1.0, norm)


def test_a_step_compiled_from_shapes_trains_everything_and_only_that(rig):
    assert set(rig.state.params) == {"unet", "cond_stage"}
    assert set(rig.frozen) == {"first_stage"}
    frozen = jax.tree.map(np.array, rig.frozen)
    state = rig.state
    for _ in range(2):
        state, numbers = rig.step(state, rig.frozen, rig.batch)
    assert int(state.step) == 2 and int(numbers["bad_steps"]) == 0
    start, now = trees.flatten(rig.state.params), trees.flatten(state.params)
    assert [name for name in start if not np.any(start[name] != now[name])] == []
    averaged = trees.flatten(state.ema)
    assert all(np.any(averaged[name] != now[name]) for name in now)
    assert helpers.largest_difference(frozen, rig.frozen) == 0


def test_the_real_step_skips_what_is_not_finite(rig):
    broken = jax.tree.map(lambda leaf: leaf * np.nan, rig.frozen)
    state, numbers = rig.step(rig.state, broken, rig.batch)
    assert int(numbers["bad_steps"]) == 1 and int(state.step) == 1
    for name in ("params", "ema", "opt_state"):
        now, before = getattr(state, name), getattr(rig.state, name)
        assert helpers.largest_difference(now, before) == 0
    state, numbers = rig.step(state, rig.frozen, rig.batch)
    assert int(numbers["bad_in_a_row"]) == 0 and np.isfinite(float(numbers["loss"]))
    assert helpers.largest_difference(state.params, rig.state.params) > 0
