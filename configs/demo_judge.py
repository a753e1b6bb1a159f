"""The judge: what is where in a 64x64 scene, read off it by a net trained on one core.

  python -m ldm_jax.train --config=configs/demo_judge.py --workdir=runs/judge
  python -m ldm_jax.export --config=configs/demo_judge.py --workdir=runs/judge \
      --out=judge.safetensors

It names which of 266 objects or a person real pictures show, so that it can say what is
in samples; the variant demo_judge.py:reader reads how far away each pixel is, and where
a person's joints are. The network is the UNet of latent diffusion (Rombach et al.,
2022) without condition or attention, on places of 4x4 pixels; it says logits.
"""

from ldm_jax import config

VARIANTS = ("", "reader")


def get_config(variant=""):
    if variant not in VARIANTS:
        raise ValueError(f"variant {variant!r} must be one of {VARIANTS}")
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
    if variant == "reader":
        _read_depth_and_joints(c)
    return config.check(c)


def _read_depth_and_joints(c):
    """14 minutes: 98% of joints within 1.5 places, depths that correlate by 0.98."""
    c.data.update(name="emoji_scenes", batch_size=16)
    c.judge.reads = ("depth", "joints")
    c.unet.update(out_channels=34, channels=32, mult=(1, 1, 1), depths=(0, 0, 0))
    c.loss.depth_weight = 8.0  # brings both errors to one size
    c.optim.decay_steps = 9_600
    c.train.update(steps=9_600, checkpoint_every=800)
    c.train.update(validate_every=2_400, picture_every=9_600)
