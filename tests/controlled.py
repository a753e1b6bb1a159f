"""A small System with two control branches, for the tests of them."""

import helpers
import jax
import jax.numpy as jnp
import numpy as np

from ldm_jax import (
    config,
    control,
    system,
    trees,
)

BATCH, SIDE = 4, 8
ALL_ALIKE = dict(cond_stage=dict(kind="none", classes=0, drop=0.0))
ALL_ALIKE |= dict(sample=dict(scale=1.0), unet=dict(mid_depth=0))
CONNECTIONS = 5  # of two levels with a block each


def config_of(hints=("canny", "depth"), **sections):
    """Classes to pictures of 8x8, in pixels: as little to compile as there may be."""
    c = config.latent_diffusion()
    c.data.update(name="emoji_scenes", image_size=SIDE, batch_size=BATCH)
    c.first_stage.update(kind="identity", mult=(1,), attention=(0,))
    c.cond_stage.update(kind="label", classes=5, width=8, drop=0.25)
    c.unet.update(channels=8, mult=(1, 2), blocks=1, depths=(0, 0), mid_depth=1)
    c.unet.update(head_channels=8, groups=4)
    c.control.update(hints=hints, channels=(4, 8))
    c.train.update(pictures=2, trainable=hints[:1])
    c.sample.update(grid="trailing", steps=2, scale=3.0)
    for section, changes in sections.items():
        c[section].update(changes)
    return config.check(c)


def fresh(params, *names):
    """The parameters with those branches as new ones: what connects them is zero."""

    def silent(path, leaf):
        mine = path.split("/")[0] in names
        connects = path.split("/")[1].startswith(("zero_", "hint_out"))
        return 0 * leaf if mine and connects else leaf

    return trees.nested({k: silent(k, v) for k, v in trees.flatten(params).items()})


def params_of(built):
    return helpers.random_params(jax.eval_shape(built.init, jax.random.key(0)))


def batch_of(built):
    gen = np.random.default_rng(0)
    batch = helpers.random_batch(built.heldout)
    if "label" in batch:
        batch["label"] = jnp.asarray(gen.integers(0, 4, BATCH), jnp.int32)
    return batch


def without(batch, *hints):
    return {k: v for k, v in batch.items() if k not in map(control.key, hints)}


def asker(built):
    """(params, z_t, t, batch, strengths=None) -> Pred, compiled."""

    def run(params, z_t, t, batch, strengths=None):
        cond = built.condition(params, batch)
        if strengths is not None:
            cond = cond.replace(strengths=strengths)
        return built.denoise(params, z_t, t, cond)

    return jax.jit(run)


Z_T, T = helpers.normal(7, BATCH, SIDE, SIDE, 3), jnp.array([0.0, 9.5, 500.0, 999.0])


def assert_same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def rigged(c):
    """(system, params, keys, batch with all hints); no parameter is zero."""
    built = system.build(c)
    keys = jax.random.split(jax.random.key(1), BATCH)
    return built, params_of(built), keys, batch_of(built)
