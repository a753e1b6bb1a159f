"""The autoencoders say what diffusers' say with the same weights."""

import diffusers
import helpers
import parity
import parity_models
import pytest
import torch

from ldm_jax import system
from ldm_jax.models import autoencoder

pytestmark = pytest.mark.parity


# Name -> (what our config changes, the arguments of diffusers' class that differ).
LEVELS = {
    "middle": ({}, {}),
    "none": (dict(mid_attention=False), dict(mid_block_add_attention=False)),
    "deepest": (
        dict(attention=(0, 1)),
        dict(
            down_block_types=("DownEncoderBlock2D", "AttnDownEncoderBlock2D"),
            up_block_types=("AttnUpDecoderBlock2D", "UpDecoderBlock2D"),
        ),
    ),
}


def stage(changes, **more):
    """Our network and its config, two blocks in a level."""
    c = parity.config_of(first_stage={"blocks": 2, **changes, **more})
    c.unet.out_channels = c.first_stage.embed_channels
    module = autoencoder.FIRST_STAGES[c.first_stage.kind]
    return c, module(system.arch_of_first_stage(c))


@pytest.mark.parametrize("levels", ["middle", "deepest"])  # as released
def test_kl(levels):
    changes, arguments = LEVELS[levels]
    c, net = stage(changes)
    for gain in parity.GAINS:
        other = parity_models.torch_stage(diffusers.AutoencoderKL, gain, **arguments)
        x, z = parity.normal(1, 2, 3, 24, 32), parity.normal(2, 2, 4, 12, 16)
        with torch.inference_mode():
            posterior = other.encode(x).latent_dist
            picture = parity.nhwc(other.decode(z).sample)
        params = parity.params(c, "diffusers", other.state_dict(), "first_stage")

        found = helpers.apply(net, params, parity.nhwc(x), method="encode")
        said = f"at gain {gain}"
        parity.assert_same(found.mean, parity.nhwc(posterior.mean), f"mean {said}")
        logvar = parity.nhwc(posterior.logvar)
        parity.assert_same(found.logvar, logvar, f"log-variance {said}")
        found = helpers.apply(net, params, parity.nhwc(z), method="decode")
        parity.assert_same(found, picture, f"picture {said}")


@pytest.mark.parametrize("levels", LEVELS)
def test_vq(levels):
    """The latent is not quantised yet; the decoder's input is."""
    changes, arguments = LEVELS[levels]
    c, net = stage(changes, kind="vq", codes=256)
    for gain in parity.GAINS:
        other = parity_models.torch_stage(
            diffusers.VQModel, gain, num_vq_embeddings=256, **arguments
        )
        x, z = parity.normal(1, 2, 3, 24, 32), parity.normal(2, 2, 4, 12, 16)
        with torch.inference_mode():
            latent = parity.nhwc(other.encode(x).latents)
            picture = parity.nhwc(other.decode(z).sample)
        params = parity.params(c, "diffusers", other.state_dict(), "first_stage")

        said = f"at gain {gain}"
        found = helpers.apply(net, params, parity.nhwc(x), method="encode").mean
        parity.assert_same(found, latent, f"latent {said}")
        found = helpers.apply(net, params, parity.nhwc(z), method="decode")
        parity.assert_same(found, picture, f"picture {said}")
