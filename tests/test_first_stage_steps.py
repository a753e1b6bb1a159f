"""Train steps of first stages: what a discriminator may not do, and what codes do."""

import functools

import helpers
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax import config, optim, system, train, train_step, trees
from ldm_jax.models import perceptual

START = 2  # the first step with a discriminator
CODES = 24
TABLE = "first_stage/codebook/codes/embedding"


def config_of(kind, **changes):
    c = helpers.tiny_autoencoder_config()
    c.first_stage.mid_attention = False
    c.loss.update(disc_start=START, disc_weight=0.6)
    if kind == "vq":
        c.first_stage.update(kind="vq", codes=CODES)
    else:
        c.loss.kl_weight = 1e-3
    c.loss.update(changes)
    return config.check(c)


@functools.cache
def judge():
    params = helpers.random_params(perceptual.shapes("alexnet"), scale=1.4, seed=1)
    params["heads"] = jax.tree.map(jnp.abs, params["heads"])
    return {"perceptual": params}


def frozen_of(c):
    return judge() if c.loss.perceptual_weight else {}


def batch_of(c, step):
    return helpers.random_batch(system.build(c).batch, seed=step)


def stepper(c, grads=None):
    """(first state, its compiled step: (state, batch) -> (state, metrics))."""
    built = system.build(c)
    tx = optim.make(c.optim)
    step = train_step.make_train_step(
        grads or built.grads,
        tx,
        optim.learning_rate(c.optim),
        seed=0,
        ema_decay=c.train.ema_decay,
        accumulate=c.train.accumulate,
        after_step=built.after_step,
    )
    params = helpers.random_params(jax.eval_shape(built.init, jax.random.key(0)))
    extra = built.init_extra(params)
    state = train_step.init_state(params, extra, tx, c.train.ema_decay)
    run, frozen = jax.jit(step), frozen_of(c)
    return state, lambda state, batch: run(state, frozen, batch)


def after(c, state, step, count):
    """The states after each of `count` steps, and what the last one told."""
    states = []
    for i in range(count):
        state, told = step(state, batch_of(c, i))
        states.append(state)
    return states, told


def generators(state):
    """What is trained besides the discriminator, and its moments: {path: array}."""
    parts = (
        state.params["first_stage"],
        state.ema["first_stage"],
        state.opt_state.inner_states["generator"],
    )
    return {k: np.asarray(v) for k, v in trees.flatten(parts).items()}


def different(one, other):
    """The paths whose arrays differ in a bit."""
    one, other = generators(one), generators(other)
    assert one.keys() == other.keys() and len(one) > 100
    return [k for k in one if not np.array_equal(one[k], other[k])]


@pytest.fixture(scope="module", params=["kl", "vq"])
def steps(request):
    """(config, first state, step) of each kind, with a discriminator."""
    c = config_of(request.param)
    return c, *stepper(c)


@pytest.fixture(scope="module")
def states(steps):
    c, state, step = steps
    return after(c, state, step, START + 1)[0]


def test_before_its_start_a_discriminator_changes_no_bit(steps, states):
    """Of parameters, averages and moments; from then on it does."""
    c, state, _ = steps
    bare = config_of(c.first_stage.kind, disc_weight=0.0)
    told = after(bare, *stepper(bare), START + 1)
    for with_it, without in zip(states[:START], told[0][:START], strict=True):
        assert different(with_it, without) == []
    moved = different(states[START], told[0][START])
    assert len(moved) > 50
    start, last = state.params["discriminator"], told[0][START].params["discriminator"]
    assert helpers.largest_difference(start, last) == 0
    before, now = (s.params["discriminator"] for s in (states[START - 1], states[-1]))
    assert helpers.largest_difference(start, before) == 0
    assert helpers.largest_difference(start, now) > 1e-4


def test_a_broken_discriminator_waits_too_and_then_ends_the_run(steps, states):
    """Chosen by `where`: NaN times 0 would be NaN."""
    c, state, step = steps
    broken = jax.tree.map(lambda a: a * np.nan, state.params["discriminator"])
    now = state.replace(params={**state.params, "discriminator": broken})
    for i in range(START):
        now, told = step(now, batch_of(c, i))
        assert np.isfinite(float(told["loss"])) and np.isfinite(told["grad_norm"])
        assert different(now, states[i]) == []
        train.check_finite(jax.device_get(told), i, 3)
    assert int(told["bad_steps"]) == 0
    held = now
    for i in range(START, START + 3):
        now, told = step(now, batch_of(c, i))
        assert different(now, held) == []
        assert int(told["bad_in_a_row"]) == i - START + 1
    with pytest.raises(FloatingPointError, match=r"step 5: 3 steps in a row .* step 2"):
        train.check_finite(jax.device_get(told), 5, 3)


def test_one_broken_move_of_the_discriminator_is_skipped_and_counted():
    c = config_of("kl", perceptual_weight=0.0)
    grads = system.build(c).grads

    def poisoned(params, frozen, extra, step, keys, batch):
        found, extra, told = grads(params, frozen, extra, step, keys, batch)
        bad = jnp.where(step == START, jnp.nan, 0.0)
        disc = jax.tree.map(lambda g: g + bad, found["discriminator"])
        return {**found, "discriminator": disc}, extra, told

    state, step = stepper(c, poisoned)
    (*_, before), _ = after(c, state, step, START)
    skipped, told = step(before, batch_of(c, START))
    assert int(skipped.step) == START + 1
    assert int(told["bad_steps"]) == int(told["bad_in_a_row"]) == 1
    for name in ("params", "ema", "opt_state"):
        now, then = getattr(skipped, name), getattr(before, name)
        assert helpers.largest_difference(now, then) == 0
    counters = {"bad_steps": 1, "bad_in_a_row": 1}
    assert skipped.extra.keys() == before.extra.keys()
    for key, value in before.extra.items():
        if key not in counters:
            assert helpers.largest_difference(skipped.extra[key], value) == 0

    state = skipped
    for i in range(START + 1, START + 3):
        state, told = step(state, batch_of(c, i))
        assert float(told["gan_weight"]) > 0
    assert int(told["bad_steps"]) == 1 and int(told["bad_in_a_row"]) == 0
    assert np.isfinite(float(told["loss"]))
    assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(state))
    for name in ("first_stage", "discriminator"):
        now, then = state.params[name], before.params[name]
        assert helpers.largest_difference(now, then) > 1e-4


def chosen_of(c, params, batch):
    """Which codes a batch chooses: bool [CODES]."""
    built = system.build(c)
    x = np.float32(batch["image"]) / 127.5 - 1
    indices = jax.jit(built.encode_indices)(params, x)
    return np.bincount(np.ravel(indices), minlength=CODES) > 0


PATIENCE = 2


@pytest.fixture(scope="module")
def codes():
    """(config, states, chosen) of three steps in two parts, with restarts."""
    c = config_of("vq", perceptual_weight=0.0, disc_weight=0.0, restart_after=PATIENCE)
    c.train.update(accumulate=2, ema_decay=0.9)
    state, step = stepper(config.check(c))
    states, chosen = [state], []
    for i in range(3):
        batch = batch_of(c, i)
        chosen.append(chosen_of(c, states[-1].params, batch))
        states.append(step(states[-1], batch)[0])
    return c, states, chosen


def test_both_parts_of_a_batch_choose(codes):
    """A code that either part chose was used at this step."""
    _, states, chosen = codes
    last_used = np.asarray(states[1].extra["codes"]["last_used"])
    np.testing.assert_array_equal(last_used == 0, chosen[0])
    assert 0 < chosen[0].sum() < CODES


def test_codes_restart_after_as_many_steps_as_batches_not_parts(codes):
    """The first step restarts none, the second all that were in neither."""
    _, states, chosen = codes
    tables = [np.asarray(trees.flatten(s.params)[TABLE]) for s in states]
    averages = [np.asarray(trees.flatten(s.ema)[TABLE]) for s in states]
    spares = [np.asarray(s.extra["codes"]["spare"]) for s in states]
    new = [np.all(tables[i] == spares[i], axis=-1) for i in range(4)]
    assert not np.any(new[1])
    dead = ~(chosen[0] | chosen[1])
    assert 0 < dead.sum() < CODES
    np.testing.assert_array_equal(new[2], dead)
    # In the average a code starts anew too; of the others it lags behind.
    np.testing.assert_array_equal(averages[2][dead], spares[2][dead])
    alive = chosen[0] | chosen[1]
    assert np.any(averages[2][alive] != tables[2][alive])
    # Its clock did too: one step later none of them is dead again.
    assert not np.any(new[3][dead])
    last_used = np.asarray(states[2].extra["codes"]["last_used"])
    np.testing.assert_array_equal(last_used[dead], 1)


def test_parts_add_up_to_the_whole_batch_of_codes(codes):
    """Adam's first moments after one step are half the gradients (beta_1 is 0.5)."""
    c, states, _ = codes
    built = system.build(c)

    @jax.jit
    def whole(state, batch):
        keys = train_step.picture_keys(0, state.step, 4)
        told = state.params, {}, state.extra, state.step, keys, batch
        return built.grads(*told)[0]["first_stage"]

    grads = whole(states[0], batch_of(c, 0))
    moments = states[1].opt_state.inner_states["generator"].inner_state[0].mu
    half = jax.tree.map(lambda g: 0.5 * g, grads)
    gap = helpers.largest_difference(half, moments["first_stage"])
    assert gap < 1e-4 * max(np.abs(g).max() for g in jax.tree.leaves(half))
    assert np.any(moments["first_stage"]["codebook"]["codes"]["embedding"])
