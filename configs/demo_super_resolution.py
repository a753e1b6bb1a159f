"""Super-resolution on two cores: scenes from 16x16 to 64x64.

  python -m ldm_jax.train --config=configs/demo_super_resolution.py --workdir=runs/sr
  python -m ldm_jax.sample --config=configs/demo_super_resolution.py \
      --workdir=runs/sr --image=small.png
  python -m ldm_jax.evaluate --config=configs/demo_super_resolution.py \
      --workdir=runs/sr --task=restoration

LDM's super-resolution (Rombach et al., 2022), narrow: the small picture joins z_t. What
came out is in docs/small_models.md.
"""

from ldm_jax import config


def get_config():
    c = config.demo(steps=3_600)
    c.data.name = "emoji_scenes"
    c.cond_stage.update(kind="low_res", stages=2)
    c.unet.update(attention="plain", positions=False)
    return config.check(c)
