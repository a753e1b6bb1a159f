"""The judge: which of 266 objects or a person is where in a 64x64 scene, on one core.

  python -m ldm_jax.train --config=configs/demo_judge.py --workdir=runs/judge
  python -m ldm_jax.export --config=configs/demo_judge.py --workdir=runs/judge \
      --out=judge.safetensors

It names the objects of real pictures, so that it can say what is in samples. The
network is the UNet of latent diffusion (Rombach et al., 2022) without condition or
attention, on places of 4x4 pixels; it says the logits of things and of segments.
"""

from ldm_jax import config


def get_config():
    c = config.judge()
    c.data.update(name="emoji_mixed", image_size=64, batch_size=8)
    c.unet.update(channels=36, mult=(1, 1), blocks=1, groups=4)
    c.unet.update(depths=(0, 0), mid_depth=0, heads=1, head_channels=0)

    c.optim.update(optimizer="muon", lr=5e-3, betas=(0.95, 0.99))
    c.optim.update(schedule="warmup_cosine", warmup_steps=50)
    c.optim.update(decay_steps=6_600, final_factor=0.02)
    c.train.update(steps=6_600, ema_decay=0.995, log_every=20, pictures=8)
    c.train.update(validate_every=1_650, picture_every=1_650, checkpoint_every=550)
    c.train.validation_batches = 16
    return config.check(c)
