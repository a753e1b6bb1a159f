"""The judge's task: what it learns from which pixels, by hand on tiny pictures."""

import helpers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_judge

from ldm_jax import config, inputs, judge_loss, sharding, system, trees, validation
from ldm_jax.data import labels

NONE = 3  # of the tiny cases: things 0..2


@pytest.fixture(scope="module")
def built():
    """(system, parameters of which none is zero, a batch of the data set)."""
    c = tiny_judge.get_config()
    made = system.build(c)
    params = helpers.random_params(jax.eval_shape(made.init, jax.random.key(0)))
    with inputs.batches(c, tuple(made.batch)) as batches:
        return made, params, jax.tree.map(jnp.asarray, next(batches))


def hand_made():
    """(batch, logits) of one 4x4 picture on 2x2 places, seen in part.

    Of thing 1 two pixels lie in the upper left place, one in the upper right and one in
    the lower left. It is seen in the first alone; in the second a thing 2 is.
    """
    instances = np.zeros((1, 4, 4), np.uint8)
    instances[0, :2, 1] = instances[0, 1, 2] = instances[0, 2, 0] = 1
    segments = np.zeros((1, 4, 4), np.uint8)
    segments[0, :2] = 5
    batch = {
        "image": np.zeros((1, 4, 4, 3), np.uint8),
        "instances": instances,
        "segmentation": segments,
        "sprites": np.array([[1, -1, -1, -1, -1]], np.int32),
    }
    said = np.array([[[1, 2], [NONE, NONE]]])
    logits = {
        "things": jnp.asarray(2.0 * jax.nn.one_hot(said, NONE + 1)),
        "segments": jnp.zeros((1, 2, 2, 6)).at[:, 1, :, 0].set(1.0),
    }
    return jax.tree.map(jnp.asarray, batch), logits


def knobs(**changes):
    loss = config.judge().loss
    loss.update(changes)
    return loss


def made_by_hand(**changes):
    """(grads, validate, batch) of a judge whose logits are its parameters."""
    batch, logits = hand_made()
    grads, validate = judge_loss.make(
        lambda params, x: params, config.judge().judge.reads, knobs(**changes)
    )
    return jax.jit(grads), jax.jit(validate), batch, logits


def test_places_keep_their_pixels():
    x = jnp.arange(2 * 4 * 6 * 3).reshape(2, 4, 6, 3)
    found = judge_loss.places(x, 2)
    assert found.shape == (2, 2, 3, 12)
    for row, column in ((0, 2), (1, 0)):
        square = x[1, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
        np.testing.assert_array_equal(found[1, row, column], square.reshape(-1))


def test_every_pixel_has_its_thing():
    batch, _ = hand_made()
    things = judge_loss.things_of(batch, NONE)
    wanted = np.where(np.asarray(batch["instances"]) == 1, 1, NONE)
    np.testing.assert_array_equal(things, wanted)


@pytest.mark.parametrize(
    ("balance", "own", "other"), [(0.0, 1.0, 1.0), (1.0, 2.0, 2 / 3), (0.5, None, None)]
)
def test_weights_make_objects_count_alike(balance, own, other):
    batch, _ = hand_made()  # 4 pixels of 16 are the object's
    found = np.asarray(judge_loss.weights(batch["instances"], 5, balance))
    inside = np.asarray(batch["instances"]) == 1
    assert found.mean() == pytest.approx(1)
    ratio = found[inside].mean() / found[~inside].mean()
    assert ratio == pytest.approx(3**balance)
    if own is not None:
        np.testing.assert_allclose(found[inside], own, rtol=1e-6)
        np.testing.assert_allclose(found[~inside], other, rtol=1e-6)


def test_the_loss_is_that_of_the_hand():
    """Without balance: each pixel's cross-entropy by the logits of its place."""
    _, validate, batch, logits = made_by_hand(balance=0.0, segments_weight=0.25)
    told = validate(logits, None, batch)
    norm = np.log(np.exp(2) + 3)  # of a place with one logit of 2 and three of 0
    # Pixels whose thing is the likeliest: 2 of 4, 0, 3 of 4 and 4 of 4.
    things = norm - 2 * (2 + 0 + 3 + 4) / 16
    segments = (np.log(6) + np.log(np.exp(1) + 5) - 1) / 2
    np.testing.assert_allclose(told["loss"], [things + 0.25 * segments], rtol=1e-6)


def test_accuracies_are_those_of_the_hand():
    _, validate, batch, logits = made_by_hand()
    told = validate(logits, None, batch)
    assert told["pixels_right"] == pytest.approx(9 / 16)
    assert told["objects_right"] == pytest.approx(2 / 4)
    # All six are alike above, so that the first is seen there: wrong.
    assert told["segments_right"] == pytest.approx(1 / 2)
    assert {x.shape for x in told.values()} == {(1,)}


def test_a_balanced_loss_hears_objects_more():
    """At balance 1 the object's four pixels are as much as the twelve others."""
    grads, _, batch, logits = made_by_hand(balance=1.0, segments_weight=0.0)
    slope, _, metrics = grads(logits, {}, {}, 0, None, batch)
    norm = np.log(np.exp(2) + 3)
    # Of the object 2 of 4 pixels are seen, of the rest 7 of 12.
    things = norm - 2 * (2 / 4 + 7 / 12) / 2
    assert float(metrics["loss"]) == pytest.approx(things, rel=1e-6)
    assert float(metrics["things"]) == pytest.approx(things, rel=1e-6)
    np.testing.assert_array_equal(slope["segments"], 0)


def test_a_judge_sees_things_and_segments(built):
    made, params, batch = built
    assert made.sample is None and made.encode is None and made.decode is None
    assert set(made.batch) == {"image", "segmentation", "instances", "sprites"}
    for name, shape in made.batch.items():
        assert (batch[name].shape, batch[name].dtype) == (shape.shape, shape.dtype)
    logits = jax.jit(made.judge)(params, jnp.zeros((2, 16, 16, 3)))
    assert logits["things"].shape == (2, 4, 4, labels.NONE + 1)
    assert logits["segments"].shape == (2, 4, 4, len(labels.SEGMENTS))
    assert {x.dtype for x in logits.values()} == {jnp.dtype("float32")}


def test_both_heads_learn(built):
    """Gradients reach every parameter, and those of the last layer by each head."""
    made, params, batch = built
    slope, extra, metrics = jax.jit(made.grads)(params, {}, {}, 0, None, batch)
    assert extra == {}
    flat = trees.flatten(slope)
    assert [name for name, x in flat.items() if not np.abs(x).max() > 0] == []
    last = np.abs(flat["unet/conv_out/kernel"]).max((0, 1, 2))
    assert len(last) == labels.NONE + 1 + len(labels.SEGMENTS) and last.min() > 0
    parts = metrics["things"] + 0.5 * metrics["segments"]
    assert float(metrics["loss"]) == pytest.approx(float(parts), rel=1e-6)


def test_validation_numbers_are_per_picture(built):
    made, params, batch = built
    told = jax.jit(made.validate)(params, None, batch)
    names = {"loss", "pixels_right", "objects_right", "segments_right"}
    assert set(told) == names
    for value in told.values():
        assert value.shape == (4,) and np.isfinite(value).all()


def test_a_picture_stands_beside_its_segments(built):
    made, params, batch = built
    validator = validation.Validator(
        tiny_judge.get_config(), made, sharding.make_mesh(), {}
    )
    drawn = np.asarray(jax.jit(validator._pictures)(params, None, batch))
    assert drawn.shape == (4, 3, 16, 16, 3) and drawn.dtype == np.uint8
    np.testing.assert_array_equal(drawn[:, 0], batch["image"])
    for i in range(4):
        for number in np.unique(batch["segmentation"][i]):
            colours = drawn[i, 1][np.asarray(batch["segmentation"][i]) == number]
            assert len(np.unique(colours, axis=0)) == 1


BROKEN = {
    "unet.out_channels 5 must be 282": {
        "unet": dict(out_channels=5),
    },
    "judge.patch is 0, it must be at least 1": {"judge": dict(patch=0)},
    "unet.attention 'transformer' must be 'plain'": {
        "unet": dict(attention="transformer"),
    },
    "unet.dropout 0.1 must be 0": {"unet": dict(dropout=0.1)},
    "loss.balance -1.0 must be 0 or more": {"loss": dict(balance=-1.0)},
    "data.image_size 18 must be a multiple of 4 for this model (judge.patch 4, UNet "
    "levels 1)": {"data": dict(image_size=18)},
    "unet.channels 6 times 1": {"unet": dict(channels=6)},
}


@pytest.mark.parametrize("words", BROKEN)
def test_knobs_that_contradict_each_other_are_refused(words):
    c = tiny_judge.get_config()
    for section, changes in BROKEN[words].items():
        c[section].update(changes)
    with pytest.raises(ValueError) as caught:
        config.check(c)
    assert words in str(caught.value)
