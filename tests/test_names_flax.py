"""The names of Flax's folders: what they hold says here what it says in torch."""

import helpers
import numpy as np
import pytest
import released as listed
import tiny_stable_diffusion

from ldm_jax import config as config_lib
from ldm_jax import system
from ldm_jax.exchange import opening, plans, released
from ldm_jax.models import autoencoder, clip, unet
from ldm_jax.weights import layouts, names_flax, own


def test_numbers_follow_their_list_but_for_layers():
    names = ("down_blocks.0.attentions.1.proj", "encoder.layers.3.mlp.fc1")
    modules = {
        "a": layouts.Module(names, kernel="dense"),
        "b": layouts.Module(("q.0",), kernel="conv2"),
    }
    found = names_flax.of(modules)
    assert found["a"].names == ("down_blocks_0.attentions_1.proj", names[1])
    assert found["a"].kernel == found["a"].conv == found["b"].conv == "same"
    assert found["b"].names == ("q_0",) and found["b"].kernel == "flax1x1"
    assert found["a"].leaves["scale"] == ".scale"


@pytest.fixture(scope="module")
def flax(tmp_path_factory):
    """(config, params, arrays) of the Flax folder."""
    clip.ENCODERS["clip_flax"] = clip.Encoder(
        *(32, 2, 4, "quick_gelu", clip.END), vocab=520
    )
    path, held = listed.flax_folder(tmp_path_factory.mktemp("flax"))
    c = tiny_stable_diffusion.get_config().copy_and_resolve_references()
    c.first_stage.update(channels=16, groups=8)
    c.cond_stage.update(encoders=("clip_flax",), vocab=520)
    c.unet.update(heads=4, head_channels=0, groups=32)
    c = config_lib.check(c)
    opened = opening.open_path(path)
    assert opened.found.layout == "flax"
    plan = opening.plan(opened, c)
    assert plan.unused == {}
    yield c, plans.tree(own.narrowed(plans.tensors_of(plan), "float32")), held
    del clip.ENCODERS["clip_flax"]


def assert_near(found, want):
    assert found.shape == want.shape
    gap = np.linalg.norm(np.float64(found) - want) / np.linalg.norm(want)
    assert gap < 1e-4, gap


def test_a_flax_unet_says_what_torch_says(flax):
    c, params, held = flax
    net = unet.UNet(released.unet_arch(c))
    told = held["sample"], held["timesteps"], held["text_flax"]
    assert_near(helpers.apply(net, params["unet"], *told), held["unet_torch"])


def test_a_flax_first_stage_says_what_torch_says(flax):
    c, params, held = flax
    net = autoencoder.Autoencoder(system.arch_of_first_stage(c))
    found = helpers.apply(net, params["first_stage"], held["image"], method="encode")
    assert_near(found.mean, held["mean_torch"])
    assert_near(found.logvar, held["logvar_torch"])
    found = helpers.apply(net, params["first_stage"], held["latent"], method="decode")
    assert_near(found, held["decoded_torch"])


def test_a_flax_text_encoder_says_what_it_said(flax):
    _, params, held = flax
    net = clip.TextEncoder(clip.ENCODERS["clip_flax"])
    params = params["cond_stage"]["clip_flax"]
    found, pooled = helpers.apply(net, params, held["input_ids"])
    assert pooled is None
    assert_near(found, held["text_flax"])
