"""The rules of latent diffusion: UNet, conditioning, schedule and sampling."""

import math

from ldm_jax import config_rules_control, config_rules_sampling, names, rules

# Knobs of cond_stage: the kinds that read them, and what they must be elsewhere.
READ_BY = {
    **dict.fromkeys(("encoders", "skip", "final_norm", "micro"), (("clip",), ())),
    "cleaning": (("clip",), "nfc"),
    "pooled": (("text", "clip"), False),
    "classes": (("label", "segmentation", "layout"), 0),
    "stages": (("segmentation", "low_res"), 0),
}
DEGRADATION = "pil_bicubic"  # data.degradation where no picture is degraded
# Of what the tuples are that are empty in the base.
ELEMENTS = {"encoders": str, "skip": int, "final_norm": bool, "micro": str}


def _read(cond):
    """What a kind does not read must not look as if it did something."""
    for key, (kinds, off) in READ_BY.items():
        rules.require(
            cond.kind in kinds or cond[key] == off,
            f"cond_stage.{key} {cond[key]!r} does nothing where cond_stage.kind is "
            f"{cond.kind!r}, only where it is {' or '.join(map(repr, kinds))}: it must "
            f"be {off!r}",
        )
    rules.require(
        cond.kind != "text" or cond.null_tokens,
        "cond_stage.null_tokens is empty: where cond_stage.kind is 'text' the null is "
        "the empty caption's tokens",
    )


def _encoders(cond):
    """Rules of cond_stage.kind 'clip'."""
    count = len(cond.encoders)
    rules.require(count > 0, "cond_stage.encoders is empty: name those of kind 'clip'")
    for key, kind in ELEMENTS.items():
        rules.require(
            all(type(value) is kind for value in cond[key]),
            f"cond_stage.{key} {cond[key]} must hold nothing but {kind.__name__}",
        )
    rules.require(
        len(set(cond.encoders)) == count,
        f"cond_stage.encoders {cond.encoders} must differ from each other",
    )
    rules.require(
        min(cond.skip, default=0) >= 0,
        f"cond_stage.skip {cond.skip} must be 0 or more: how many blocks are left out",
    )
    for key in ("skip", "final_norm"):
        rules.require(
            len(cond[key]) == count,
            f"cond_stage.{key} {cond[key]} must have one entry for each of "
            f"cond_stage.encoders {cond.encoders}",
        )
    rules.require(
        cond.length % 77 == 0 and cond.length > 0,
        f"cond_stage.length {cond.length} must be a multiple of 77, the tokens that an "
        "encoder takes at once",
    )
    rules.require(
        cond.pooled or not cond.micro,
        f"cond_stage.micro {cond.micro} joins the pooled text: it needs "
        "cond_stage.pooled",
    )
    rules.require(
        cond.cleaning in ("nfc", "ftfy"),
        f"cond_stage.cleaning {cond.cleaning!r} must be 'nfc' or 'ftfy'",
    )


def network(unet):
    """Rules of a UNet by itself, whatever it is for."""
    rules.require(
        unet.attention in ("transformer", "plain"),
        f"unet.attention {unet.attention!r} must be 'transformer' or 'plain'",
    )
    rules.require(
        unet.attention == "transformer" or not unet.positions,
        "unet.positions is of unet.attention 'transformer'; 'plain' has none",
    )
    rules.levels(unet, "unet", "depths")
    rules.groups(unet, "unet")
    rules.require(
        (unet.heads == 0) != (unet.head_channels == 0),
        f"exactly one of unet.heads {unet.heads} and unet.head_channels "
        f"{unet.head_channels} must be 0: the other one decides",
    )
    for factor in unet.mult:
        width, parts = unet.channels * factor, unet.heads or unet.head_channels
        rules.require(
            width % parts == 0,
            f"unet width {width} (channels times {factor}) must be a multiple of "
            f"{parts} ({'unet.heads' if unet.heads else 'unet.head_channels'})",
        )
        rules.require(
            width % 4 == 0 or not unet.positions,
            f"unet width {width} (channels times {factor}) must be a multiple of 4 for "
            "unet.positions: sine and cosine of two coordinates",
        )


def diffusion(c):
    unet, stage, cond = c.unet, c.first_stage, c.cond_stage
    start, end = c.schedule.beta_start, c.schedule.beta_end
    rules.require(
        0 < start <= end < 1,
        f"schedule.beta_start {start} and schedule.beta_end {end} must be between 0 "
        "and 1 and not fall",
    )
    _weights(c)
    network(unet)
    rules.require(
        unet.out_channels == stage.embed_channels,
        f"unet.out_channels {unet.out_channels} must equal "
        f"first_stage.embed_channels {stage.embed_channels}",
    )
    rules.require(0 <= cond.drop <= 1, f"cond_stage.drop {cond.drop} must be in [0, 1]")
    _read(cond)
    if cond.kind == "clip":
        _encoders(cond)
    if cond.kind == "layout":
        _layout(cond)
    if c.data.latents:
        _kept(c)
    if c.data.texts:
        _kept_texts(c)
    _heard(c)
    _made(c)
    config_rules_control.control(c)
    config_rules_sampling.sampling(c)


def _layout(cond):
    """Rules of cond_stage.kind 'layout': its tokens are numbers below vocab."""
    side = math.isqrt(cond.vocab)
    rules.require(
        0 < cond.classes * 16 < cond.vocab and 1 < side < side * side < cond.vocab,
        f"cond_stage.classes {cond.classes} must be above 0 and, times the 16 that an "
        f"object's marks make of each, below cond_stage.vocab {cond.vocab}, which must "
        "be 5 or more and no square: its last number is 'unused'",
    )
    rules.require(
        cond.length % 3 == 2 and cond.length > 2,
        f"cond_stage.length {cond.length} must be 3 for each object and 2 for the "
        "crop, as 92",
    )


def _made(c):
    """What is made of a picture for a condition that does not read it."""
    data, cond = c.data, c.cond_stage
    rules.require(
        cond.kind == "low_res" or data.degradation == DEGRADATION,
        f"data.degradation {data.degradation!r} does nothing where cond_stage.kind is "
        f"{cond.kind!r}: it must be {DEGRADATION!r}",
    )
    rules.require(
        cond.inpaint or not data.holes,
        f"data.holes {data.holes!r} does nothing where cond_stage.inpaint is '': it "
        "must be ''",
    )


def _kept(c):
    """With data.latents a batch has no pictures, nor maps of their size."""
    stage, cond = c.first_stage, c.cond_stage
    why = f"data.latents {c.data.latents!r} must be '': "
    rules.require(
        stage.kind != "identity",
        f"{why}first_stage.kind 'identity' has nothing to keep, diffusion sees the "
        "pictures",
    )
    rules.require(
        not cond.inpaint,
        f"{why}cond_stage.inpaint {cond.inpaint!r} needs the pictures, to cut holes "
        "into them",
    )
    rules.require(
        cond.kind not in ("segmentation", "low_res"),
        f"{why}cond_stage.kind {cond.kind!r} reads maps, and only what is not of the "
        "pictures' size is kept beside the latents",
    )


def _kept_texts(c):
    """With data.texts a batch has what the encoder says, which must stay so."""
    train, kind = c.train, c.cond_stage.kind
    why = "data.texts (encode --texts) must be False: "
    rules.require(
        kind in ("text", "clip"),
        f"{why}cond_stage.kind is {kind!r}, and only 'text' and 'clip' read captions",
    )
    for key in ("trainable", "redrawn"):
        reach = [p for p in train[key] if names.reaches(p, "cond_stage")]
        rules.require(
            not reach,
            f"{why}train.{key} has {reach}, which reach into cond_stage, and what an "
            "encoder says can be kept only while it stays as it is",
        )
    rules.require(
        train.init,
        f"{why}train.init is '', it must name the file that holds the encoder",
    )


def _weights(c):
    """Rules of the loss at the noisiest steps."""
    last, gamma = c.schedule.zero_terminal, c.loss.min_snr
    rules.require(gamma >= 0, f"loss.min_snr {gamma} must be 0 (off) or above, as 5")
    rules.require(
        not gamma or c.loss.norm == "l2",
        f"loss.min_snr {gamma} weighs squared errors: loss.norm must be 'l2', not "
        f"{c.loss.norm!r}",
    )
    rules.require(
        not last or c.loss.predicts != "eps",
        "schedule.zero_terminal has no signal at the last step, where loss.predicts "
        "'eps' does not determine the picture: it must be 'v' or 'z_0'",
    )
    rules.require(
        not (last and gamma),
        f"loss.min_snr {gamma} gives the last step of schedule.zero_terminal the "
        "weight 0: nothing would train what sampling begins with; use one of them",
    )


def _heard(c):
    """What the caption, depths and guidance say must reach the network."""
    unet, cond = c.unet, c.cond_stage
    depths = (*unet.depths, unet.mid_depth)
    plain = unet.attention == "plain"
    rules.require(
        not plain or max(depths) <= 1,
        f"unet.depths {unet.depths} and unet.mid_depth {unet.mid_depth} must be 0 or 1 "
        "where unet.attention is 'plain'",
    )
    told = cond.kind in ("text", "clip", "label", "layout")
    rules.require(
        not told or cond.pooled or not (plain or max(depths) == 0),
        f"cond_stage.kind {cond.kind!r} is not heard: it needs unet.attention "
        "'transformer' with a depth above 0, or cond_stage.pooled",
    )
    rules.require(
        cond.kind != "label" or cond.classes > 1,
        f"cond_stage.classes {cond.classes} must count the classes and the null",
    )
    rules.require(
        cond.kind != "segmentation" or 0 < cond.classes <= 256,
        f"cond_stage.classes {cond.classes} must be 1 to 256: a map is kept as uint8",
    )
    rules.require(
        cond.kind not in rules.WITHOUT_NULL or cond.drop == 0,
        f"cond_stage.drop {cond.drop} does nothing where cond_stage.kind is "
        f"{cond.kind!r}, which has no null: it must be 0",
    )
    rules.require(
        cond.inpaint in ("", "ldm", "sd"),
        f"cond_stage.inpaint {cond.inpaint!r} must be 'ldm', 'sd' or ''",
    )
    rules.require(
        not cond.inpaint or cond.kind not in ("segmentation", "low_res"),
        f"cond_stage.inpaint and cond_stage.kind {cond.kind!r} both take the planes "
        "that join z_t: use one of them",
    )
    factor = rules.factor(c.first_stage)
    rules.require(
        cond.kind not in ("segmentation", "low_res") or 2**cond.stages == factor,
        f"cond_stage.stages {cond.stages} must shrink by the first stage's factor "
        f"{factor}: its planes join z_t",
    )
