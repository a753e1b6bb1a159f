"""The first stages of LDM (Rombach et al., 2022, table 8), 256x256: KL and VQ.

  python -m ldm_jax.train --config=configs/autoencoder.py:vq-f4 --workdir=runs/vq-f4

Nine are as released. vq-f2 and vq-f32 were not: their latents and codebooks are the
paper's, and their widths go on as the others' do. f = 1 is first_stage.kind "identity".
"""

from ldm_jax import config

# Widths by level, last levels that attend, latent channels, codes; of the discriminator
# disc_start, disc_weight and depth, as released; batch.
STAGES = {
    "kl-f4": ((1, 2, 4), 0, 3, 0, 50_001, 0.5, 3, 10),
    "kl-f8": ((1, 2, 4, 4), 0, 4, 0, 50_001, 0.5, 3, 4),
    "kl-f16": ((1, 1, 2, 2, 4), 1, 16, 0, 50_001, 0.5, 3, 6),
    "kl-f32": ((1, 1, 2, 2, 4, 4), 2, 64, 0, 50_001, 0.5, 3, 6),
    "vq-f2": ((1, 2), 0, 2, 2048, 1, 0.75, 3, 8),
    "vq-f4": ((1, 2, 4), 0, 3, 8192, 0, 0.75, 3, 8),
    "vq-f4-noattn": ((1, 2, 4), 0, 3, 8192, 11, 0.75, 3, 8),
    "vq-f8": ((1, 2, 2, 4), 1, 4, 16_384, 1, 0.6, 2, 10),
    "vq-f8-n256": ((1, 2, 2, 4), 1, 4, 256, 250_001, 0.75, 3, 10),
    "vq-f16": ((1, 1, 2, 2, 4), 1, 8, 16_384, 250_001, 0.75, 2, 14),
    "vq-f32": ((1, 1, 2, 2, 4, 4), 2, 32, 16_384, 250_001, 0.75, 2, 14),
}
VARIANTS = tuple(STAGES)


def get_config(variant="kl-f8"):
    if variant not in VARIANTS:
        raise ValueError(f"variant {variant!r} must be one of {', '.join(VARIANTS)}")
    mult, attends, width, codes, start, weight, depth, batch = STAGES[variant]
    c, vq = config.autoencoder(), codes > 0
    c.data.update(name="emoji_mixed", image_size=256, batch_size=batch)
    c.first_stage.update(kind="vq" if vq else "kl", mult=mult, codes=codes)
    c.first_stage.attention = (0,) * (len(mult) - attends) + (1,) * attends
    c.first_stage.mid_attention = variant != "vq-f4-noattn"
    c.first_stage.update(z_channels=width, embed_channels=width)
    c.loss.update(disc_start=start, disc_weight=weight)
    c.loss.legacy_beta = vq and variant not in ("vq-f2", "vq-f32")
    c.discriminator.depth = depth
    c.optim.lr = 4.5e-6 * batch  # the originals' base rate times the batch of one GPU
    c.train.pictures = batch
    return config.check(c)
