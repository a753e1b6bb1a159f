"""Stable Diffusion 1 and 2 (Rombach et al., 2022), 512x512 and 768x768.

  python -m ldm_jax.convert --from=v1-5-pruned-emaonly.safetensors --to=sd15
  python -m ldm_jax.train --config=configs/stable_diffusion.py:v1 --workdir=runs/sd \
      --config.train.init=sd15/diffusion.safetensors \
      --config.first_stage.weights=sd15/first_stage.safetensors

v1-inpainting has nine channels, v2 predicts eps at 512 and v2-v v at 768.
"""

from ldm_jax import config

VARIANTS = ("v1", "v1-inpainting", "v2", "v2-v")


def get_config(variant="v1"):
    if variant not in VARIANTS:
        raise ValueError(f"variant {variant!r} must be one of {', '.join(VARIANTS)}")
    second = variant.startswith("v2")
    c = config.latent_diffusion()
    size = 768 if variant == "v2-v" else 512
    c.data.update(name="emoji_singles", image_size=size, batch_size=4)
    c.schedule.update(beta_start=0.00085, beta_end=0.012)
    c.first_stage.update(mult=(1, 2, 4, 4), attention=(0, 0, 0, 0), scale=0.18215)
    c.first_stage.update(z_channels=4, embed_channels=4)
    c.cond_stage.update(kind="clip", drop=0.1, vocabulary="vocabulary:clip_bpe.txt.gz")
    c.cond_stage.update(
        encoders=("openclip_h",) if second else ("clip_l",), vocab=49408
    )
    c.cond_stage.update(skip=(int(second),), final_norm=(True,))
    c.cond_stage.update(null_tokens=(49406, 49407))
    c.cond_stage.inpaint = "sd" if variant == "v1-inpainting" else ""
    c.cond_stage.cleaning = "ftfy" if second else "nfc"
    c.unet.update(out_channels=4, channels=320, mult=(1, 2, 4, 4), depths=(1, 1, 1, 0))
    c.unet.update(heads=0 if second else 8, head_channels=64 if second else 0)
    c.loss.predicts = "v" if variant == "v2-v" else "eps"
    c.optim.update(lr=1e-5, schedule="warmup", warmup_steps=500)  # for fine-tuning
    c.train.update(trainable=("unet",), pictures=4)
    c.sample.update(steps=50, scale=7.5)
    return config.check(c)
