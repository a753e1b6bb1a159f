"""Semantic map to image on two cores: scenes from maps of 14 segments, 64x64.

  python -m ldm_jax.train --config=configs/demo_semantic_to_image.py --workdir=runs/maps
  python -m ldm_jax.sample --config=configs/demo_semantic_to_image.py \
      --workdir=runs/maps --segmentation=map.png
  python -m ldm_jax.evaluate --config=configs/demo_semantic_to_image.py \
      --workdir=runs/maps --task=condition

LDM's semantic synthesis (Rombach et al., 2022), narrow: the shrunken map joins z_t.
What came out is in docs/small_models.md.
"""

from ldm_jax import config


def get_config():
    c = config.demo(steps=3_200)
    c.data.name = "emoji_scenes"
    c.cond_stage.update(kind="segmentation", classes=14, stages=2, width=4)
    c.unet.update(attention="plain", positions=False)
    return config.check(c)
