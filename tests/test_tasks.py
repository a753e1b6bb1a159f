"""Every task of the paper's table, small: a step of training, and what is drawn."""

import dataclasses

import helpers
import jax
import numpy as np
import pytest
import tiny_text_to_image

from ldm_jax import config as config_lib
from ldm_jax import inputs, knobs, system, trees
from ldm_jax.data import labels

TOLD = {
    "layout": dict(kind="layout", classes=7, vocab=8192, length=17, width=16),
    "label": dict(kind="label", classes=267, width=16),
    "segmentation": dict(
        kind="segmentation", classes=len(labels.SEGMENTS), width=4, stages=1
    ),
    "low_res": dict(kind="low_res", stages=1),
    "inpainting": dict(kind="none", inpaint="ldm"),
}
# What of a batch each is told by.
SAID = {
    "layout": "tokens",
    "label": "label",
    "segmentation": "segmentation",
    "low_res": "low_res",
    "inpainting": "image",
}


@dataclasses.dataclass
class Made:
    config: object
    system: system.System
    params: dict
    batch: dict
    keys: jax.Array


def config_of(task, image_size=None):
    c = tiny_text_to_image.get_config().copy_and_resolve_references()
    c.data.image_size = image_size or c.data.image_size
    c.cond_stage.update(TOLD[task])
    c.data.name = "emoji_singles" if task == "label" else "emoji_scenes"
    if task not in ("layout", "label"):
        c.cond_stage.drop, c.sample.scale = 0.0, 1.0
    return config_lib.check(c)


@pytest.fixture(scope="module", params=TOLD)
def made(request):
    c = config_of(request.param)
    built = system.build(c)
    with inputs.batches(c, tuple(built.batch)) as batches:
        batch = next(batches)
    params = helpers.random_params(jax.eval_shape(built.init, jax.random.key(0)))
    keys = jax.random.split(jax.random.key(1), c.data.batch_size)
    return request.param, Made(c, built, params, batch, keys)


def test_a_step_reaches_every_parameter_that_is_trained(made):
    task, m = made
    trained, frozen = trees.split(m.params, m.config.train.trainable)
    step = jax.jit(m.system.grads, static_argnums=3)
    grads, _, told = step(trained, frozen, {}, 0, m.keys, m.batch)
    assert np.isfinite(told["loss"])
    still = [p for p, g in trees.flatten(grads).items() if not np.any(g)]
    # One token's attention is 1 whatever it is asked; nobody says the other classes.
    assert not still or task == "label" and all("cross/" in p for p in still), still


def test_pictures_are_what_they_are_told(made):
    """The same noise, told something else, gives another picture, row by row."""
    task, m = made
    draw = jax.jit(m.system.sample)
    x = draw(m.params, m.keys, m.batch, knobs.of(m.config))
    assert x.shape == m.batch["image"].shape and np.isfinite(x).all()
    name = SAID[task]
    other = m.batch[name].copy()
    other[0] = 7 if task == "label" else np.roll(other[-1], 3, axis=0)
    if task == "inpainting":  # what is not in the hole
        other = np.where(m.batch["mask"][..., None], m.batch[name], other)
    y = draw(m.params, m.keys, {**m.batch, name: other}, knobs.of(m.config))
    gaps = np.abs(np.asarray(x) - np.asarray(y))
    if task == "inpainting":  # what is around the hole is copied
        gaps = gaps * m.batch["mask"][..., None]
    gaps = gaps.max((1, 2, 3))
    assert gaps[0] > 1e-3 and (gaps[1:] == 0).all()


@pytest.mark.parametrize("task", ["segmentation", "low_res"])
def test_maps_and_small_pictures_may_be_larger_than_in_training(task):
    """The same parameters draw twice the side, and each corner what is said there."""
    size = config_of(task).data.image_size
    small, large = (config_of(task, times * size) for times in (1, 2))
    shapes, same = (
        jax.eval_shape(system.build(c).init, jax.random.key(0)) for c in (small, large)
    )
    assert jax.tree.map(np.shape, shapes) == jax.tree.map(np.shape, same)
    params, built = helpers.random_params(shapes), system.build(large)
    with inputs.batches(large, tuple(built.batch)) as batches:
        batch = next(batches)
    keys = jax.random.split(jax.random.key(1), large.data.batch_size)
    draw, name = jax.jit(built.sample), SAID[task]
    x = draw(params, keys, batch, knobs.of(large))
    assert x.shape == (len(keys), 2 * size, 2 * size, 3) and np.isfinite(x).all()
    other, side = batch[name].copy(), batch[name].shape[1] // 4
    other[:, :side, :side] = (other[:, :side, :side] + 5) % len(labels.SEGMENTS)
    gaps = np.abs(draw(params, keys, {**batch, name: other}, knobs.of(large)) - x)
    part = size // 2
    assert gaps[:, :part, :part].mean() > 2 * gaps[:, -part:, -part:].mean() > 0
