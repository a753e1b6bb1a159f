"""What a released file or folder is, told by its names, shapes and JSON files."""

import dataclasses

from ldm_jax import paths

UNET = "model.diffusion_model."
CONTROL = "control_model."


@dataclasses.dataclass(frozen=True)
class Found:
    """A layout of `released.LAYOUTS`, and the config that goes with it."""

    layout: str
    what: str  # in words
    config: str = ""  # of configs/, "stable_diffusion.py:v1"; "" where none is shipped
    hint: str = ""  # what to do where there is no config
    changes: dict = dataclasses.field(
        default_factory=dict
    )  # key of the config -> value
    base: bool = True  # whether it holds a config's own networks
    control: bool = False  # whether it holds a control branch
    parts: bool = False  # whether it is some of a config's networks alone


def of_file(tensors, meta):
    """The Found of a single file; tensors: {name: with .shape}, meta: plain values.

    Raises ValueError where it is none of the files that are known.
    """
    if f"{UNET}input_blocks.0.0.weight" in tensors:
        control = f"{CONTROL}time_embed.0.weight" in tensors
        found = _whole(tensors, meta)
        what = f"{found.what}, and a ControlNet" if control else found.what
        return dataclasses.replace(found, control=control, what=what)
    if f"{CONTROL}time_embed.0.weight" in tensors:
        return control_alone("original", _context(tensors, CONTROL))
    for mark, tell in FOREIGN.items():
        if any(mark in name for name in tensors):
            raise ValueError(tell)
    if any(
        name in tensors for name in ("encoder.conv_in.weight", "decoder.conv_in.bias")
    ):
        return _first_stage(tensors)
    raise ValueError(
        "it holds none of the networks known here (no UNet, ControlNet or autoencoder "
        f"of the original code); its names begin with {_beginnings(tensors)}"
    )


# A part of a name -> what a file with such names is.
FOREIGN = {
    "lora": "it is a LoRA, changes to a model: those are not read yet",
    "joint_blocks.": "it is a transformer (SD3): not supported",
    "double_blocks.": "it is a transformer (Flux): not supported",
    "transformer_blocks.0.attn.": "it is a transformer (SD3 or Flux): not supported",
    "string_to_param": "it is a word of textual inversion: --embedding=WORD=FILE",
    "clip_g": "it is a word of textual inversion: --embedding=WORD=FILE",
    "down_blocks.": "it has diffusers' names: name its folder, which has config.json",
}


def _beginnings(tensors):
    return ", ".join(sorted({name.split(".")[0] for name in tensors})[:8]) or "nothing"


def _size(tensors, name, axis):
    """Of an axis of an array; ValueError where it has none such."""
    shape = tensors[name].shape
    if len(shape) <= axis:
        raise ValueError(f"{name} has the shape {tuple(shape)}: the file is damaged")
    return shape[axis]


def _context(tensors, prefix):
    """Width of the context that cross-attention expects, or None."""
    ends = "transformer_blocks.0.attn2.to_k.weight"
    found = [n for n in tensors if n.startswith(prefix) and n.endswith(ends)]
    return _size(tensors, min(found), 1) if found else None


def control_alone(layout, context):
    """The Found of a ControlNet without its base model."""
    configs = {768: "stable_diffusion.py:v1", 1024: "stable_diffusion.py:v2"}
    configs[2048] = "sdxl.py:base"
    return Found(
        layout,
        f"a ControlNet alone, context {context}",
        configs.get(context, ""),
        "name the config of its base model with --config",
        base=False,
        control=True,
    )


def _first_stage(tensors):
    kind = "VQ" if "quantize.embedding.weight" in tensors else "KL"
    hint = "name a config that has such a first stage with --config"
    return Found("original", f"a {kind} first stage alone", "", hint, parts=True)


def _whole(tensors, meta):
    channels = _size(tensors, f"{UNET}input_blocks.0.0.weight", 1)
    context = _context(tensors, UNET)
    for marks, tell in WHOLE.items():
        if any(name.startswith(marks) for name in tensors):
            return tell(channels, context, tensors, meta)
    hint = "name its config with --config; those of LDM's tasks are not shipped yet"
    told = f"context {context}" if context else "no cross-attention"
    return Found("original", f"LDM, {channels} input channels, {told}", "", hint)


def _xl(name, variant, width):
    """The Found of SDXL, where the UNet is as wide as it should be."""

    def tell(channels, context, tensors, meta):
        what = f"Stable Diffusion XL, {name}"
        if (channels, context) != (4, width):
            told = f"{what}-like, {channels} input channels, context {context}"
            return Found("original", told, "", NO_CONFIG)
        changes = {"loss.predicts": "v"} if "v_pred" in tensors else {}
        changes |= ZERO_TERMINAL if "ztsnr" in tensors else {}
        return Found("original", what, f"sdxl.py:{variant}", changes=changes)

    return tell


# Of a model that was trained without a trace of the picture at the last step: it must
# begin there, whatever the file says of the spacing.
ZERO_TERMINAL = {"schedule.zero_terminal": True, "sample.grid": "trailing"}
NO_CONFIG = "no config is known for it: if you have one, name it with --config"


def _sd1(channels, context, tensors, meta):
    variants = {4: "v1", 9: "v1-inpainting"}
    if channels not in variants:
        what = f"Stable Diffusion 1, {channels} input channels"
        return Found("original", what, "", NO_CONFIG)
    name = "Stable Diffusion 1" + (", in-painting" if channels == 9 else "")
    return Found("original", name, f"stable_diffusion.py:{variants[channels]}")


# The steps at which released files of version 2 were saved, and what they predict.
STEPS = {875_000: "v2", 110_000: "v2-v"}
ASK = (
    "it does not say whether it predicts eps (the 512 models) or v (the 768 models): "
    "name --config=configs/stable_diffusion.py:v2 or :v2-v"
)
# A text encoder without the block that SD2 does not use, as diffusers keeps it.
TRIMMED = {"cond_stage.encoders": ("openclip_h_23",), "cond_stage.skip": (0,)}


def _sd2(channels, context, tensors, meta):
    step = meta.get("global_step")
    what = f"Stable Diffusion 2, {channels} input channels"
    last = "cond_stage_model.model.transformer.resblocks.23.ln_1.weight"
    changes = {} if last in tensors else TRIMMED
    if channels == 4 and step in STEPS:
        config = f"stable_diffusion.py:{STEPS[step]}"
        return Found("original", what, config, changes=changes)
    hint = ASK if channels == 4 else NO_CONFIG
    return Found("original", what, "", hint, changes)


WHOLE = {
    "conditioner.embedders.1.model.": _xl("base", "base", 2048),
    "conditioner.embedders.0.model.": _xl("refiner", "refiner", 1280),
    "cond_stage_model.transformer.text_model.": _sd1,
    "cond_stage_model.model.transformer.resblocks.": _sd2,
}


def of_folder(configs, flax):
    """The Found of a diffusers folder; configs: {component: its JSON}.

    flax: whether its weights are Flax's, whose names are another layout.
    """
    layout = "flax" if flax else "diffusers"
    if "transformer" in configs:
        raise ValueError("it is a transformer model (SD3, Flux): not supported")
    if "unet" not in configs:
        kinds = sorted(configs)
        what = f"a folder of {', '.join(kinds)}"
        return Found(layout, what, "", "name its config with --config")
    unet = configs["unet"]
    width, channels = unet.get("cross_attention_dim"), unet.get("in_channels")
    what = f"a diffusers folder, context {width}, {channels} input channels"
    changes, problem = _facts(configs)
    if problem:
        return Found(layout, what, "", problem)
    known = {
        "[768, 4]": "stable_diffusion.py:v1",
        "[768, 9]": "stable_diffusion.py:v1-inpainting",
        "[1024, 4]": "stable_diffusion.py:v2",
        "[2048, 4]": "sdxl.py:base",
        "[1280, 4]": "sdxl.py:refiner",
    }
    config = known.get(str([width, channels]), "")
    if config.endswith(":v2"):
        if configs["text_encoder"].get("num_hidden_layers") == 23:
            changes |= TRIMMED
        if "loss.predicts" not in changes:
            return Found(layout, what, "", ASK, changes)
        config += "-v" if changes["loss.predicts"] == "v" else ""
    return Found(layout, what, config, NO_CONFIG, changes)


PREDICTS = {"epsilon": "eps", "v_prediction": "v", "sample": "z_0"}


def _facts(configs):
    """(changes to a config, what stands against reading it) in a folder's JSON."""
    scheduler, vae = (configs.get(name, {}) for name in ("scheduler", "vae"))
    changes = {}
    for key, ours in (("beta_start", "beta_start"), ("beta_end", "beta_end")):
        if key in scheduler:
            changes[f"schedule.{ours}"] = scheduler[key]
    if "scaling_factor" in vae:
        changes["first_stage.scale"] = vae["scaling_factor"]
    if "prediction_type" in scheduler:
        kind = scheduler["prediction_type"]
        if kind not in PREDICTS:
            return {}, f"scheduler: prediction_type {kind!r} is not known here"
        changes["loss.predicts"] = PREDICTS[kind]
    if scheduler.get("beta_schedule", "scaled_linear") != "scaled_linear":
        return (
            {},
            f"scheduler: beta_schedule {scheduler['beta_schedule']!r} is not read",
        )
    if scheduler.get("rescale_betas_zero_snr"):
        changes |= ZERO_TERMINAL
    if vae.get("latents_mean") or vae.get("shift_factor"):
        return {}, "vae: latents that are shifted are not read yet"
    return changes, ""


def config_path(name):
    """The path and variant of a shipped config, "FILE.py:VARIANT"."""
    file, _, variant = name.partition(":")
    path = paths.CONFIGS / file
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is missing: the configs lie beside the package in a clone; name "
            "the config with --config"
        )
    return path, variant
