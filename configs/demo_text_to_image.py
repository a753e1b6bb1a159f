"""Text to image on two cores: single objects and scenes, 64x64, in latents 16x16x4.

  python -m ldm_jax.encode --config=configs/demo_text_to_image.py --n=100000 \
      --out=runs/latents
  python -m ldm_jax.train --config=configs/demo_text_to_image.py --workdir=runs/text \
      --config.data.latents=runs/latents
  python -m ldm_jax.sample --config=configs/demo_text_to_image.py --workdir=runs/text \
      --prompt="a fox to the left of a hut on snow"

LDM's text-to-image model (Rombach et al., 2022), a UNet with cross-attention to a
BERT-style encoder, both narrow. Unlike there, the caption also scales and shifts every
residual block. docs/small_models.md says how the weights that ship were made: to obey
left and right took more than this run.
"""

from ldm_jax import config


def get_config():
    c = config.demo(steps=8_500)
    c.data.update(name="emoji_lessons", batch_size=64)
    c.cond_stage.update(kind="text", drop=0.1, vocabulary="demo:vocab.txt", vocab=1067)
    c.cond_stage.update(length=80, width=128, depth=2, heads=4, head_channels=32)
    c.cond_stage.pooled = True
    c.optim.lr = 3e-3
    c.train.keep_checkpoints = 40  # all of them: the docs show the way there
    c.sample.scale = 3.0
    return config.check(c)
