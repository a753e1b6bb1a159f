"""From noise to pictures as a config's section `sample` says: System.draw and .develop.

A batch of sampling has what the conditioner reads, and may have

    scale      [B] float32  guidance of each picture, in place of knobs["scale"]
    image      [B, H, W, 3] uint8  the picture to begin with, to keep, or both
    mask       [B, H, W] uint8     1 in the hole: the rest of `image` is kept
    toward     [B] typed keys, of the noise that `variation` leads to
    variation  [B] float32  share of the way there

The mask is that of in-painting models (1: painted anew); the argument `mask` of the
originals' samplers is its complement.
"""

import functools

from jax import lax
import jax.numpy as jnp

from ldm_jax import denoise as denoise_lib
from ldm_jax import draws, guidance, names, pictures, samplers


def make(
    section, paints, schedule, denoise, conditioner, condition, mean, decode, latent
):
    """(draw, develop) of a section `sample`; paints: whether a mask is a condition.

    draw     (params, keys, batch, knobs) -> z_0
    develop  (params, z_0, batch) -> x, which is float32 in about [-1, 1]
    condition, mean, decode: (params, batch) -> Cond, (params, x) -> z_0 and back;
    latent: (h, w, c) of one z.
    """
    sampler = names.pick(samplers.SAMPLERS, section.sampler)
    rule_of = names.pick(guidance.RULES, section.guidance)

    def guided(params, batch, knobs):
        weight = guidance.weight_at(knobs["table"], batch.get("scale", knobs["scale"]))
        rule = rule_of(schedule, knobs)
        rule = guidance.with_rescale(rule, schedule, knobs["rescale"])
        if section.guide:
            weaker = guidance.of_role(denoise, "guide")
            return guidance.with_guide(denoise, weaker, rule, weight)
        if conditioner.null is None:
            return denoise
        null = condition(params, conditioner.null(batch))
        null = denoise_lib.heard(null, knobs["hints"], "untold")
        return guidance.with_cfg(denoise, null, rule, weight)

    def draw(params, keys, batch, knobs):
        grid, walk = knobs["grid"], guided(params, batch, knobs)
        if section.threshold:
            walk = guidance.with_threshold(walk, schedule, knobs["threshold"])
        z = draws.initial_noise(keys, latent)
        if section.strength < 1 and "image" not in batch:
            raise ValueError(
                f"sample.strength {section.strength} walks the last steps only, from a "
                "picture, and there is none: it must be 1"
            )
        if "toward" in batch:
            other = draws.initial_noise(batch["toward"], latent)
            z = draws.between(z, other, batch["variation"])
        if "image" in batch:
            z_known = mean(params, pictures.to_float(batch["image"]))
            z = jnp.where(knobs["begun"], noised(z_known, z, grid.alpha_bar[0]), z)
            if "mask" in batch and not paints:
                hole = shrunk(batch["mask"], latent[0])
                walk = denoise_lib.with_known(walk, schedule, z_known, hole)
        cond = denoise_lib.heard(condition(params, batch), knobs["hints"], "told")
        return sampler(walk, params, keys, z, cond, grid, knobs)

    return draw, developer(decode)


@functools.cache
def developer(decode):
    """develop of a decode: one for all samplers, so that it is compiled once."""

    def develop(params, z_0, batch):
        x = decode(params, z_0)
        if "mask" not in batch:
            return x
        # What is not in the hole is known, and better than any first stage draws it.
        hole = batch["mask"][..., None] > 0
        return jnp.where(hole, x, pictures.to_float(batch["image"]))

    return develop


def noised(z_0, eps, alpha_bar):
    """z_0 with as much noise as there is at alpha_bar."""
    return jnp.sqrt(alpha_bar) * z_0 + jnp.sqrt(1 - alpha_bar) * eps


def shrunk(mask, side):
    """bool [B, side, side, 1] of a mask [B, H, W]: whether any of its pixels is 1."""
    window = mask.shape[1] // side
    size = (1, window, window)
    found = lax.reduce_window(
        mask, jnp.zeros((), mask.dtype), lax.max, size, size, "VALID"
    )
    return found[..., None] > 0
