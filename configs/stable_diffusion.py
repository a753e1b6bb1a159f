"""Stable Diffusion 1 and 2 (Rombach et al., 2022), 512x512 and 768x768.

  python -m ldm_jax.convert --from=v1-5-pruned-emaonly.safetensors --to=sd15
  python -m ldm_jax.train --config=configs/stable_diffusion.py:v1 --workdir=runs/sd \
      --config.train.init=sd15/diffusion.safetensors \
      --config.first_stage.weights=sd15/first_stage.safetensors

v1-inpainting has nine channels, v2 predicts eps at 512 and v2-v v at 768.
"""

from ldm_jax import config, families

VARIANTS = ("v1", "v1-inpainting", "v2", "v2-v")


def get_config(variant="v1"):
    if variant not in VARIANTS:
        raise ValueError(f"variant {variant!r} must be one of {', '.join(VARIANTS)}")
    return config.check(families.stable_diffusion(variant))
