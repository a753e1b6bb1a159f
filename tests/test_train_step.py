import dataclasses

import helpers
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ldm_jax import optim, system, train_step, trees

RATE = 0.1


def toy_grads(params, frozen, extra, step, keys, batch):
    """The gradient is the batch's mean times a frozen number; `extra` counts."""
    mean = jnp.mean(batch["image"])
    grads = jax.tree.map(lambda p: frozen["scale"] * mean + 0 * p, params)
    extra = {**extra, "seen": extra["seen"] + mean}
    return grads, extra, {"loss": jnp.mean(batch["loss"])}


def toy_step(ema_decay=0.5, accumulate=1):
    tx = optax.adam(RATE) if ema_decay == 0 else optax.sgd(RATE)
    step = train_step.make_train_step(
        toy_grads,
        tx,
        lambda step: RATE / (step + 1),
        seed=0,
        ema_decay=ema_decay,
        accumulate=accumulate,
    )
    params = {"unet": {"w": jnp.array([1.0, 2.0])}}
    state = train_step.init_state(params, {"seen": jnp.float32(0)}, tx, ema_decay)
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
        param -= RATE * 2
        decay = [2 / 11, 3 / 12, 0.3, 0.3, 0.3][n - 1]
        wanted = decay * wanted + (1 - decay) * param
        assert float(state.params["unet"]["w"][0]) == pytest.approx(param, rel=1e-5)
        assert float(state.ema["unet"]["w"][0]) == pytest.approx(wanted, rel=1e-5)


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
        gap = helpers.largest_difference(getattr(held, name), getattr(before, name))
        assert name == "opt_state" or gap == 0
    assert float(held.extra["seen"]) == float(before.extra["seen"])
    assert int(numbers["bad_steps"]) == int(numbers["bad_in_a_row"]) == 2
    assert not np.isfinite(float(numbers["loss"]) + float(numbers["grad_norm"]))

    after, numbers = step(held, FROZEN, good)
    wanted, _ = step(before, FROZEN, good)
    assert int(after.step) == 4
    assert helpers.largest_difference(after.params, wanted.params) == 0
    assert helpers.largest_difference(after.ema, wanted.ema) < 1e-6
    assert int(numbers["bad_steps"]) == 2 and int(numbers["bad_in_a_row"]) == 0
    assert np.isfinite(float(numbers["grad_norm"]))


def test_the_optimizer_forgets_a_bad_step_too():
    step, state = toy_step(ema_decay=0)  # the one with Adam
    before, _ = step(state, FROZEN, toy_batch(1.0, 1.0))
    held, _ = step(before, FROZEN, toy_batch(np.nan, 1.0))
    assert helpers.largest_difference(held.opt_state, before.opt_state) == 0
    after, _ = step(held, FROZEN, toy_batch(1.0, 1.0))
    assert helpers.largest_difference(after.opt_state, held.opt_state) > 0


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
    step: dict  # accumulate -> the step, compiled from shapes alone


@pytest.fixture(scope="module")
def rig():
    """The tiny text-to-image system, as it starts; Adam, so that nothing decays."""
    c = helpers.tiny_config()
    c.optim.update(optimizer="adam", lr=1e-2, schedule="constant")
    built = system.build(c)
    tx = optim.make(c.optim)

    def init(rng):
        trained, frozen = trees.split(built.init(rng), c.train.trainable)
        return train_step.init_state(trained, {}, tx, 0.999), frozen

    rng = jax.random.key(0, impl="unsafe_rbg")
    shapes = jax.eval_shape(init, rng)
    step = {}
    for accumulate in (1, 4):
        one = train_step.make_train_step(
            built.grads,
            tx,
            optim.learning_rate(c.optim),
            seed=0,
            ema_decay=0.999,
            accumulate=accumulate,
        )
        step[accumulate] = jax.jit(one).lower(*shapes, built.batch).compile()
    state, frozen = jax.jit(init)(rng)
    return Rig(built, state, frozen, helpers.random_batch(built.batch), step)


def test_parts_add_up_to_the_big_batch(rig):
    """From random weights, so that every gradient is there; Adam's moments show it."""
    params = helpers.random_params(rig.state.params)
    state = dataclasses.replace(rig.state, params=params)
    (one, numbers), (four, other) = (
        rig.step[n](state, rig.frozen, rig.batch) for n in (1, 4)
    )
    moments = [jax.tree.leaves(s.opt_state) for s in (one, four)]
    largest = 0.0
    for a, b in zip(*moments, strict=True):
        largest = max(largest, float(np.abs(a).max()))
        np.testing.assert_allclose(a, b, atol=1e-5 * max(1.0, largest))
    assert largest > 0.01
    for name in ("loss", "grad_norm"):
        assert float(numbers[name]) == pytest.approx(float(other[name]), rel=1e-5)


def test_a_step_compiled_from_shapes_trains_everything_and_only_that(rig):
    """Four steps: gradients reach one layer of zeros deeper with each."""
    assert set(rig.state.params) == {"unet", "cond_stage"}
    assert set(rig.frozen) == {"first_stage"}
    frozen = jax.tree.map(np.array, rig.frozen)
    state, seen = rig.state, []
    for _ in range(4):
        state, numbers = rig.step[1](state, rig.frozen, rig.batch)
        seen.append(float(numbers["loss"]))
    assert int(state.step) == 4 and np.all(np.isfinite(seen))
    assert int(numbers["bad_steps"]) == 0
    start, now = trees.flatten(rig.state.params), trees.flatten(state.params)
    still = [name for name in start if not np.any(start[name] != now[name])]
    assert not still
    averaged = trees.flatten(state.ema)
    assert all(np.any(averaged[name] != now[name]) for name in now)
    assert helpers.largest_difference(frozen, rig.frozen) == 0


def test_the_loss_falls_on_one_batch(rig):
    """Its noise is new at every step, so the fall is seen over many."""
    state, seen = rig.state, []
    for _ in range(60):
        state, numbers = rig.step[1](state, rig.frozen, rig.batch)
        seen.append(float(numbers["loss"]))
    assert np.mean(seen[-15:]) < 0.9 * np.mean(seen[:3])


def test_a_picture_of_nan_is_skipped_by_the_real_step(rig):
    broken = jax.tree.map(lambda leaf: leaf * np.nan, rig.frozen)
    state, numbers = rig.step[4](rig.state, broken, rig.batch)
    assert int(numbers["bad_steps"]) == 1 and int(state.step) == 1
    for name in ("params", "ema", "opt_state"):
        now, before = getattr(state, name), getattr(rig.state, name)
        assert helpers.largest_difference(now, before) == 0
    state, numbers = rig.step[4](state, rig.frozen, rig.batch)
    assert int(numbers["bad_in_a_row"]) == 0 and np.isfinite(float(numbers["loss"]))
    assert helpers.largest_difference(state.params, rig.state.params) > 0
