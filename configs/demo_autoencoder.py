"""First stage of the demos: KL autoencoder, 64x64x3 -> 16x16x4, on two cores.

  python -m ldm_jax.fetch lpips
  python -m ldm_jax.train --config=configs/demo_autoencoder.py \
      --workdir=runs/first_stage
  python -m ldm_jax.export --config=configs/demo_autoencoder.py \
      --workdir=runs/first_stage --out=first_stage.safetensors

The architecture of LDM's KL models (Rombach et al., 2022), narrow, with AlexNet for
LPIPS so that VGG16 can judge, and trained by Muon, which was ahead of Adam by 3 dB
after 300 steps (README).
"""

from ldm_jax import config


def get_config():
    c = config.autoencoder()
    c.data.update(name="emoji_mixed", image_size=64, batch_size=8)

    c.first_stage.update(channels=32, mult=(1, 1, 2), blocks=1, groups=4)
    c.first_stage.update(z_channels=4, embed_channels=4)
    c.discriminator.update(channels=16, depth=2)
    c.loss.update(perceptual="alexnet", perceptual_weight=0.02)
    c.loss.update(kl_weight=0.02, disc_weight=0.05, disc_start=5_000)

    c.optim.update(optimizer="muon", lr=4e-3, betas=(0.9, 0.99))
    c.optim.update(schedule="warmup_cosine", warmup_steps=100)
    c.optim.update(decay_steps=6_000, final_factor=0.02)
    c.train.update(steps=6_000, ema_decay=0.999, log_every=20, pictures=8)
    c.train.update(validate_every=500, picture_every=500, checkpoint_every=500)
    return config.check(c)
