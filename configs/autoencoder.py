"""The first stages of LDM (Rombach et al., 2022, table 8), 256x256: KL and VQ.

  python -m ldm_jax.train --config=configs/autoencoder.py:vq-f4 --workdir=runs/vq-f4

Nine are as released, vq-f2 and vq-f32 as the paper has them. f = 1 is first_stage.kind
"identity", which has nothing to train.
"""

from ldm_jax import config

# Of the discriminator disc_start, disc_weight and depth, and batch: as released.
PLAYED = {
    "kl-f4": (50_001, 0.5, 3, 10),
    "kl-f8": (50_001, 0.5, 3, 4),
    "kl-f16": (50_001, 0.5, 3, 6),
    "kl-f32": (50_001, 0.5, 3, 6),
    "vq-f2": (1, 0.75, 3, 8),
    "vq-f4": (0, 0.75, 3, 8),
    "vq-f4-noattn": (11, 0.75, 3, 8),
    "vq-f8": (1, 0.6, 2, 10),
    "vq-f8-n256": (250_001, 0.75, 3, 10),
    "vq-f16": (250_001, 0.75, 2, 14),
    "vq-f32": (250_001, 0.75, 2, 14),
}
VARIANTS = tuple(PLAYED)


def get_config(variant="kl-f8"):
    if variant not in VARIANTS:
        raise ValueError(f"variant {variant!r} must be one of {', '.join(VARIANTS)}")
    start, weight, depth, batch = PLAYED[variant]
    c = config.autoencoder()
    c.data.update(name="emoji_mixed", image_size=256, batch_size=batch)
    c.first_stage.update(config.stage(variant))
    c.loss.update(disc_start=start, disc_weight=weight)
    c.loss.legacy_beta = c.first_stage.codes > 0 and variant not in ("vq-f2", "vq-f32")
    c.discriminator.depth = depth
    c.optim.lr = 4.5e-6 * batch  # the originals' base rate times the batch of one GPU
    c.train.pictures = batch
    return config.check(c)
