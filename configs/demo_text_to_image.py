"""Text to image on two cores: single objects and scenes, 64x64, in latents 16x16x4.

  python -m ldm_jax.encode --config=configs/demo_text_to_image.py --n=100000 \
      --out=runs/latents
  python -m ldm_jax.train --config=configs/demo_text_to_image.py --workdir=runs/text \
      --config.data.latents=runs/latents
  python -m ldm_jax.sample --config=configs/demo_text_to_image.py --workdir=runs/text \
      --prompt="a fox to the left of a hut on snow"

LDM's text-to-image model (Rombach et al., 2022), a UNet with cross-attention to a
BERT-style encoder, both narrow. Unlike there, the caption also scales and shifts every
residual block, transformers know where their pixels are, and Muon trains. The first
stage ships with the project. docs/small_models.md says how the weights that ship were
made: to obey left and right took more than this run.
"""

from ldm_jax import config


def get_config():
    c = config.latent_diffusion()
    c.data.update(name="emoji_lessons", image_size=64, batch_size=64)
    c.schedule.update(beta_start=0.0015, beta_end=0.0195)

    c.first_stage.update(channels=32, mult=(1, 1, 2), blocks=1, groups=4)
    c.first_stage.update(z_channels=4, embed_channels=4)
    c.first_stage.update(weights="demo:first_stage.safetensors", scale=0.947729)

    c.cond_stage.update(kind="text", drop=0.1, vocabulary="demo:vocab.txt", vocab=1067)
    c.cond_stage.update(length=80, width=128, depth=2, heads=4, head_channels=32)
    c.cond_stage.pooled = True

    c.unet.update(out_channels=4, channels=48, mult=(1, 2, 2), blocks=1, groups=8)
    c.unet.update(depths=(0, 1, 0), head_channels=24, scale_shift=True)
    c.unet.positions = True
    c.loss.predicts = "v"

    c.optim.update(optimizer="muon", lr=3e-3, betas=(0.9, 0.99), clip_norm=1.0)
    c.optim.update(schedule="warmup_cosine", warmup_steps=100)
    c.optim.update(decay_steps=8_500, final_factor=0.02)
    c.train.update(steps=8_500, ema_decay=0.999, log_every=20)
    c.train.update(validate_every=500, picture_every=1_000, checkpoint_every=250)
    c.train.keep_checkpoints = 40  # all of them: the docs show the way there
    c.sample.update(grid="trailing", steps=30, scale=3.0)
    return config.check(c)
