"""Depth and joints, which a judge may read: errors and figures by hand, and a step."""

import helpers
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny_judge

from ldm_jax import config, inputs, judge_loss, sharding, system, trees, validation
from ldm_jax.data import labels

SIDE = 2  # places of the hand-made pictures, of 2x2 pixels each


@pytest.fixture(scope="module")
def built():
    """(config, system, parameters, a batch of scenes, one of them with a person)."""
    c = tiny_judge.get_config("reader")
    made = system.build(c)
    params = helpers.random_params(jax.eval_shape(made.init, jax.random.key(0)))
    with inputs.batches(c, tuple(made.batch)) as batches:
        batch = jax.tree.map(jnp.asarray, next(batches))
    joints = np.zeros((4, labels.JOINTS, 3), np.float32)
    joints[2] = np.random.default_rng(0).uniform(size=(labels.JOINTS, 3))
    joints[2, :, 2] = 1
    return c, made, params, batch | {"joints": jnp.asarray(joints)}


def hand_made():
    """(batch, logits) of two 4x4 pictures, of which the second has no person.

    Joint 0 is seen where it is; joint 1 is in the lower right and seen in the upper
    left; joint 2 is seen in the upper right, just within reach of the upper left.
    The depths of the first are those of truth and half, and the second is seen upside
    down.
    """
    joints = np.zeros((2, labels.JOINTS, 3), np.float32)
    joints[0, :3] = (0.1, 0.9, 1), (0.9, 0.95, 1), (0.05, 0.3, 1)
    depth = np.random.default_rng(0).uniform(0.2, 0.8, (2, 4, 4)).astype(np.float32)
    seen = np.zeros((2, SIDE, SIDE, labels.JOINTS), np.float32)
    seen[0, 1, 0, 0] = seen[0, 0, 0, 1] = seen[0, 0, 1, 2] = 2
    batch = {"image": np.zeros((2, 4, 4, 3), np.uint8), "joints": joints}
    batch |= {"depth": depth}
    pixels = np.stack([depth[0] + 0.5, 1 - depth[1]])
    logits = {"depth": judge_loss.places(pixels[..., None], 2), "joints": seen}
    return jax.tree.map(jnp.asarray, (batch, logits))


def made_by_hand(reads=("depth", "joints"), **changes):
    """(grads, validate) of a judge whose logits are its parameters."""
    loss = config.judge().loss
    loss.update(changes)
    return map(jax.jit, judge_loss.make(lambda params, x: params, reads, loss))


def test_pixels_come_back_from_their_places():
    x = jnp.arange(2.0 * 4 * 6).reshape(2, 4, 6)
    found = judge_loss.by_pixel(judge_loss.places(x[..., None], 2))
    np.testing.assert_array_equal(found, x)


def test_the_loss_is_that_of_the_hand():
    batch, logits = hand_made()
    _, validate = made_by_hand(depth_weight=0.5, joints_weight=3.0)
    norm = np.log(np.exp(2) + 3)  # of one logit of 2 and three of 0
    joints = np.array([(norm - 2 + 2 * norm) / labels.JOINTS, 0])
    upside_down = np.abs(1 - 2 * np.asarray(batch["depth"][1])).mean()
    depth = np.array([0.5, upside_down])
    told = validate(logits, None, batch)["loss"]
    np.testing.assert_allclose(told, 0.5 * depth + 3 * joints, rtol=1e-5)


def test_figures_are_those_of_the_hand():
    batch, logits = hand_made()
    _, validate = made_by_hand()
    told = validate(logits, None, batch)
    np.testing.assert_allclose(told["depth_correlation"], [1, -1], rtol=1e-5)
    np.testing.assert_array_equal(told["joints_found"], [2, 0])
    np.testing.assert_array_equal(told["joints_visible"], [3, 0])
    assert {x.shape for x in told.values()} == {(2,)}


def test_what_is_even_correlates_with_nothing():
    """And has a slope that is a number."""
    flat, x = jnp.ones((1, 4, 4)), jnp.arange(16.0).reshape(1, 4, 4)
    told = jax.jit(jax.value_and_grad(lambda a: judge_loss.correlation(a, x)[0]))(flat)
    assert told[0] == 0 and np.isfinite(told[1]).all()


def test_a_picture_without_a_person_teaches_no_joints():
    batch, logits = hand_made()
    grads, _ = made_by_hand()
    slope, _, metrics = grads(logits, {}, {}, 0, None, batch)
    assert np.abs(slope["joints"][0, ..., :3]).min() > 0
    np.testing.assert_array_equal(slope["joints"][0, ..., 3:], 0)
    np.testing.assert_array_equal(slope["joints"][1], 0)
    nobody = {key: x[1:] for key, x in batch.items()}
    slope, _, metrics = grads(
        {k: x[1:] for k, x in logits.items()}, {}, {}, 0, None, nobody
    )
    assert metrics["joints"] == 0
    assert all(np.isfinite(x).all() for x in jax.tree.leaves((slope, metrics)))


@pytest.mark.parametrize("name", ["depth", "joints"])
def test_a_judge_learns_what_it_reads_alone(name):
    batch, logits = hand_made()
    grads, _ = made_by_hand((name,))
    slope, _, metrics = grads(logits, {}, {}, 0, None, batch)
    assert set(metrics) == {"loss", name} and metrics["loss"] == metrics[name]
    assert [k for k, x in slope.items() if np.abs(x).max() > 0] == [name]


def test_a_joint_is_within_reach_or_not():
    truth = jnp.asarray([[[0.5, 0.5, 1]] * 3 + [[0.5, 0.5, 0]]])
    joints = jnp.asarray([[[0.5, 0.59], [0.57, 0.57], [0.5, 0.6], [0.5, 0.5]]])
    near = judge_loss.near(joints, truth, 16)
    np.testing.assert_array_equal(near, [[True, False, False, False]])


def test_a_reader_says_depth_and_joints(built):
    c, made, params, batch = built
    assert set(made.batch) == {"image", "depth", "joints"}
    for name, shape in made.batch.items():
        assert (batch[name].shape, batch[name].dtype) == (shape.shape, shape.dtype)
    logits = jax.jit(made.judge)(params, jnp.zeros((2, 16, 16, 3)))
    assert logits["depth"].shape == (2, 4, 4, c.judge.patch**2)
    assert logits["joints"].shape == (2, 4, 4, labels.JOINTS)
    told = jax.jit(made.validate)(params, None, batch)
    for value in told.values():
        assert value.shape == (4,) and np.isfinite(value).all()


def test_steps_lower_its_loss(built):
    """And every parameter moves, those of the last layer by each head."""
    _, made, params, batch = built
    rate = optax.chain(optax.normalize_by_update_norm(), optax.sgd(0.3))

    @jax.jit
    def step(params):
        slope, _, told = made.grads(params, {}, {}, 0, None, batch)
        updates, _ = rate.update(slope, rate.init(params))
        return optax.apply_updates(params, updates), slope, told["loss"]

    moved, slope, before = step(params)
    flat = trees.flatten(slope)
    assert [name for name, x in flat.items() if not np.abs(x).max() > 0] == []
    assert np.abs(flat["unet/conv_out/kernel"]).max((0, 1, 2)).min() > 0
    assert step(moved)[2] < before


def test_a_picture_stands_beside_its_depth_and_joints(built):
    c, made, params, batch = built
    validator = validation.Validator(c, made, sharding.make_mesh(), {})
    drawn = np.asarray(jax.jit(validator._pictures)(params, None, batch))
    assert drawn.shape == (4, 5, 16, 16, 3) and drawn.dtype == np.uint8
    np.testing.assert_array_equal(drawn[:, 0], batch["image"])
    depth = np.round(255 * np.asarray(batch["depth"]))
    assert np.abs(drawn[:, 1, ..., 0] - depth).max() <= 1
    lit = drawn[:, 3].reshape(4, -1).any(1)
    np.testing.assert_array_equal(lit, [False, False, True, False])


def test_what_a_judge_reads_is_checked():
    for reads in ((), ("depth", "depth"), ("things", "poses")):
        c = config.judge()
        c.judge.reads = reads
        with pytest.raises(ValueError, match="judge.reads .* must be one or more of"):
            config.check(c)
    c.judge.reads = ("depth", "joints")
    with pytest.raises(ValueError, match="unet.out_channels 282 must be 34: what a"):
        config.check(c)
