"""Layout to image on two cores: scenes from boxes of seven classes, 64x64.

  python -m ldm_jax.train --config=configs/demo_layout_to_image.py --workdir=runs/layout
  python -m ldm_jax.sample --config=configs/demo_layout_to_image.py \
      --workdir=runs/layout --layout=layout.json
  python -m ldm_jax.evaluate --config=configs/demo_layout_to_image.py \
      --workdir=runs/layout --task=condition

LDM's layout-to-image model (Rombach et al., 2022), narrow: five objects at most, whose
corners lie on a grid of 16x16. What came out is in docs/small_models.md.
"""

from ldm_jax import config


def get_config():
    c = config.demo(steps=3_800)
    c.data.name = "emoji_scenes"
    c.cond_stage.update(kind="layout", classes=7, vocab=257, length=17, drop=0.1)
    c.cond_stage.update(width=128, depth=2, heads=4, head_channels=32)
    c.sample.scale = 4.5
    return config.check(c)
