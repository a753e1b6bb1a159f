"""Sizes of the released networks, from shapes alone: nothing is allocated."""

import helpers
import jax
import jax.numpy as jnp
import pytest
import released_configs

from ldm_jax import system
from ldm_jax.models import discriminator, text, unet

BASE = dict(
    out_channels=3,
    channels=224,
    mult=(1, 2, 3, 4),
    blocks=2,
    depths=(0, 1, 1, 1),
    mid_depth=1,
    attention="plain",
    positions=False,
    heads=0,
    head_channels=32,
    scale_shift=False,
    resblock_updown=False,
    dropout=0.0,
    groups=32,
    remat=False,
    dtype="float32",
)
EIGHT = dict(heads=8, head_channels=0)
TOLD = dict(attention="transformer")
CLASSES = dict(channels=192, mult=(1, 2, 3, 5), **TOLD)
SD = dict(out_channels=4, channels=320, mult=(1, 2, 4, 4), depths=(1, 1, 1, 0), **TOLD)

# Released model -> (changes to BASE, input channels, width of the context and of
# the vector, parameters). Rounded where only the millions are published.
UNETS = {
    "celeba256": (dict(), 3, 0, 0, 274_056_163),
    "lsun_churches256": (
        dict(
            out_channels=4,
            channels=192,
            mult=(1, 2, 2, 4, 4),
            depths=(1, 1, 1, 1, 0),
            scale_shift=True,
            resblock_updown=True,
            **EIGHT,
        ),
        4,
        0,
        0,
        294.97,
    ),
    "cin256-v2": ({**CLASSES, "heads": 1, "head_channels": 0}, 3, 512, 0, 400.92),
    "text2img256": (CLASSES, 3, 640, 0, 403.62),
    "txt2img-1p4B": ({**SD, **EIGHT}, 4, 1280, 0, 872.30),
    "layout2img-openimages256": (
        dict(channels=128, depths=(0, 3, 3, 3), mid_depth=3, **TOLD),
        3,
        512,
        0,
        246.28,
    ),
    "semantic_synthesis256": (
        dict(channels=128, mult=(1, 4, 8), depths=(0, 0, 0), **EIGHT),
        6,
        0,
        0,
        215.23,
    ),
    "inpainting_big": (
        dict(channels=256, resblock_updown=True, **EIGHT),
        7,
        0,
        0,
        387.25,
    ),
    "bsr_sr": (
        dict(channels=160, mult=(1, 2, 2, 4), depths=(0, 0, 0, 1)),
        6,
        0,
        0,
        113.62,
    ),
    "stable diffusion 1": ({**SD, **EIGHT}, 4, 768, 0, 859_520_964),
    "stable diffusion 2": ({**SD, "head_channels": 64}, 4, 1024, 0, 865_910_724),
    "sdxl base": (
        {
            **SD,
            "mult": (1, 2, 4),
            "depths": (0, 2, 10),
            "mid_depth": 10,
            "head_channels": 64,
        },
        4,
        2048,
        2816,
        2_567_463_684,
    ),
}


def assert_size(found, wanted):
    """Exact, or to the two decimals of a number of millions."""
    assert (round(found / 1e6, 2) if isinstance(wanted, float) else found) == wanted


@pytest.mark.parametrize("name", UNETS)
def test_unet(name):
    changes, channels, context, vector, wanted = UNETS[name]
    net = unet.UNet(unet.Arch(**{**BASE, **changes}))
    z, t = jnp.zeros((1, 16, 16, channels)), jnp.zeros(1)
    context = jnp.zeros((1, 2, context)) if context else None
    vector = jnp.zeros((1, vector)) if vector else None
    assert_size(helpers.count(helpers.init_shapes(net, z, t, context, vector)), wanted)


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
