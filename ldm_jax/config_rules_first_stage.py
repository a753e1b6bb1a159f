"""The rules of first stages: of any, and of training one."""

from ldm_jax import config_require

# Knobs of a first stage's loss that only one kind reads, and what they are elsewhere.
LOSS_OF = {
    "learn_logvar": ("kl", False),
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
    config_require.require(
        loss.learn_logvar == ("logvar" in c.train.trainable),
        f"loss.learn_logvar {loss.learn_logvar} and 'logvar' in train.trainable "
        f"{c.train.trainable} go together",
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
