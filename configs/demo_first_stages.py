"""First stages to compare on two cores: 64x64 scenes, f = 4 or 8, Gaussian or codebook.

  python -m ldm_jax.train --config=configs/demo_first_stages.py:vq-f4 \
      --workdir=runs/vq-f4
  python -m ldm_jax.evaluate --config=configs/demo_first_stages.py:vq-f4 \
      --workdir=runs/vq-f4 --task=reconstruction --n=2000

The family of LDM's first stages (Rombach et al., 2022), narrow. Without the GAN term:
--config.loss.disc_weight=0; without restarts: --config.loss.restart_after=0. What came
out is in docs/first_stages.md.
"""

from ldm_jax import config

VARIANTS = ("kl-f4", "kl-f4-c4", "kl-f8", "kl-f8-c16", "vq-f4", "vq-f8")


def get_config(variant="kl-f4"):
    if variant not in VARIANTS:
        raise ValueError(f"variant {variant!r} must be one of {', '.join(VARIANTS)}")
    kind, factor, *width = variant.replace("-f", "-").split("-")  # width: as c16
    c = config.autoencoder()
    c.data.update(name="emoji_scenes", image_size=64, batch_size=8)

    mult = (1, 1, 2) if factor == "4" else (1, 1, 2, 2)
    width = int(width[0][1:]) if width else {"4": 3, "8": 4}[factor]
    c.first_stage.update(kind=kind, channels=32, mult=mult, blocks=1, groups=4)
    c.first_stage.update(attention=(0,) * len(mult))
    c.first_stage.update(z_channels=width, embed_channels=width)
    if kind == "vq":
        c.first_stage.codes = 1024
        c.loss.restart_after = 50
    else:
        c.loss.kl_weight = 0.02
    c.discriminator.update(channels=32, depth=2)
    c.loss.update(perceptual="alexnet", perceptual_weight=0.1)
    start = 1_000 if factor == "4" else 800  # the finer latent leaves it less to add
    c.loss.update(disc_weight=0.4, disc_start=start, disc_warmup=50)

    c.optim.update(optimizer="muon", lr=4e-3, betas=(0.9, 0.99))
    c.optim.update(schedule="warmup_cosine", warmup_steps=50)
    c.optim.update(decay_steps=1_200, final_factor=0.05)
    c.train.update(steps=1_200, ema_decay=0.995, log_every=20, pictures=8)
    c.train.update(validate_every=200, picture_every=400, checkpoint_every=200)
    return config.check(c)
