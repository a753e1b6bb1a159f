"""What a released file or folder is, told by its names and shapes (and no guesses)."""

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
    encoders: dict = dataclasses.field(default_factory=dict)  # changes to cond_stage
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
    if "encoder.conv_in.weight" in tensors or "decoder.conv_in.weight" in tensors:
        return _first_stage(tensors)
    raise ValueError(
        "it holds none of the networks known here (no UNet, ControlNet or autoencoder "
        f"of the original code); its names begin with {_beginnings(tensors)}"
    )


def _beginnings(tensors):
    return ", ".join(sorted({name.split(".")[0] for name in tensors})[:8]) or "nothing"


def _context(tensors, prefix):
    """Width of the context that cross-attention expects, or None."""
    ends = "transformer_blocks.0.attn2.to_k.weight"
    found = [n for n in tensors if n.startswith(prefix) and n.endswith(ends)]
    return tensors[min(found)].shape[1] if found else None


def control_alone(layout, context):
    """The Found of a ControlNet without its base model."""
    configs = {768: "stable_diffusion.py:v1", 1024: "stable_diffusion.py:v2"}
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
    channels = tensors[f"{UNET}input_blocks.0.0.weight"].shape[1]
    context = _context(tensors, UNET)
    for marks, tell in WHOLE.items():
        if any(name.startswith(marks) for name in tensors):
            return tell(channels, context, meta)
    hint = "name its config with --config; those of LDM's tasks are not shipped yet"
    told = f"context {context}" if context else "no cross-attention"
    return Found("original", f"LDM, {channels} input channels, {told}", "", hint)


def _sd1(channels, context, meta):
    variants = {4: "v1", 9: "v1-inpainting"}
    if channels not in variants:
        hint = f"no config has {channels} input channels: name one with --config"
        return Found("original", f"Stable Diffusion 1, {channels} channels", "", hint)
    name = "Stable Diffusion 1" + (", in-painting" if channels == 9 else "")
    return Found("original", name, f"stable_diffusion.py:{variants[channels]}")


# The steps at which released files of version 2 were saved, and what they predict.
STEPS = {875_000: "v2", 110_000: "v2-v"}


def _sd2(channels, context, meta):
    step = meta.get("global_step")
    what = f"Stable Diffusion 2, {channels} input channels"
    if channels == 4 and step in STEPS:
        return Found("original", what, f"stable_diffusion.py:{STEPS[step]}")
    hint = (
        "the file does not say whether it predicts eps (the 512 models) or v (the 768 "
        "models): name --config=configs/stable_diffusion.py:v2 or :v2-v"
    )
    return Found("original", what, "", hint if channels == 4 else "no config is known")


WHOLE = {
    "conditioner.embedders.1.model.": lambda *_: Found(
        "original", "Stable Diffusion XL, base", "sdxl.py:base"
    ),
    "conditioner.embedders.0.model.": lambda *_: Found(
        "original", "Stable Diffusion XL, refiner", "sdxl.py:refiner"
    ),
    "cond_stage_model.transformer.text_model.": _sd1,
    "cond_stage_model.model.transformer.resblocks.": _sd2,
}


def of_folder(configs, formats):
    """The Found of a diffusers folder; configs: {component: its JSON}.

    formats: those of its weight files, Flax's being another layout.
    """
    layout = "flax" if "flax msgpack" in formats else "diffusers"
    if "unet" not in configs:
        kinds = [str(told.get("_class_name")) for told in configs.values()]
        hint = "name its config with --config"
        return Found(layout, f"a folder of {', '.join(kinds)}", "", hint)
    unet = configs["unet"]
    width, channels = unet.get("cross_attention_dim"), unet.get("in_channels")
    what = f"a diffusers folder, context {width}, {channels} input channels"
    trimmed = {"encoders": ("openclip_h_23",), "skip": (0,)}
    layers = configs.get("text_encoder", {}).get("num_hidden_layers")
    v = configs.get("scheduler", {}).get("prediction_type") == "v_prediction"
    known = {
        (768, 4): ("stable_diffusion.py:v1", {}),
        (768, 9): ("stable_diffusion.py:v1-inpainting", {}),
        (1024, 4): (
            "stable_diffusion.py:v2-v" if v else "stable_diffusion.py:v2",
            trimmed if layers == 23 else {},
        ),
        (2048, 4): ("sdxl.py:base", {}),
        (1280, 4): ("sdxl.py:refiner", {}),
    }
    if (width, channels) not in known:
        return Found(layout, what, "", "no config is known: name one with --config")
    config, changes = known[width, channels]
    return Found(layout, what, config, encoders=changes)


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
