"""Sizes of the released networks, from shapes alone: nothing is allocated."""

import json

import commands
import helpers
import jax
import jax.numpy as jnp
import pytest
import released_configs

from ldm_jax import planning, system
from ldm_jax.models import discriminator, text

M = 1e6
# Released UNet -> its file and variant in configs/, and its parameters. Rounded where
# only the millions are published.
UNETS = {
    ("unconditional", "celebahq"): 274_056_163,
    ("unconditional", "ffhq"): 274_056_163,
    ("unconditional", "lsun_bedrooms"): 274_056_163,
    ("unconditional", "lsun_churches"): 294.97,
    ("class_to_image", "paper"): 400.92,
    ("class_to_image", "cin256"): 394.98,
    ("text_to_image", "paper"): 872.30,
    ("text_to_image", "text2img256"): 403.62,
    ("layout_to_image_openimages", "released"): 246.28,
    ("semantic_to_image", "released"): 215.23,
    ("semantic_to_image", "released-512"): 215.23,
    ("inpainting", "released"): 387.25,
    ("super_resolution", "released"): 113.62,
    ("stable_diffusion", "v1"): 859_520_964,
    ("stable_diffusion", "v2"): 865_910_724,
    ("sdxl", "base"): 2_567_463_684,
}
# Files and variants -> (roles, millions that the papers give for their sum). What they
# count differs: LDM's tables 12, 13, 14 and 15, and ControlNet's for Stable Diffusion.
MODEL = ("unet", "cond_stage")
SPELLED = (*MODEL, "unused")
PUBLISHED = {
    ("text_to_image", "paper"): (SPELLED, 1450),
    ("layout_to_image_openimages", "paper"): (SPELLED, 306),
    ("layout_to_image_openimages", "released"): (SPELLED, 306),
    ("layout_to_image_coco", ""): (SPELLED, 345),  # with 8 layers, not 16
    ("class_to_image", "paper"): (MODEL, 400),  # of table 10; 15 has that of cin256
    ("class_to_image", "cin256"): (MODEL, 395),
    ("super_resolution", "paper"): (("unet", "first_stage"), 169),
    ("super_resolution", "released"): (("unet", "first_stage"), 169),
    ("inpainting", "paper"): (("unet",), 215),
    ("inpainting", "released"): (("unet",), 387),
    ("semantic_to_image", "paper"): (MODEL, 215),
    ("semantic_to_image", "released"): (MODEL, 215),
    ("semantic_to_image", "released-512"): (MODEL, 215),
    ("text_to_image", "text2img256"): (SPELLED, 590),
    ("unconditional", "celebahq"): (("unet",), 274),
    ("unconditional", "ffhq"): (("unet",), 274),
    ("unconditional", "lsun_churches"): (("unet",), 294),
    ("unconditional", "lsun_bedrooms"): (("unet",), 274),
    ("ablation_imagenet", "f=1"): (MODEL, 396),
    ("ablation_imagenet", "f=2"): (MODEL, 391),
    ("ablation_imagenet", "f=4"): (MODEL, 401),  # the table repeats 391 of f = 2
    ("ablation_imagenet", "f=8"): (MODEL, 395),
    ("ablation_imagenet", "f=16"): (MODEL, 395),
    ("ablation_imagenet", "f=32"): (MODEL, 395),
    ("ablation_celebahq", "f=1"): (MODEL, 270),
    ("ablation_celebahq", "f=2"): (MODEL, 265),
    ("ablation_celebahq", "f=4"): (MODEL, 274),
    ("ablation_celebahq", "f=8"): (MODEL, 258),
    ("ablation_celebahq", "f=16"): (MODEL, 260),
    ("ablation_celebahq", "f=32"): (MODEL, 258),
    ("stable_diffusion", "v1"): (("unet",), 860),
    ("stable_diffusion", "v1-inpainting"): (("unet",), 860),
    ("stable_diffusion", "v2"): (("unet",), 866),
    ("stable_diffusion", "v2-v"): (("unet",), 866),
    ("sdxl", "base"): (("unet",), 2567),
    ("sdxl", "refiner"): (("unet",), 2260),  # counted here: the paper does not say
}


def counts(file, variant):
    return planning.params(released_configs.shipped(file, variant))


def assert_size(found, wanted):
    """Exact, or to the two decimals of a number of millions."""
    assert (round(found / M, 2) if isinstance(wanted, float) else found) == wanted


@pytest.mark.parametrize("name", UNETS, ids=":".join)
def test_unet(name):
    assert_size(counts(*name)["unet"], UNETS[name])


def test_every_column_of_the_papers_is_there():
    """All variants of all files but demos, first stages (below) and ControlNets."""
    there = {
        (path.stem, variant)
        for path in released_configs.CONFIGS.glob("*.py")
        if not path.stem.startswith(("demo_", "autoencoder", "controlnet"))
        for variant in getattr(released_configs.module(path.stem), "VARIANTS", ("",))
    }
    assert there == set(PUBLISHED)


@pytest.mark.parametrize("name", PUBLISHED, ids=":".join)
def test_published_size(name):
    roles, millions = PUBLISHED[name]
    found = counts(*name)
    assert sum(found.get(role, 0) for role in roles) / M == pytest.approx(
        millions, rel=0.01
    )
    built = {role for role in found if role not in ("unused", "total")}
    assert found["total"] == sum(found[role] for role in built)


def test_the_command_prints_them():
    config = f"--config={released_configs.CONFIGS / 'super_resolution.py'}"
    told = json.loads(commands.said("ldm_jax.plan", config, "--params"))
    wanted = counts("super_resolution", "paper")
    assert told == wanted and list(told)[-1] == "total"
    told = json.loads(commands.said("ldm_jax.plan", config))
    assert told["params"] == wanted
    assert told["batch"]["low_res"] == [[64, 64, 64, 3], "uint8"]


# Millions to two decimals, where no more digits are known.
FIRST_STAGES = {
    "kl-f4": 55.31,
    "kl-f8": 83_653_863,
    "kl-f16": 69.61,
    "kl-f32": 103.88,
    "vq-f4": 55.32,
    "vq-f4-noattn": 53.22,
    "vq-f8": 67.72,
    "vq-f8-n256": 67.65,
    "vq-f16": 69.59,
}


@pytest.mark.parametrize("name", FIRST_STAGES)
def test_first_stage(name):
    """Those of configs/autoencoder.py, without the discriminator."""
    c = released_configs.first_stage(name)
    shapes = jax.eval_shape(system.build(c).init, jax.random.key(0))
    assert_size(helpers.count(shapes["first_stage"]), FIRST_STAGES[name])


@pytest.mark.parametrize(
    ("depth", "side", "wanted"), [(3, 30, 2.77), (2, 62, 0.66)], ids=["3", "2"]
)
def test_discriminator(depth, side, wanted):
    net = discriminator.PatchDiscriminator(depth=depth)
    shapes = helpers.init_shapes(net, jnp.zeros((1, 256, 256, 3)))
    assert_size(helpers.count(shapes), wanted)


@pytest.mark.parametrize(
    ("vocab", "length", "width", "depth", "wanted"),
    [
        (30_522, 77, 1280, 32, 581.99),
        (30_522, 77, 640, 32, 186.15),
        (8_192, 92, 512, 16, 58.86),
    ],
    ids=["txt2img-1p4B", "text2img256", "layout2img-openimages256"],
)
def test_text_encoder(vocab, length, width, depth, wanted):
    """The published sizes count an unused layer back to the vocabulary."""
    net = text.TextTransformer(vocab, length, width, depth, heads=8, head_channels=64)
    shapes = helpers.init_shapes(net, jnp.zeros((1, length), jnp.int32))
    assert_size(helpers.count(shapes) + (width + 1) * vocab, wanted)
