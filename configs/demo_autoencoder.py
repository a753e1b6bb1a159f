"""First stage of the demos: KL autoencoder, 64x64x3 -> 16x16x4, on two cores.

  python -m ldm_jax.fetch lpips
  python -m ldm_jax.train --config=configs/demo_autoencoder.py \
      --workdir=runs/first_stage
  python -m ldm_jax.export --config=configs/demo_autoencoder.py \
      --workdir=runs/first_stage --out=first_stage.safetensors

The architecture of LDM's KL models (Rombach et al., 2022), narrow, with AlexNet for
LPIPS so that VGG16 can judge.
"""

from ldm_jax import config


def get_config():
    c = config.autoencoder()
    c.data.update(name="emoji_mixed", image_size=64, batch_size=8)

    c.first_stage.update(channels=32, mult=(1, 1, 2), blocks=1, groups=4)
    c.first_stage.update(z_channels=4, embed_channels=4)
    c.discriminator.update(channels=16, depth=2)
    c.loss.update(perceptual="alexnet", perceptual_weight=0.1)
    c.loss.update(kl_weight=1e-3, disc_weight=0.1, disc_start=2_000)

    c.optim.update(lr=1e-3, schedule="warmup_cosine", betas=(0.9, 0.99))
    c.optim.update(warmup_steps=100, decay_steps=2_400, final_factor=0.05)
    c.train.update(steps=2_400, ema_decay=0.999, log_every=20, pictures=8)
    c.train.update(validate_every=500, picture_every=500, checkpoint_every=500)
    return config.check(c)
