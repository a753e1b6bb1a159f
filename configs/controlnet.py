"""ControlNet over Stable Diffusion: controlnet.py:canny, :given-v2, :hough-sdxl, ...

  python -m ldm_jax.convert --from=v1-5-pruned.ckpt --to=v1
  python -m ldm_jax.train --config=configs/controlnet.py:canny --workdir=runs/canny \
      --config.data.path=pack --config.first_stage.weights=v1/first_stage.safetensors

Zhang et al. (2023): the base is locked, a copy of its trunk learns to hear a hint, and
half of the captions are empty. Batch, rate and AdamW are the released tutorial's, which
has no average; the base lies in bfloat16. "given" is the hint of pairs (Fill50K), which
may be depth, poses or what else was found in pictures. Unlocked, as sd_locked=False:
--config.train.trainable="('canny', 'unet/up_*', 'unet/norm_out', 'unet/conv_out')" and
--config.optim.lr=2e-6.
"""

from ldm_jax import config, families

VARIANTS = ("canny", "given-v2", "segmentation-v2-v", "hough-sdxl")


def get_config(variant="canny"):
    hint, _, base = variant.partition("-")
    base = base or "v1"
    c = families.controlled(base)
    c.data.name = "paired" if hint == "given" else "packed"
    c.cond_stage.drop = 0.5
    c.control.hints = (hint,)
    c.train.update(init=f"{base}/diffusion.safetensors", trainable=(hint,))
    c.train.update(frozen_dtype="bfloat16", ema_decay=0.0)
    c.train.update(validate_every=300, picture_every=300)
    c.optim.schedule = "constant"
    c.sample.scale = 9.0
    return config.check(c)
