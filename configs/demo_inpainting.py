"""In-painting on two cores: scenes with holes, 64x64.

  python -m ldm_jax.train --config=configs/demo_inpainting.py --workdir=runs/holes
  python -m ldm_jax.sample --config=configs/demo_inpainting.py \
      --workdir=runs/holes --image=picture.png --mask=hole.png
  python -m ldm_jax.evaluate --config=configs/demo_inpainting.py \
      --workdir=runs/holes --task=restoration

LDM's in-painting (Rombach et al., 2022), narrow: the latent of what lies around
the hole and the shrunken mask join z_t. What came out is in docs/small_models.md.
"""

from ldm_jax import config


def get_config():
    c = config.demo(steps=2_000)
    c.data.update(name="emoji_scenes", holes="lama")
    c.cond_stage.inpaint = "ldm"
    c.unet.update(attention="plain", positions=False)
    return config.check(c)
