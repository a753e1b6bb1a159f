"""What `config.check` asks of a config. Every error names the key and says why."""

import difflib
import math

import ml_collections

from ldm_jax import (
    config_rules_diffusion,
    config_rules_first_stage,
    config_rules_judge,
    rules,
)

# How the keys end whose values are counts of at least 1.
POSITIVE = ("batch_size", "image_size", "_every", "steps", "_batches", "pictures")
POSITIVE += ("keep_checkpoints", "accumulate")
POSITIVE += ("discriminator.depth", "discriminator.channels")
POSITIVE += ("first_stage.channels", "first_stage.blocks", "first_stage.groups")
NARROWEST = 1e-3  # of the power average: below it is the last step's parameters
WIDEST = 0.28  # of the power average: beyond it new parameters count less than old


def flat(c, prefix=""):
    """{'unet.channels': 192, ...} of a nested config or dict."""
    out = {}
    for key, value in c.items():
        if isinstance(value, dict | ml_collections.ConfigDict):
            out |= flat(value, f"{prefix}{key}.")
        else:
            out[prefix + key] = value
    return out


def same_keys(c, base):
    """A section that was assigned whole loses its lock, so keys are compared."""
    have, want = flat(c).keys(), flat(base).keys()
    if have == want:
        return
    unknown, missing = sorted(have - want), sorted(want - have)
    hints = []
    for key in unknown:
        near = difflib.get_close_matches(key, want, 1)
        hints.append(f"{key} (did you mean {near[0]}?)" if near else key)
    raise ValueError(
        f"unknown keys: {', '.join(hints) or 'none'}; missing keys: "
        f"{', '.join(missing) or 'none'}. Change a section with .update(...), "
        "not by assigning a new one."
    )


def same_types(c, base):
    """None and values of another type than the base's are refused."""
    have, want = flat(c), flat(base)
    for key, value in have.items():
        if not _alike(value, want[key]):
            raise TypeError(
                f"{key} is {value!r} ({type(value).__name__}), it must be of type "
                f"{type(want[key]).__name__}, like the default {want[key]!r}"
            )


def _alike(value, default):
    """Of one type, the elements of tuples too; an int may stand for a float."""
    if isinstance(value, tuple) and isinstance(default, tuple) and default:
        return all(_alike(element, default[0]) for element in value)
    if type(default) is float and type(value) is int:
        return True
    return type(value) is type(default)


def cross_field(c):
    """Rules between keys."""
    for key, value in flat(c).items():
        if key.endswith(POSITIVE):
            rules.positive(key, value)
        numbers = value if isinstance(value, tuple) else (value,)
        finite = all(math.isfinite(x) for x in numbers if isinstance(x, float))
        rules.require(finite, f"{key} is {value}, it must be finite")
    _data(c)
    _train(c)
    if c.task == "judge":
        config_rules_judge.judge(c)
        return
    config_rules_first_stage.first_stage(c.first_stage)
    if c.task == "autoencoder":
        config_rules_first_stage.autoencoder(c)
    if c.task == "latent_diffusion":
        config_rules_diffusion.diffusion(c)
        if c.first_stage.kind == "identity":
            config_rules_first_stage.identity(c)
    _image_size(c)


def _data(c):
    batch, parts = c.data.batch_size, c.train.accumulate
    rules.require(
        batch % parts == 0,
        f"data.batch_size {batch} must be a multiple of train.accumulate {parts}",
    )
    rules.require(
        c.train.pictures <= batch,
        f"train.pictures {c.train.pictures} must be at most data.batch_size {batch}",
    )
    rules.require(
        not c.data.latents or c.task == "latent_diffusion",
        f"data.latents {c.data.latents!r} does nothing where task is {c.task!r}, which "
        "learns from pictures: it must be ''",
    )
    rules.require(
        c.data.latents or not c.data.texts,
        "data.texts True reads what ldm_jax.encode --texts kept in the folder "
        "data.latents, which is '': name it",
    )
    _of_files(c.data, c.task == "latent_diffusion")


READ = (
    "packed",
    "paired",
    "tfds",
)  # of pictures in files: data.datasets.READ
OF_READ = {"path": "", "crop": "center", "resize": "bicubic", "flip": False}


def _of_files(data, diffuses):
    """What is of pictures that are read must not look as if it did something else."""
    none = config_rules_diffusion.DEGRADATION
    for key, off in OF_READ.items():
        rules.require(
            data.name in READ or data[key] == off,
            f"data.{key} {data[key]!r} does nothing where data.name is {data.name!r}, "
            f"only where it is {' or '.join(READ)}: it must be {off!r}",
        )
    rules.require(
        diffuses or data.degradation == none and not data.holes,
        f"data.degradation {data.degradation!r} and data.holes {data.holes!r} are of "
        f"latent diffusion: they must be {none!r} and ''",
    )


def _train(c):
    decay, std, optim = c.train.ema_decay, c.train.ema_std, c.optim
    rules.require(0 <= decay < 1, f"train.ema_decay {decay} must be in [0, 1)")
    rules.require(
        std == 0 or NARROWEST <= std <= WIDEST,
        f"train.ema_std {std} must be 0 or in [{NARROWEST}, {WIDEST}], as 0.1",
    )
    held = c.train.frozen_dtype
    rules.require(
        held == "float32" or held == "bfloat16" and c.train.init,
        f"train.frozen_dtype {held!r} must be 'float32', or 'bfloat16' for what "
        "train.init brings",
    )
    rules.require(
        c.train.init or not c.train.redrawn,
        f"train.redrawn {c.train.redrawn} does nothing without train.init: it must be "
        "()",
    )
    rules.require(
        decay == 0 or std == 0,
        f"train.ema_decay {decay} and train.ema_std {std} are two kinds of average: "
        "one of them must be 0",
    )
    rules.require(
        optim.schedule != "warmup_cosine" or optim.decay_steps > optim.warmup_steps,
        f"optim.decay_steps {optim.decay_steps} must be more than optim.warmup_steps "
        f"{optim.warmup_steps}: the cosine lies between them",
    )


def _image_size(c):
    """All levels halve without a rest: the first stage's, and then the UNet's."""
    size, factor = c.data.image_size, rules.factor(c.first_stage)
    step, parts = factor, f"first stage factor {factor}"
    if c.task == "latent_diffusion":
        step *= rules.factor(c.unet)
        parts += f", UNet levels {len(c.unet.mult)}"
    below = size // step * step
    nearest = f"are {below} and {below + step}" if below else f"is {step}"
    rules.require(
        size % step == 0,
        f"data.image_size {size} must be a multiple of {step} for this model "
        f"({parts}); the nearest {nearest}",
    )
