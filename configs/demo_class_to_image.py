"""Class to image on two cores: one of 266 objects on a plain colour, 64x64.

  python -m ldm_jax.train --config=configs/demo_class_to_image.py --workdir=runs/class
  python -m ldm_jax.sample --config=configs/demo_class_to_image.py \
      --workdir=runs/class --label=fox
  python -m ldm_jax.evaluate --config=configs/demo_class_to_image.py \
      --workdir=runs/class --task=condition

LDM's class-conditional model (Rombach et al., 2022), narrow: the class is the one token
of the context. What came out is in docs/small_models.md.
"""

from ldm_jax import config


def get_config():
    c = config.demo(steps=3_800)
    c.data.name = "emoji_singles"
    c.cond_stage.update(kind="label", classes=267, width=128, drop=0.1)
    c.sample.scale = 2.0
    return config.check(c)
