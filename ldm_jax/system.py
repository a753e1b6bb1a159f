"""`build(config)`: the record of pure functions that every entry point is made of."""

from collections.abc import Callable
import dataclasses
import functools
import inspect

import jax
import jax.numpy as jnp

from ldm_jax import (
    branches,
    diffusion_loss,
    first_stage,
    first_stage_loss,
    judge_loss,
    kept_texts,
    losses,
    names,
    pictures,
    sampling,
)
from ldm_jax import denoise as denoise_lib
from ldm_jax import schedule as schedule_lib
from ldm_jax.models import conditioners, controlnet
from ldm_jax.models import unet as unet_lib

MICRO_WIDTH = conditioners.MICRO_WIDTH
OBJECTS = 5  # of a picture: labels.MAX_OBJECTS


@dataclasses.dataclass(frozen=True)
class System:
    """Pure functions over `params`, one dict with a top level by role.

    `keys` is one random key per picture. What a task does not have is None.
    """

    init: Callable  # (rng) -> params
    init_extra: Callable  # (params) -> extra: what steps change besides params
    grads: Callable  # (params, frozen, extra, step, keys, batch)
    #                  -> (grads, extra, metrics)
    validate: Callable  # (params, keys, batch) -> {name: [B]}, on fixed noise
    batch: dict  # name -> ShapeDtypeStruct of one global batch of training
    heldout: dict | None = None  # the same of validation, which has pictures and
    #                              captions where training may have what was kept
    posterior: Callable | None = None  # (params, x) -> Posterior or Point, unscaled,
    #                                    to be kept
    latent: Callable | None = None  # (keys, posterior) -> z_0, drawn from it and scaled
    encode: Callable | None = None  # (params, keys, x) -> z_0: both of them
    decode: Callable | None = None  # (params, z_0) -> x
    encode_indices: Callable | None = None  # (params, x) -> codes, int32 [B, h, w]
    decode_indices: Callable | None = None  # (params, codes) -> x
    after_step: Callable | None = None  # (params, ema, extra, step) -> the first three
    condition: Callable | None = None  # (params, batch) -> Cond
    denoise: Callable | None = None  # (params, z_t, t, cond, rng=None) -> Pred
    sample: Callable | None = None  # (params, keys, batch, knobs) -> x, which is
    draw: Callable | None = None  # (params, keys, batch, knobs) -> z_0, and then
    develop: Callable | None = None  # (params, z_0, batch) -> x
    judge: Callable | None = None  # (params, x) -> {head of judge.reads: logits
    #                                [B, h, w, ...], float32}


def build(config):
    """The System of a checked config. Allocates nothing."""
    return names.pick(TASKS, config.task)(config)


def arch_of_unet(config):
    return names.record(unet_lib.Arch, config.unet)


def arch_of_first_stage(config):
    return first_stage.arch(config.first_stage)


def encoders(config):
    """{name: shape} of the CLIP encoders that a config listens to."""
    return conditioners.encoders_of(config.cond_stage.encoders, config.cond_stage.vocab)


def condition_shapes(config):
    """The Cond of one picture, as shapes."""
    system = build(config)
    params = jax.eval_shape(system.init, jax.random.key(0))
    one = {
        name: jax.ShapeDtypeStruct((1, *x.shape[1:]), x.dtype)
        for name, x in system.heldout.items()
    }
    return jax.eval_shape(system.condition, params, one)


def vector_width(config):
    """Width of what joins the time embedding."""
    return condition_shapes(config).vector.shape[-1]


def branch(config):
    """The ControlNet of a config's UNet; all of its hints have the same."""
    factor = arch_of_first_stage(config).factor
    return branches.net(config.control, arch_of_unet(config), factor)


def init_control(config):
    """(rng) -> parameters of a control branch for a config's UNet, its trunk drawn."""

    def init(rng):
        return branches.init(branch(config), rng, condition_shapes(config))

    return init


def _inputs(config, shapes):
    """The shapes of a batch of pictures, and of what goes with them."""
    size = config.data.image_size
    return _shaped(config, {"image": ((size, size, 3), "uint8")} | shapes)


def _shaped(config, shapes):
    return {
        name: jax.ShapeDtypeStruct((config.data.batch_size, *shape), jnp.dtype(dtype))
        for name, (shape, dtype) in shapes.items()
    }


def _autoencoder(config):
    size = config.data.image_size
    net, _, stage = first_stage.make(config.first_stage, 1.0)
    loss = first_stage_loss.make(net, config.discriminator, config.loss)

    def init(rng):
        net_rng, disc_rng = jax.random.split(rng)
        x = jnp.zeros((1, size, size, 3))
        return {
            "first_stage": net.init(net_rng, x)["params"],
            **loss.init(disc_rng, x),
        }

    return System(
        init=init,
        init_extra=loss.init_extra,
        grads=loss.grads,
        validate=loss.validate,
        batch=_inputs(config, {}),
        after_step=loss.after_step,
        **stage,
    )


def _conditioner(config):
    kind = names.pick(conditioners.CONDITIONERS, config.cond_stage.kind)
    knobs = {**config.cond_stage, "image_size": config.data.image_size}
    return kind(**{key: knobs[key] for key in inspect.signature(kind).parameters})


def _latent_diffusion(config):
    schedule = schedule_lib.linear(**config.schedule)
    conditioner = _conditioner(config)
    net, mean, stage = first_stage.make(config.first_stage, config.first_stage.scale)
    unet = unet_lib.UNet(arch_of_unet(config))
    denoise = denoise_lib.from_unet(unet, schedule, config.loss.predicts)
    listener = branch(config)
    for name in config.control.hints:
        denoise = denoise_lib.with_control(denoise, listener, name)
    size = config.data.image_size
    holes = {"mask": ((size, size), "uint8")} if config.cond_stage.inpaint else {}
    hints = branches.shapes(config.control, size)
    inputs = _inputs(config, conditioner.inputs | holes | hints)
    side = size // arch_of_first_stage(config).factor
    latent = (side, side, config.first_stage.embed_channels)
    kept = first_stage.kept_shapes(config.first_stage, latent) | (
        kept_texts.kept_shapes(conditioner) if config.data.texts else conditioner.inputs
    )
    names.pick(losses.NORMS, config.loss.norm)  # unknown: an error here, not later

    def condition(params, batch):
        cond = conditioner.apply(params.get("cond_stage", {}), batch)
        if config.cond_stage.inpaint:
            cond = cond.replace(concat=around(params, batch["image"], batch["mask"]))
        return branches.hinted(config.control, unet.arch, cond, batch)

    def around(params, image, mask):
        """The in-painting condition: mask (1 in the hole) and latent of the rest.

        LDM and SD differ in the order, in the hole's colour (black and gray) and in
        what the mask says (-1 or 1, 0 or 1). Of SD's latent we take the mean where the
        originals draw: a picture then depends on no more noise than its own.
        """
        hole = mask[..., None].astype(jnp.float32)
        small = hole[:, :: size // side, :: size // side]
        x = pictures.to_float(image)
        if config.cond_stage.inpaint == "sd":
            return jnp.concatenate([small, mean(params, x * (1 - hole))], axis=-1)
        black = (x + 1) * (1 - hole) - 1
        return jnp.concatenate([mean(params, black), 2 * small - 1], axis=-1)

    def init(rng):
        stage_rng, cond_rng, unet_rng = jax.random.split(rng, 3)
        params = net.init(stage_rng, jnp.zeros((1, size, size, 3)))
        params = {"first_stage": params["params"]} if params else {}
        params["cond_stage"] = conditioner.init(cond_rng)
        batch = {k: jnp.zeros((1, *v.shape[1:]), v.dtype) for k, v in inputs.items()}
        cond = condition(params, batch)
        z_t = jnp.zeros((1, *latent))
        if cond.concat is not None:
            z_t = jnp.concatenate([z_t, cond.concat], axis=-1)
        t = jnp.zeros(1)
        unet_params = unet.init(unet_rng, z_t, t, cond.context, cond.vector)["params"]
        params["unet"] = unet_params
        for i, name in enumerate(config.control.hints):
            fresh = branches.init(listener, jax.random.fold_in(unet_rng, i), cond)
            params[name] = controlnet.copied(fresh, unet_params)
        return params

    grads, validate = diffusion_loss.make(
        config,
        schedule,
        denoise,
        conditioner,
        condition,
        stage,
        latent,
        functools.partial(branches.loudness, listener),
    )
    draw, develop = sampling.make(
        config.sample,
        bool(config.cond_stage.inpaint),
        schedule,
        denoise,
        conditioner,
        condition,
        mean,
        stage["decode"],
        latent,
    )

    def sample(params, keys, batch, knobs):
        return develop(params, draw(params, keys, batch, knobs), batch)

    return System(
        init=init,
        init_extra=lambda params: {},
        grads=grads,
        validate=validate,
        batch=_shaped(config, kept) if config.data.latents else inputs,
        heldout=inputs,
        condition=condition,
        denoise=denoise,
        sample=sample,
        draw=draw,
        develop=develop,
        **stage,
    )


def _judge(config):
    size = config.data.image_size
    unet = unet_lib.UNet(arch_of_unet(config))

    def seen(x):
        """The UNet's arguments: a picture's places, at a timestep that stays."""
        return judge_loss.places(x, config.judge.patch), jnp.zeros(len(x))

    def init(rng):
        return {"unet": unet.init(rng, *seen(jnp.zeros((1, size, size, 3))))["params"]}

    def judge(params, x):
        logits = unet.apply({"params": params["unet"]}, *seen(x))
        return judge_loss.split(logits, config.judge.reads, config.judge.patch)

    grads, validate = judge_loss.make(judge, config.judge.reads, config.loss)
    maps = dict.fromkeys(("segmentation", "instances"), ((size, size), "uint8"))
    truth = maps | {
        "sprites": ((OBJECTS,), "int32"),
        "depth": ((size, size), "float32"),
        "joints": ((judge_loss.JOINTS, 3), "float32"),
    }
    heads = [judge_loss.HEADS[name] for name in config.judge.reads]
    told = {name: truth[name] for head in heads for name in head.inputs}
    return System(
        init=init,
        init_extra=lambda params: {},
        grads=grads,
        validate=validate,
        batch=_inputs(config, told),
        judge=judge,
    )


TASKS = {
    "latent_diffusion": _latent_diffusion,
    "autoencoder": _autoencoder,
    "judge": _judge,
}
