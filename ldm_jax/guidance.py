"""Guidance: two predictions of one z_t, and how a better one is made of them.

    rule(told, untold, z_t, t, weight) -> Pred

    told    Pred of the network that is told the condition
    untold  Pred of the null condition, or of a weaker network
    weight  [B] float32, the scale of guidance of each picture at this t: 1 is `told`

`with_cfg` and `with_guide` turn a denoise into one that is guided by a rule: the
first asks one network twice, the second two networks once. The weight may change
with t: `weights` is the table of how much of the scale is due at each t, `weight_at`
reads it. `with_rescale` and `with_threshold` tame what a high scale does to contrast.

Every number is traced, so that another one compiles nothing. All but `cfg_pp` keep

    z_t = sqrt(alpha_bar) z_0 + sqrt(1 - alpha_bar) eps.                     (*)

A new rule is one function, and one entry of RULES.
"""

import jax
import jax.numpy as jnp
import numpy as np

from ldm_jax import denoise as denoise_lib
from ldm_jax import names
from ldm_jax import schedule as schedule_lib

PICTURE = (1, 2, 3)  # the axes of one picture in a batch [B, h, w, c]


def cfg(told, untold, z_t, t, weight):
    """Classifier-free guidance (Ho and Salimans, 2022).

    guided = (1 - weight) untold + weight told

    on both fields. That guides eps, and z_0 follows by itself: both satisfy (*) with
    the same z_t, and weights that add up to one keep a linear equation true. A weight
    of 1 is `told` to the bit, 0 `untold`.
    """
    del t

    def mix(untold, told):
        share = schedule_lib.per_picture(weight, z_t)
        return (1.0 - share) * untold + share * told

    return jax.tree.map(mix, untold, told)


def cfg_pp(told, untold, z_t, t, weight):
    """CFG++ (Chung et al., 2024, algorithm 2): z_0 is guided, eps is the untold one.

    This breaks (*) on purpose: the step goes to the guided z_0, and back to noise by
    an eps that guidance has not pushed off what noise looks like. It is for samplers
    that renoise by eps, which are DDIM and its kin. One that reads eps alone would not
    be guided at all; one that reads z_0 alone gets `cfg` at a low scale.

    The weight is the paper's lambda, in [0, 1]: from the unconditional sample at 0 to
    the z_0 of `told` at 1, which does what `cfg` does at about 12 (the authors' README
    has lambda from 0 to 1 stand for 1 to 12.5). So a weight of 1 is not the absence of
    guidance, and an interval or a shape other than "constant" makes no sense here.
    """
    return cfg(told, untold, z_t, t, weight).replace(eps=untold.eps)


def apg(schedule, radius, parallel):
    """Adaptive projected guidance (Sadat et al., 2024, algorithm 1): a rule.

    The guided z_0 is told + (weight - 1) update. The update is told - untold, with

    - its norm limited to `radius` (the paper's r; 0: no limit);
    - its part along told.z_0, which is the one that oversaturates, multiplied by
      `parallel` (the paper's eta; 1 with radius 0 is `cfg`).

    Norms and projections are of a whole picture, so `radius` grows with its size. eps
    follows from (*). The paper's momentum (a negative one, over the steps) is left out:
    it needs a state that lives from step to step, and a denoise has none.
    """

    def rule(told, untold, z_t, t, weight):
        toward = told.z_0
        update = toward - untold.z_0
        limit = schedule_lib.per_picture(radius, z_t)
        reach = limit / jnp.sqrt(dot(update, update))
        update *= jnp.where(limit > 0, jnp.minimum(reach, 1.0), 1.0)
        tiny = jnp.finfo(jnp.float32).tiny  # an empty told.z_0 has no direction
        along = dot(update, toward) / jnp.maximum(dot(toward, toward), tiny) * toward
        update += (schedule_lib.per_picture(parallel, z_t) - 1.0) * along
        extra = schedule_lib.per_picture(weight, z_t) - 1.0
        return moved(told, schedule, toward + extra * update, t)

    return rule


def dot(a, b):
    """Inner products of pictures: [B, h, w, c] twice -> [B, 1, 1, 1]."""
    return jnp.sum(a * b, axis=PICTURE, keepdims=True)


def moved(pred, schedule, z_0, t):
    """The Pred of another z_0 for the same z_t: eps moves so as to keep (*).

    It is written with the difference, so that nothing moves eps by nothing, to the bit.
    """
    signal, noise = schedule_lib.signal_and_noise(schedule, t, z_0)
    return denoise_lib.Pred(z_0, pred.eps - signal / noise * (z_0 - pred.z_0))


# name in a config -> make(schedule, knobs) -> rule; knobs is a dict of traced numbers.
RULES = {
    "cfg": lambda schedule, knobs: cfg,
    "cfg_pp": lambda schedule, knobs: cfg_pp,
    "apg": lambda schedule, knobs: apg(
        schedule, knobs["apg_radius"], knobs["apg_parallel"]
    ),
}


def with_rescale(rule, schedule, share):
    """The rule, with the contrast of `told` (Lin et al., 2023, section 3.4).

    v = guided_v (share std(told_v) / std(guided_v) + 1 - share)

    over all of a picture. The paper's network predicts v; here it is the v of both
    fields, sqrt(alpha_bar) eps - sqrt(1 - alpha_bar) z_0, whatever the network
    predicts: eps says nothing of z_0 where alpha_bar is 0, and z_0 nothing of eps where
    it is 1, but v is defined, and gives both fields back, at both ends.

    share: the paper's phi, a number or [B]; 0 is the guided Pred to the bit, and 0.7
    what the paper found best.
    """

    def rescaled(told, untold, z_t, t, weight):
        guided = rule(told, untold, z_t, t, weight)
        v_told, v = (
            schedule_lib.target(schedule, "v", pred.z_0, pred.eps, t)
            for pred in (told, guided)
        )
        wide, ours = (jnp.std(x, axis=PICTURE, keepdims=True) for x in (v_told, v))
        ratio = jnp.where(ours > 0, wide / ours, 1.0)  # a fresh network may say v = 0
        # What v changes by turns z_0 and eps, as schedule.solve would. It is added to
        # them, so that a rule that breaks (*) is left to do so.
        change = schedule_lib.per_picture(share, z_t) * (ratio - 1.0) * v
        signal, noise = schedule_lib.signal_and_noise(schedule, t, z_t)
        return denoise_lib.Pred(
            guided.z_0 - noise * change, guided.eps + signal * change
        )

    return rescaled


def with_cfg(denoise, null, rule, weight):
    """The denoise guided away from "no condition", in one batch of 2B.

    null: the Cond of "no condition", with the tree and the shapes of cond.
    weight: t [B] -> [B], as from `weight_at`.
    Wrap it last: what is inside then sees, and controls, both halves.
    """

    def guided(params, z_t, t, cond, rng=None):
        denoise_lib.check_null(cond, null)
        stack = denoise_lib.stack
        both = jax.tree.map(stack, null, cond)  # [uncond, cond], LDM's order
        pred = denoise(params, stack(z_t, z_t), stack(t, t), both, rng)
        untold = jax.tree.map(lambda x: x[: len(z_t)], pred)
        told = jax.tree.map(lambda x: x[len(z_t) :], pred)
        return rule(told, untold, z_t, t, weight(t))

    return guided


def with_guide(denoise, guide, rule, weight):
    """Autoguidance (Karras et al., 2024): guided away from a weaker model's errors.

    guide: a denoise that is told the same cond, of a network that was trained for less
    long on the same data (or is smaller, where one writes its denoise); see `of_role`.
    weight: t [B] -> [B], as from `weight_at`.
    """

    def guided(params, z_t, t, cond, rng=None):
        told, weaker = (d(params, z_t, t, cond, rng) for d in (denoise, guide))
        return rule(told, weaker, z_t, t, weight(t))

    return guided


def of_role(denoise, role):
    """The denoise whose network is params[role] in place of params["unet"]."""

    def other(params, z_t, t, cond, rng=None):
        return denoise({**params, "unet": params[role]}, z_t, t, cond, rng)

    return other


# How much of (scale - 1) is due at a share t / (T - 1) of the noise range. The two that
# rise as the noise falls are the "linear" and the "cosine" of Wang et al. (2024),
# normalised as there, so that their mean over t is that of "constant".
SHAPES = {
    "constant": np.ones_like,
    "linear": lambda noise: 2.0 * (1.0 - noise),
    "cosine": lambda noise: 1.0 + np.cos(np.pi * noise),
}


def weights(schedule, shape, interval):
    """How much of (scale - 1) is due at t = 0 .. T - 1: float32 numpy [T].

    shape: one of SHAPES.
    interval: (low, high), shares of the noise range t / (T - 1), ends included; 0
    outside of it (Kynkaanniemi et al., 2024, eq. 6, who state it in sigma). What the
    interval cuts off is not made up for inside.
    Raises ValueError unless 0 <= low < high <= 1.
    """
    low, high = interval
    if not 0 <= low < high <= 1:
        raise ValueError(
            f"the interval of guidance is ({low}, {high}), but must be shares of the "
            "noise range with 0 <= low < high <= 1"
        )
    total = schedule.num_timesteps
    noise = np.arange(total) / (total - 1)
    inside = (low <= noise) & (noise <= high)
    return np.where(inside, names.pick(SHAPES, shape)(noise), 0.0).astype(np.float32)


def weight_at(table, scale):
    """The function t [B] -> 1 + (scale - 1) table [B], between the integers a line.

    t is clamped to [0, T - 1]. scale: a number or [B]; 1 is a weight of 1 everywhere.
    """

    def weight(t):
        return 1.0 + (scale - 1.0) * jnp.interp(t, np.arange(len(table)), table)

    return weight


def with_threshold(denoise, schedule, quantile):
    """Dynamic thresholding (Saharia et al., 2022, Imagen, section 2.3) of z_0.

    Of each picture: s = max(1, quantile of |z_0|), and z_0 is clipped to [-s, s] and
    divided by s (in the other order here, or rounding leaves [-1, 1]); eps follows from
    (*). It is for data in [-1, 1], which is pixels: latents have no such bounds. Wrap
    it around guidance, which is what leaves them.

    quantile: one number in [0, 1]; the higher, the less is clipped.
    """

    def thresholded(params, z_t, t, cond, rng=None):
        pred = denoise(params, z_t, t, cond, rng)
        size = jnp.abs(pred.z_0).reshape(len(z_t), -1)
        s = jnp.quantile(size, jnp.asarray(quantile, jnp.float32), axis=1)
        s = schedule_lib.per_picture(jnp.maximum(s, 1.0), z_t)
        return moved(pred, schedule, jnp.clip(pred.z_0 / s, -1.0, 1.0), t)

    return thresholded
