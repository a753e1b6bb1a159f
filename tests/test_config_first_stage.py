"""What the config of a first stage is refused for."""

import helpers
import pytest

from ldm_jax import config


def autoencoder(kind):
    c = helpers.tiny_autoencoder_config()
    if kind == "vq":
        c.first_stage.update(kind="vq", codes=16)
    return config.check(c)


def identity():
    c = helpers.tiny_config()
    c.first_stage.update(kind="identity", mult=(1,), attention=(0,))
    c.first_stage.update(z_channels=3, embed_channels=3)
    c.unet.out_channels = 3
    return config.check(c)


def refused(c, section, changes):
    """What config.check says to a config with these changes."""
    c[section].update(changes)
    with pytest.raises(ValueError) as caught:
        config.check(c)
    return str(caught.value)


NOT_OF = {
    ("vq", "learn_logvar", True): "it must be False",
    ("vq", "kl_weight", 0.5): "it must be 1e-06",
    ("kl", "codebook_weight", 2.0): "it must be 1.0",
    ("kl", "beta", 0.5): "it must be 0.25",
    ("kl", "legacy_beta", True): "it must be False",
    ("kl", "restart_after", 100): "it must be 0",
}


@pytest.mark.parametrize("wrong", NOT_OF, ids=lambda wrong: wrong[1])
def test_a_knob_of_the_other_kind_is_refused(wrong):
    kind, key, value = wrong
    c = autoencoder(kind)
    c.train.trainable = (*c.train.trainable, "logvar")  # not this is to blame
    words = refused(c, "loss", {key: value})
    assert words.startswith(
        f"loss.{key} {value} does nothing where first_stage.kind is '{kind}'"
    )
    assert words.endswith(NOT_OF[wrong])


def test_the_same_knobs_are_taken_by_their_kind():
    c = autoencoder("vq")
    c.loss.update(legacy_beta=True, restart_after=100)
    config.check(c)
    c = autoencoder("kl")
    c.loss.learn_logvar = True
    c.train.trainable = ("first_stage", "discriminator", "logvar")
    config.check(c)


WEIGHTS = ["perceptual", "kl", "codebook", "disc", "r1", "lecam"]


@pytest.mark.parametrize("key", [*(f"{name}_weight" for name in WEIGHTS), "beta"])
def test_weights_below_zero_are_refused(key):
    kind = "kl" if key == "kl_weight" else "vq"
    words = refused(autoencoder(kind), "loss", {key: -0.5})
    assert words == f"loss.{key} -0.5 must be 0 or more"
    c = autoencoder(kind)
    c.loss[key] = 0.0
    config.check(c)


@pytest.mark.parametrize("key", ["disc_start", "disc_warmup", "restart_after"])
def test_steps_below_zero_are_refused(key):
    words = refused(autoencoder("vq"), "loss", {key: -1})
    assert words == f"loss.{key} -1 must be 0 steps or more"


def test_a_learned_logvar_must_be_trained_and_none_cannot_be():
    words = refused(autoencoder("kl"), "loss", {"learn_logvar": True})
    assert words.startswith("loss.learn_logvar True goes with 'logvar' in")
    both = {"trainable": ("first_stage", "discriminator", "logvar")}
    words = refused(autoencoder("kl"), "train", both)
    assert words.startswith("loss.learn_logvar False goes without 'logvar' in")


@pytest.mark.parametrize(
    ("kind", "codes", "wanted"),
    [
        ("kl", 16, "first_stage.codes 16 must be 0 where first_stage.kind is 'kl'"),
        ("vq", 0, "first_stage.kind 'vq' needs first_stage.codes of at least 1"),
    ],
)
def test_a_codebook_belongs_to_vq(kind, codes, wanted):
    c = helpers.tiny_autoencoder_config()
    words = refused(c, "first_stage", {"kind": kind, "codes": codes})
    assert words.startswith(wanted)


@pytest.mark.parametrize("key", ["r1_weight", "lecam_weight"])
def test_a_discriminator_that_rests_is_not_regularised(key):
    c = autoencoder("kl")
    c.loss.disc_weight = 0.0
    words = refused(c, "loss", {key: 0.5})
    assert words.startswith(f"loss.{key} 0.5 does nothing where loss.disc_weight is 0")


def test_a_discriminator_has_layers_and_leaves_patches():
    words = refused(autoencoder("kl"), "discriminator", {"depth": 0})
    assert words == "discriminator.depth is 0, it must be at least 1"
    words = refused(autoencoder("kl"), "discriminator", {"depth": 4})
    assert words.startswith("discriminator.depth 4 leaves no patch of data.image_size")


def test_codes_restart_only_where_they_are_trained():
    c = autoencoder("vq")
    c.loss.restart_after = 5
    trainable = ("first_stage/decoder", "first_stage/post_quant_conv", "discriminator")
    words = refused(c, "train", {"trainable": trainable})
    assert words.startswith("loss.restart_after 5 restarts codes, which")
    c.train.trainable = ("first_stage/codebook", "discriminator")
    config.check(c)


def test_an_autoencoder_without_a_network_is_refused():
    c = helpers.tiny_autoencoder_config()
    words = refused(c, "first_stage", {"kind": "identity"})
    assert words.startswith("first_stage.kind 'identity' has nothing to train")


@pytest.mark.parametrize(
    "changes",
    [
        {"mult": (1, 2), "attention": (0, 0)},
        {"z_channels": 4},
        {"embed_channels": 4},
        {"weights": "stage.safetensors"},
        {"scale": 0.5},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_an_identity_is_the_picture(changes):
    key, value = next(iter(changes.items()))
    c = identity()
    # So that what joins the UNet is not to blame.
    c.unet.out_channels = changes.get("embed_channels", 3)
    words = refused(c, "first_stage", changes)
    assert words.startswith(f"first_stage.{key} {value!r} must be ")
    assert words.endswith(
        "where first_stage.kind is 'identity': the latent is the picture"
    )


def test_the_unet_over_an_identity_gives_pictures():
    words = refused(identity(), "unet", {"out_channels": 4})
    assert "unet.out_channels 4 must equal first_stage.embed_channels 3" in words
