"""Stable Diffusion XL (Podell et al., 2023), 1024x1024: base and refiner.

  python -m ldm_jax.sample --checkpoint=sd_xl_base_1.0.safetensors --prompt="a boat"

Trains as configs/stable_diffusion.py says, with --config=configs/sdxl.py:base. Base:
two text encoders side by side; the second one's pooled text and three sizes join the
time embedding; no text is zeros. Refiner: the second encoder alone, an aesthetic score
in place of the target size; made for the last 200 noise levels.
"""

from ldm_jax import config, families

VARIANTS = ("base", "refiner")


def get_config(variant="base"):
    if variant not in VARIANTS:
        raise ValueError(f"variant {variant!r} must be one of {', '.join(VARIANTS)}")
    return config.check(families.sdxl(variant))
