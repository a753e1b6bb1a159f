"""The rules of first stages: of any, and of training one."""

from ldm_jax import names, rules

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
# What has a *_weight in the loss.
WEIGHTS = ("perceptual", "kl", "codebook", "disc", "r1", "lecam")


def autoencoder(c):
    stage, loss = c.first_stage, c.loss
    rules.require(
        stage.kind != "identity",
        "first_stage.kind 'identity' has nothing to train: diffusion sees the pictures",
    )
    for key in (*(f"{name}_weight" for name in WEIGHTS), "beta"):
        rules.require(loss[key] >= 0, f"loss.{key} {loss[key]} must be 0 or more")
    for key, (kind, off) in LOSS_OF.items():
        rules.require(
            stage.kind == kind or loss[key] == off,
            f"loss.{key} {loss[key]} does nothing where first_stage.kind is "
            f"{stage.kind!r}: it must be {off}",
        )
    for key in ("disc_start", "disc_warmup", "restart_after"):
        rules.require(loss[key] >= 0, f"loss.{key} {loss[key]} must be 0 steps or more")
    _discriminator(c)
    rules.require(
        loss.learn_logvar == ("logvar" in c.train.trainable),
        f"loss.learn_logvar {loss.learn_logvar} goes with"
        f"{'' if loss.learn_logvar else 'out'} 'logvar' in train.trainable, which is "
        f"{c.train.trainable}",
    )
    trained = [
        p
        for p in c.train.trainable
        if names.covers(p, "first_stage/codebook/codes/embedding")
    ]
    rules.require(
        loss.restart_after == 0 or trained,
        f"loss.restart_after {loss.restart_after} restarts codes, which "
        f"train.trainable {c.train.trainable} leaves as they are: it must be 0",
    )


def _discriminator(c):
    loss, depth, size = c.loss, c.discriminator.depth, c.data.image_size
    for key in ("r1_weight", "lecam_weight"):
        rules.require(
            loss[key] == 0 or loss.disc_weight > 0,
            f"loss.{key} {loss[key]} does nothing where loss.disc_weight is 0: it must "
            "be 0",
        )
    rules.require(
        size // 2**depth > 2,
        f"discriminator.depth {depth} leaves no patch of data.image_size {size}: it "
        f"needs pictures of {3 * 2**depth}",
    )


def identity(c):
    stage = c.first_stage
    wanted = {"mult": (1,), "z_channels": 3, "embed_channels": 3}
    wanted |= {"weights": "", "scale": 1.0}
    for key, value in wanted.items():
        rules.require(
            stage[key] == value,
            f"first_stage.{key} {stage[key]!r} must be {value!r} where "
            "first_stage.kind is 'identity': the latent is the picture",
        )


def first_stage(stage):
    rules.require(
        stage.kind != "vq" or stage.codes > 0,
        f"first_stage.kind 'vq' needs first_stage.codes of at least 1, it is "
        f"{stage.codes}",
    )
    rules.require(
        stage.kind == "vq" or stage.codes == 0,
        f"first_stage.codes {stage.codes} must be 0 where first_stage.kind is "
        f"{stage.kind!r}: it has no codebook",
    )
    rules.levels(stage, "first_stage", "attention")
    rules.groups(stage, "first_stage")
