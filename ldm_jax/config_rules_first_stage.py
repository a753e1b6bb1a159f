"""The rules of first stages: of any, and of training one."""

from ldm_jax import config_require

# Knobs of a first stage's loss that only one kind reads, and what they are elsewhere:
# as in the base.
LOSS_OF = {
    "learn_logvar": ("kl", False),
    "kl_weight": ("kl", 1e-6),
    "codebook_weight": ("vq", 1.0),
    "beta": ("vq", 0.25),
    "legacy_beta": ("vq", False),
    "restart_after": ("vq", 0),
}
WEIGHTS = (
    "perceptual",
    "kl",
    "codebook",
    "disc",
    "r1",
    "lecam",
)  # *_weight of the loss


def autoencoder(c):
    stage, loss = c.first_stage, c.loss
    config_require.require(
        stage.kind != "identity",
        "first_stage.kind 'identity' has nothing to train: diffusion sees the pictures",
    )
    for key, (kind, off) in LOSS_OF.items():
        config_require.require(
            stage.kind == kind or loss[key] == off,
            f"loss.{key} {loss[key]} does nothing where first_stage.kind is "
            f"{stage.kind!r}: it must be {off}",
        )
    for key in (*(f"{name}_weight" for name in WEIGHTS), "beta"):
        config_require.require(
            loss[key] >= 0, f"loss.{key} {loss[key]} must be 0 or more"
        )
    for key in ("disc_start", "disc_warmup", "restart_after"):
        config_require.require(
            loss[key] >= 0, f"loss.{key} {loss[key]} must be 0 steps or more"
        )
    _discriminator(c)
    config_require.require(
        loss.learn_logvar == ("logvar" in c.train.trainable),
        f"loss.learn_logvar {loss.learn_logvar} and 'logvar' in train.trainable "
        f"{c.train.trainable} go together",
    )


def _discriminator(c):
    loss, depth, size = c.loss, c.discriminator.depth, c.data.image_size
    for key in ("r1_weight", "lecam_weight"):
        config_require.require(
            loss[key] == 0 or loss.disc_weight > 0,
            f"loss.{key} {loss[key]} does nothing where loss.disc_weight is 0: it must "
            "be 0",
        )
    config_require.require(
        size // 2**depth > 2,
        f"discriminator.depth {depth} leaves no patch of data.image_size {size}: it "
        f"needs pictures of {3 * 2**depth}",
    )


def identity(c):
    stage = c.first_stage
    wanted = {"mult": (1,), "z_channels": 3, "embed_channels": 3}
    wanted |= {"weights": "", "scale": 1.0}
    for key, value in wanted.items():
        config_require.require(
            stage[key] == value,
            f"first_stage.{key} {stage[key]!r} must be {value!r} where "
            "first_stage.kind is 'identity': the latent is the picture",
        )


def first_stage(stage):
    config_require.require(
        (stage.kind == "vq") == (stage.codes > 0),
        f"first_stage.codes {stage.codes} must be above 0 where first_stage.kind is "
        f"'vq', and 0 elsewhere: it is {stage.kind!r}",
    )
    config_require.levels(stage, "first_stage", "attention")
    config_require.groups(stage, "first_stage")
