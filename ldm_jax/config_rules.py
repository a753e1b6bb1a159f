"""What `config.check` asks of a config. Every error names the key and says why."""

import difflib
import math

import ml_collections

# How the keys end whose values are counts of at least 1.
POSITIVE = ("batch_size", "image_size", "_every", "steps", "_batches", "pictures")
POSITIVE += ("keep_checkpoints", "accumulate")


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
            _positive(key, value)
        if isinstance(value, float):
            _require(math.isfinite(value), f"{key} is {value}, it must be finite")
    _data(c)
    _first_stage(c.first_stage)
    _train(c)
    if c.task == "autoencoder":
        _require(
            c.first_stage.kind == "kl",
            f"first_stage.kind {c.first_stage.kind!r} has no training yet: 'kl' has",
        )
        _require(
            not c.train.init,
            "train.init is for latent_diffusion: a first stage starts from nothing",
        )
    if c.task == "latent_diffusion":
        _diffusion(c)
    _image_size(c)


def _require(holds, message):
    if not holds:
        raise ValueError(message)


def _positive(key, value):
    _require(value >= 1, f"{key} is {value}, it must be at least 1")


def _data(c):
    batch, parts = c.data.batch_size, c.train.accumulate
    _require(
        batch % parts == 0,
        f"data.batch_size {batch} must be a multiple of train.accumulate {parts}",
    )
    _require(
        c.train.pictures <= batch,
        f"train.pictures {c.train.pictures} must be at most data.batch_size {batch}",
    )


def _train(c):
    decay, optim = c.train.ema_decay, c.optim
    _require(0 <= decay < 1, f"train.ema_decay {decay} must be in [0, 1)")
    _require(
        optim.schedule != "warmup_cosine" or optim.decay_steps > optim.warmup_steps,
        f"optim.decay_steps {optim.decay_steps} must be more than optim.warmup_steps "
        f"{optim.warmup_steps}: the cosine lies between them",
    )


def _levels(section, name, key):
    mult, values = section.mult, section[key]
    _require(
        len(values) == len(mult),
        f"{name}.{key} {values} must have one entry for each level of "
        f"{name}.mult {mult}",
    )


def _groups(section, name):
    for factor in section.mult:
        width = section.channels * factor
        _require(
            width % section.groups == 0,
            f"{name}.channels {section.channels} times {factor} of {name}.mult must "
            f"be a multiple of {name}.groups {section.groups}",
        )


def _first_stage(stage):
    _require(
        (stage.kind == "vq") == (stage.codes > 0),
        f"first_stage.codes {stage.codes} must be above 0 where first_stage.kind is "
        f"'vq', and 0 elsewhere: it is {stage.kind!r}",
    )
    _levels(stage, "first_stage", "attention")
    _groups(stage, "first_stage")


def _factor(section):
    """How many times smaller the coarsest level is than the finest."""
    return 2 ** (len(section.mult) - 1)


def _image_size(c):
    """All levels halve without a rest: the first stage's, and then the UNet's."""
    size, factor = c.data.image_size, _factor(c.first_stage)
    step, parts = factor, f"first stage factor {factor}"
    if c.task == "latent_diffusion":
        step *= _factor(c.unet)
        parts += f", UNet levels {len(c.unet.mult)}"
    below = size // step * step
    nearest = f"are {below} and {below + step}" if below else f"is {step}"
    _require(
        size % step == 0,
        f"data.image_size {size} must be a multiple of {step} for this model "
        f"({parts}); the nearest {nearest}",
    )


# Knobs of cond_stage: the kinds that read them, and what they must be elsewhere.
READ_BY = {
    **dict.fromkeys(("encoders", "skip", "final_norm", "micro"), (("clip",), ())),
    "cleaning": (("clip",), "nfc"),
    "pooled": (("text", "clip"), False),
    "classes": (("label", "segmentation"), 0),
    "stages": (("segmentation", "low_res"), 0),
}
# Of what the tuples are that are empty in the base.
ELEMENTS = {"encoders": str, "skip": int, "final_norm": bool, "micro": str}


def _read(cond):
    """What a kind does not read must not look as if it did something."""
    for key, (kinds, off) in READ_BY.items():
        _require(
            cond.kind in kinds or cond[key] == off,
            f"cond_stage.{key} {cond[key]!r} does nothing where cond_stage.kind is "
            f"{cond.kind!r}, only where it is {' or '.join(map(repr, kinds))}: it must "
            f"be {off!r}",
        )
    _require(
        cond.kind != "text" or cond.null_tokens,
        "cond_stage.null_tokens is empty: where cond_stage.kind is 'text' the null is "
        "the empty caption's tokens",
    )


def _encoders(cond):
    """Rules of cond_stage.kind 'clip'."""
    count = len(cond.encoders)
    _require(count > 0, "cond_stage.encoders is empty: name those of kind 'clip'")
    for key, kind in ELEMENTS.items():
        _require(
            all(type(value) is kind for value in cond[key]),
            f"cond_stage.{key} {cond[key]} must hold nothing but {kind.__name__}",
        )
    _require(
        len(set(cond.encoders)) == count,
        f"cond_stage.encoders {cond.encoders} must differ from each other",
    )
    _require(
        min(cond.skip, default=0) >= 0,
        f"cond_stage.skip {cond.skip} must be 0 or more: how many blocks are left out",
    )
    for key in ("skip", "final_norm"):
        _require(
            len(cond[key]) == count,
            f"cond_stage.{key} {cond[key]} must have one entry for each of "
            f"cond_stage.encoders {cond.encoders}",
        )
    _require(
        cond.length % 77 == 0 and cond.length > 0,
        f"cond_stage.length {cond.length} must be a multiple of 77, the tokens that an "
        "encoder takes at once",
    )
    _require(
        cond.pooled or not cond.micro,
        f"cond_stage.micro {cond.micro} joins the pooled text: it needs "
        "cond_stage.pooled",
    )
    _require(
        cond.cleaning in ("nfc", "ftfy"),
        f"cond_stage.cleaning {cond.cleaning!r} must be 'nfc' or 'ftfy'",
    )


def _diffusion(c):
    unet, stage, cond = c.unet, c.first_stage, c.cond_stage
    start, end = c.schedule.beta_start, c.schedule.beta_end
    _require(
        0 < start <= end < 1,
        f"schedule.beta_start {start} and schedule.beta_end {end} must be between 0 "
        "and 1 and not fall",
    )
    _require(
        unet.attention in ("transformer", "plain"),
        f"unet.attention {unet.attention!r} must be 'transformer' or 'plain'",
    )
    _levels(unet, "unet", "depths")
    _groups(unet, "unet")
    _require(
        (unet.heads == 0) != (unet.head_channels == 0),
        f"exactly one of unet.heads {unet.heads} and unet.head_channels "
        f"{unet.head_channels} must be 0: the other one decides",
    )
    for factor in unet.mult:
        width, parts = unet.channels * factor, unet.heads or unet.head_channels
        _require(
            width % parts == 0,
            f"unet width {width} (channels times {factor}) must be a multiple of "
            f"{parts} ({'unet.heads' if unet.heads else 'unet.head_channels'})",
        )
    _require(
        unet.out_channels == stage.embed_channels,
        f"unet.out_channels {unet.out_channels} must equal "
        f"first_stage.embed_channels {stage.embed_channels}",
    )
    _require(0 <= cond.drop <= 1, f"cond_stage.drop {cond.drop} must be in [0, 1]")
    _read(cond)
    if cond.kind == "clip":
        _encoders(cond)
    _heard(c)
    for key, sampler in (("eta", "ddim"), ("posterior", "ddpm")):
        _require(
            c.sample[key] == 0 or c.sample.sampler == sampler,
            f"sample.{key} {c.sample[key]} is of the sampler {sampler!r}, "
            f"sample.sampler is {c.sample.sampler!r}: it must be 0",
        )


def _heard(c):
    """What the caption, depths and guidance say must reach the network."""
    unet, cond = c.unet, c.cond_stage
    depths = (*unet.depths, unet.mid_depth)
    plain = unet.attention == "plain"
    _require(
        not plain or max(depths) <= 1,
        f"unet.depths {unet.depths} and unet.mid_depth {unet.mid_depth} must be 0 or 1 "
        "where unet.attention is 'plain'",
    )
    told = cond.kind in ("text", "clip", "label")
    _require(
        not told or cond.pooled or not (plain or max(depths) == 0),
        f"cond_stage.kind {cond.kind!r} is not heard: it needs unet.attention "
        "'transformer' with a depth above 0, or cond_stage.pooled",
    )
    _require(
        cond.kind != "label" or cond.classes > 1,
        f"cond_stage.classes {cond.classes} must count the classes and the null",
    )
    for key, value, off in (
        ("sample.scale", c.sample.scale, 1),
        ("cond_stage.drop", cond.drop, 0),
    ):
        _require(
            cond.kind not in ("none", "segmentation", "low_res") or value == off,
            f"{key} {value} does nothing where cond_stage.kind is {cond.kind!r}, which "
            f"has no null: it must be {off}",
        )
    _require(
        cond.inpaint in ("", "ldm", "sd"),
        f"cond_stage.inpaint {cond.inpaint!r} must be 'ldm', 'sd' or ''",
    )
    _require(
        not cond.inpaint or cond.kind not in ("segmentation", "low_res"),
        f"cond_stage.inpaint and cond_stage.kind {cond.kind!r} both take the planes "
        "that join z_t: use one of them",
    )
    factor = _factor(c.first_stage)
    _require(
        cond.kind not in ("segmentation", "low_res") or 2**cond.stages == factor,
        f"cond_stage.stages {cond.stages} must shrink by the first stage's factor "
        f"{factor}: its planes join z_t",
    )
