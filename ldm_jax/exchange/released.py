"""The layouts of released files for a config: where each of its parameters lies.

original    one file with the names of CompVis' and Stability's code
diffusers   a folder of components, with the names of diffusers and transformers
flax        the same in the names of diffusers' Flax classes, which are no more
"""

import dataclasses
import re

import jax

from ldm_jax import names
from ldm_jax import system as system_lib
from ldm_jax.weights import layouts, names_compvis, names_diffusers, names_flax

FIRST_STAGE_PREFIX = "first_stage_model."  # in a model; a first stage alone has none
SINGLE = ""  # the component of a layout that is one file


@dataclasses.dataclass(frozen=True)
class Place:
    """A network of ours in a layout."""

    ours: str  # its path in the parameters
    component: str  # folder of the file, SINGLE in a single file
    prefix: str  # of its names in that file
    modules: dict  # {our module path below `ours`: layouts.Module}


def is_linear(config):
    """Whether released files keep the transformers' projections as matrices.

    From SD2 on they do, and the text encoder tells: LDM and SD1 had none of OpenCLIP's.
    """
    return any(name.startswith("openclip") for name in config.cond_stage.encoders)


def unet_arch(config):
    """The UNet's shape; ValueError for one that no released file has."""
    if config.unet.positions:
        raise ValueError("unet.positions: no released UNet knows where its pixels are")
    return system_lib.arch_of_unet(config)


def original(config):
    """Places of the single-file layout."""
    if config.first_stage.kind != "identity":
        yield from _original_first_stage(config)
    if config.task != "latent_diffusion":
        return
    modules = names_compvis.unet(unet_arch(config), is_linear(config))
    yield Place("unet", SINGLE, "model.diffusion_model.", modules)
    yield from names.pick(ORIGINAL_CONDITIONS, config.cond_stage.kind)(config)


def _original_first_stage(config):
    modules = names_compvis.first_stage(system_lib.arch_of_first_stage(config))
    prefix = FIRST_STAGE_PREFIX if config.task == "latent_diffusion" else ""
    yield Place("first_stage", SINGLE, prefix, modules)


def _original_text(config):
    modules = names_compvis.bert(config.cond_stage.depth)
    yield Place("cond_stage", SINGLE, "cond_stage_model.transformer.", modules)


def _original_label(config):
    modules = layouts.named("", {"classes": "embedding"})
    yield Place("cond_stage", SINGLE, "cond_stage_model.", modules)


def _original_segmentation(config):
    modules = layouts.named("", {"channel_mapper": "channel_mapper"}, kernel="conv2")
    yield Place("cond_stage", SINGLE, "cond_stage_model.", modules)


def _original_clip(config):
    for i, (name, encoder) in enumerate(system_lib.encoders(config).items()):
        several = config.cond_stage.pooled  # SDXL's code holds a list of embedders
        where = f"conditioner.embedders.{i}." if several else "cond_stage_model."
        ours = f"cond_stage/{name}"
        if name.startswith("openclip"):
            modules = names_compvis.openclip(encoder.depth)
            yield Place(ours, SINGLE, f"{where}model.", modules)
        else:
            modules = names_diffusers.clip(encoder.depth)
            yield Place(ours, SINGLE, f"{where}transformer.", modules)


ORIGINAL_CONDITIONS = {
    "none": lambda config: (),
    "text": _original_text,
    "layout": _original_text,
    "label": _original_label,
    "segmentation": _original_segmentation,
    "low_res": lambda config: (),
    "clip": _original_clip,
}


def diffusers(config):
    """Places of the folder layout."""
    stage = names_diffusers.first_stage(system_lib.arch_of_first_stage(config))
    yield Place("first_stage", first_stage_folder(config), "", stage)
    if config.task != "latent_diffusion":
        return
    modules = names_diffusers.unet(unet_arch(config), is_linear(config))
    yield Place("unet", "unet", "", modules)
    if config.cond_stage.kind not in ("none", "clip"):
        raise ValueError(
            f"the diffusers layout has no place for cond_stage.kind "
            f"{config.cond_stage.kind!r}: use the original layout"
        )
    encoders = system_lib.encoders(config)
    for name, folder in encoder_folders(config).items():
        modules = names_diffusers.clip(encoders[name].depth)
        yield Place(f"cond_stage/{name}", folder, "", modules)


def first_stage_folder(config):
    """diffusers calls LDM's quantised first stages otherwise."""
    return "vqvae" if config.first_stage.kind == "vq" else "vae"


def encoder_folders(config):
    """{encoder: folder}: SDXL's refiner has the second encoder alone, as the second."""
    encoders = config.cond_stage.encoders
    second = 2 - len(encoders) if config.cond_stage.pooled else 0
    folders = ("text_encoder", "text_encoder_2")[second:]
    return dict(zip(encoders, folders, strict=False))


def flax(config):
    """The places of diffusers, in Flax's names."""
    for place in diffusers(config):
        yield dataclasses.replace(place, modules=names_flax.of(place.modules))


LAYOUTS = {"original": original, "diffusers": diffusers, "flax": flax}


def rows(config, layout, shapes=None):
    """{component: [layouts.Row]} of a config's parameters."""
    shapes = parameter_shapes(config) if shapes is None else shapes
    found = {}
    for place in names.pick(LAYOUTS, layout)(config):
        part = shapes
        for key in place.ours.split("/"):
            part = part[key]
        new = layouts.rows(place.modules, part, place.ours, place.prefix)
        found.setdefault(place.component, []).extend(new)
    return found


def parameter_shapes(config):
    """The shapes of the parameters that files hold: all but the discriminator's."""
    system = system_lib.build(config)
    shapes = jax.eval_shape(system.init, jax.random.key(0))
    return {role: tree for role, tree in shapes.items() if role != "discriminator"}


def flax_controlnet(arch, linear, levels):
    return names_flax.of(names_diffusers.controlnet(arch, linear, levels))


def alone(rows):
    """Rows of a first stage in a file of its own, without the model's prefix."""
    cut = FIRST_STAGE_PREFIX
    return [
        dataclasses.replace(
            row, theirs=tuple(name.removeprefix(cut) for name in row.theirs)
        )
        for row in rows
        if row.ours.startswith("first_stage/")
    ]


# Layout -> (its names of a control branch, component, prefix).
CONTROL = {
    "original": (names_compvis.controlnet, SINGLE, "control_model."),
    "diffusers": (names_diffusers.controlnet, "controlnet", ""),
    "flax": (flax_controlnet, "controlnet", ""),
}


def control_rows(config, layout):
    """The same of a control branch for a config's UNet, at the path "control".

    Raises ValueError where the layout's networks have no such branch.
    """
    modules, component, prefix = names.pick(CONTROL, layout)
    arch, channels = unet_arch(config), config.control.channels
    if config.control.lite:
        raise ValueError(
            f"the layout {layout!r} knows no branch without a trunk (control.lite); "
            "ours and orbax do"
        )
    factor = system_lib.arch_of_first_stage(config).factor
    if 2 ** (len(channels) - 1) != factor:
        raise ValueError(
            f"the layout {layout!r} halves a hint at each of control.channels "
            f"{channels} but the first, and the first stage's factor is {factor}; ours "
            "and orbax hold others too"
        )
    shapes = jax.eval_shape(system_lib.init_control(config), jax.random.key(0))
    tree = modules(arch, is_linear(config), len(channels))
    return {component: layouts.rows(tree, shapes, "control", prefix)}


def averaged(row):
    """The row of the averaged weights: only the UNet's are in a file."""
    return dataclasses.replace(row, theirs=tuple(map(averaged_name, row.theirs)))


def averaged_name(name):
    """Where the originals keep the average of a tensor: without dots in its name."""
    return "model_ema." + name.removeprefix("model.").replace(".", "")


# Names that a file may hold and nothing here reads, and why.
UNUSED = {
    r"(betas|alphas_cumprod.*|.*sqrt_.*alphas_cumprod|log_one_minus_.*)": "schedule",
    r"(posterior_.*|lvlb_weights|denoiser\.sigmas)": "schedule",
    r"(scale_factor|logvar)": "a number of the training code",
    r"model_ema\.(decay|num_updates)": "a number of the training code",
    r"(first_stage_model\.)?loss\..*": "the first stage's discriminator and LPIPS",
    r".*\.position_ids": "the numbers 0 to 76",
    r".*\.(logit_scale|attn_mask)": "of CLIP's training",
    r"cond_stage_model\.transformer\.to_logits\..*": "a layer the originals never run",
    r"cond_stage_model\.(encoder|decoder|quant|post_quant).*": "the first stage again",
    r"model_ema\..*": "the averaged UNet, which was not asked for",
}


def reason(name, average=False):
    """Why a tensor of a file is not read, or None if that is not expected."""
    if average and name.startswith("model.diffusion_model."):
        return "the raw UNet, which was not asked for"
    if average and re.fullmatch(r"model_ema\.(?!decay|num_updates).*", name):
        return None
    for pattern, why in UNUSED.items():
        if re.fullmatch(pattern, name):
            return why
    return None
