"""Released models as configs: what the files in `configs/` that build on them share."""

from ldm_jax import config, names


def _stable(size, factor):
    """What all of them have: KL-f8 latents, and how they are fine-tuned."""
    c = config.latent_diffusion()
    c.data.update(name="emoji_singles", image_size=size, batch_size=4)
    c.schedule.update(beta_start=0.00085, beta_end=0.012)
    c.first_stage.update(mult=(1, 2, 4, 4), attention=(0, 0, 0, 0), scale=factor)
    c.first_stage.update(z_channels=4, embed_channels=4)
    c.cond_stage.update(kind="clip", drop=0.1, vocabulary="vocabulary:clip_bpe.txt.gz")
    c.cond_stage.vocab = 49408
    c.unet.out_channels = 4
    c.optim.update(lr=1e-5, schedule="warmup", warmup_steps=500)
    c.train.update(trainable=("unet",), pictures=4)
    c.sample.steps = 50
    return c


def stable_diffusion(variant):
    """Stable Diffusion 1 and 2: v1, v1-inpainting, v2 (512 px, eps), v2-v (768 px)."""
    second = variant.startswith("v2")
    c = _stable(768 if variant == "v2-v" else 512, 0.18215)
    c.cond_stage.encoders = ("openclip_h",) if second else ("clip_l",)
    c.cond_stage.update(skip=(int(second),), final_norm=(True,))
    c.cond_stage.null_tokens = (49406, 49407)
    c.cond_stage.inpaint = "sd" if variant == "v1-inpainting" else ""
    c.cond_stage.cleaning = "ftfy" if second else "nfc"
    c.unet.update(channels=320, mult=(1, 2, 4, 4), depths=(1, 1, 1, 0))
    c.unet.update(heads=0 if second else 8, head_channels=64 if second else 0)
    c.loss.predicts = "v" if variant == "v2-v" else "eps"
    c.sample.scale = 7.5
    return c


def sdxl(variant):
    """Stable Diffusion XL: base, refiner."""
    base = variant == "base"
    c = _stable(1024, 0.13025)
    encoders = ("clip_l", "openclip_bigg") if base else ("openclip_bigg",)
    c.cond_stage.update(encoders=encoders, skip=(1,) * len(encoders), pooled=True)
    c.cond_stage.final_norm = (False,) * len(encoders)
    c.cond_stage.null_tokens = () if base else (49406, 49407)
    c.cond_stage.micro = "original_size", "crop", "target_size" if base else "aesthetic"
    c.cond_stage.cleaning = "nfc" if base else "ftfy"
    c.unet.update(heads=0, head_channels=64, remat=True)
    if base:
        c.unet.update(channels=320, mult=(1, 2, 4), depths=(0, 2, 10), mid_depth=10)
    else:
        c.unet.update(channels=384, mult=(1, 2, 4, 4), depths=(0, 4, 4, 0), mid_depth=4)
    c.sample.update(grid="trailing", scale=6.0)
    return c


# What stands after the hint in configs/controlnet.py.
CONTROLLED = {
    "v1": lambda: stable_diffusion("v1"),
    "v2": lambda: stable_diffusion("v2"),
    "v2-v": lambda: stable_diffusion("v2-v"),
    "sdxl": lambda: sdxl("base"),
}


def controlled(base):
    """The config of a base that a ControlNet is to be trained over."""
    return names.pick(CONTROLLED, base)()
