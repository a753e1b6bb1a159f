"""Stable Diffusion XL (Podell et al., 2023), 1024x1024: base and refiner.

  python -m ldm_jax.sample --checkpoint=sd_xl_base_1.0.safetensors --prompt="a boat"

Trains as configs/stable_diffusion.py says, with --config=configs/sdxl.py:base. Base:
two text encoders side by side; the second one's pooled text and three sizes join the
time embedding; no text is zeros. Refiner: the second encoder alone, an aesthetic score
in place of the target size; made for the last 200 noise levels.
"""

from ldm_jax import config

VARIANTS = ("base", "refiner")


def get_config(variant="base"):
    if variant not in VARIANTS:
        raise ValueError(f"variant {variant!r} must be one of {', '.join(VARIANTS)}")
    base = variant == "base"
    c = config.latent_diffusion()
    c.data.update(name="emoji_singles", image_size=1024, batch_size=4)
    c.schedule.update(beta_start=0.00085, beta_end=0.012)
    c.first_stage.update(mult=(1, 2, 4, 4), attention=(0, 0, 0, 0), scale=0.13025)
    c.first_stage.update(z_channels=4, embed_channels=4)
    c.cond_stage.update(kind="clip", drop=0.1, vocabulary="vocabulary:clip_bpe.txt.gz")
    encoders = ("clip_l", "openclip_bigg") if base else ("openclip_bigg",)
    c.cond_stage.update(encoders=encoders, skip=(1,) * len(encoders), vocab=49408)
    c.cond_stage.update(final_norm=(False,) * len(encoders), pooled=True)
    c.cond_stage.null_tokens = () if base else (49406, 49407)
    c.cond_stage.micro = "original_size", "crop", "target_size" if base else "aesthetic"
    c.cond_stage.cleaning = "nfc" if base else "ftfy"
    c.unet.update(out_channels=4, heads=0, head_channels=64, remat=True)
    if base:
        c.unet.update(channels=320, mult=(1, 2, 4), depths=(0, 2, 10), mid_depth=10)
    else:
        c.unet.update(channels=384, mult=(1, 2, 4, 4), depths=(0, 4, 4, 0), mid_depth=4)
    c.optim.update(lr=1e-5, schedule="warmup", warmup_steps=500)  # for fine-tuning
    c.train.update(trainable=("unet",), pictures=4)
    c.sample.update(grid="trailing", steps=50, scale=6.0)
    return config.check(c)
