"""Configs of the models whose names and shapes `released.shapes` lists."""

import importlib.util
import pathlib

from ldm_jax import config

CONFIGS = pathlib.Path(__file__).resolve().parent.parent / "configs"
FIRST_STAGES = (
    *("kl-f4", "kl-f8", "kl-f16", "kl-f32"),
    *("vq-f4", "vq-f4-noattn", "vq-f8", "vq-f8-n256", "vq-f16"),
)

FACES = dict(channels=224, mult=(1, 2, 3, 4), depths=(0, 1, 1, 1), attention="plain")
EIGHT = dict(heads=8, head_channels=0)
CLASSES = dict(channels=192, mult=(1, 2, 3, 5), depths=(0, 1, 1, 1))
MAPS = dict(channels=128, mult=(1, 4, 8), depths=(0, 0, 0), attention="plain", **EIGHT)
WORDS = dict(kind="text", heads=8, head_channels=64)
LAYOUT = dict(vocab=8192, length=92, width=512, depth=16)
COCO_MAP = dict(kind="segmentation", classes=182, width=3, stages=2)

# Name -> (first stage, unet, cond_stage).
MODELS = {
    "celeba256": ("vq-f4", FACES, {}),
    "ffhq256": ("vq-f4", FACES, {}),
    "lsun_beds256": ("vq-f4", FACES, {}),
    "lsun_churches256": (
        "kl-f8",
        dict(
            channels=192,
            mult=(1, 2, 2, 4, 4),
            depths=(1, 1, 1, 1, 0),
            attention="plain",
            scale_shift=True,
            resblock_updown=True,
            **EIGHT,
        ),
        {},
    ),
    "cin256": (
        "vq-f8",
        dict(channels=256, mult=(1, 2, 4), depths=(1, 1, 1)),
        dict(kind="label", classes=1000, width=512),
    ),
    "cin256-v2": (
        "vq-f4",
        {**CLASSES, "heads": 1, "head_channels": 0},
        dict(kind="label", classes=1001, width=512),
    ),
    "text2img256": ("vq-f4", CLASSES, {**WORDS, "width": 640}),
    "txt2img-1p4B": (
        "kl-f8",
        dict(channels=320, mult=(1, 2, 4, 4), depths=(1, 1, 1, 0), **EIGHT),
        WORDS,
    ),
    "layout2img-openimages256": (
        "vq-f4",
        dict(channels=128, mult=(1, 2, 3, 4), depths=(0, 3, 3, 3), mid_depth=3),
        {**WORDS, **LAYOUT},
    ),
    "semantic_synthesis256": ("vq-f4", MAPS, COCO_MAP),
    "semantic_synthesis512": ("vq-f4", MAPS, COCO_MAP),
    "inpainting_big": (
        "vq-f4-noattn",
        {**FACES, "channels": 256, "resblock_updown": True, **EIGHT},
        dict(inpaint="ldm"),
    ),
    "bsr_sr": (
        "vq-f4",
        dict(channels=160, mult=(1, 2, 2, 4), depths=(0, 0, 0, 1), attention="plain"),
        dict(kind="low_res", stages=2),
    ),
}


def first_stage(name):
    """The config of a first stage alone."""
    return shipped("autoencoder", name)


def model(name):
    """The checked config of one of LDM's diffusion models."""
    stage, unet, cond = MODELS[name]
    c = config.latent_diffusion()
    stage = first_stage(stage).first_stage
    c.first_stage.update(stage.to_dict())
    c.unet.update(out_channels=stage.embed_channels, **unet)
    c.cond_stage.update(cond)
    return config.check(c)


def shipped(file, variant):
    """The config of a file of configs/."""
    spec = importlib.util.spec_from_file_location(file, CONFIGS / f"{file}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(variant)
