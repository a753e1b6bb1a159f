"""Configs of the models whose names and shapes `released.shapes` lists."""

import importlib.util
import pathlib

CONFIGS = pathlib.Path(__file__).resolve().parent.parent / "configs"
FIRST_STAGES = (
    *("kl-f4", "kl-f8", "kl-f16", "kl-f32"),
    *("vq-f4", "vq-f4-noattn", "vq-f8", "vq-f8-n256", "vq-f16"),
)

# LDM's diffusion models -> (file of configs/, variant).
MODELS = {
    "celeba256": ("unconditional", "celebahq"),
    "ffhq256": ("unconditional", "ffhq"),
    "lsun_beds256": ("unconditional", "lsun_bedrooms"),
    "lsun_churches256": ("unconditional", "lsun_churches"),
    "cin256": ("class_to_image", "cin256"),
    "cin256-v2": ("class_to_image", "paper"),
    "text2img256": ("text_to_image", "text2img256"),
    "txt2img-1p4B": ("text_to_image", "paper"),
    "layout2img-openimages256": ("layout_to_image_openimages", "released"),
    "semantic_synthesis256": ("semantic_to_image", "released"),
    "semantic_synthesis512": ("semantic_to_image", "released-512"),
    "inpainting_big": ("inpainting", "released"),
    "bsr_sr": ("super_resolution", "released"),
}


def first_stage(name):
    """The config of a first stage alone."""
    return shipped("autoencoder", name)


def model(name):
    """The config of one of LDM's diffusion models."""
    return shipped(*MODELS[name])


def shipped(file, variant):
    """The config of a file of configs/; "" where it has no variants."""
    return module(file).get_config(*(variant,) * bool(variant))


def module(file):
    spec = importlib.util.spec_from_file_location(file, CONFIGS / f"{file}.py")
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found
