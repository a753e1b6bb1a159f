"""Stable Diffusion at a size for tests: a tiny CLIP encoder, 16x16, a 32-wide UNet."""

from ldm_jax import config
from ldm_jax.models import clip

# The commands import this file by its path, so that they know the encoders too.
clip.ENCODERS["clip_tiny"] = clip.Encoder(32, 2, 4, "quick_gelu", clip.END)
clip.ENCODERS["openclip_tiny"] = clip.Encoder(16, 3, 2, "gelu", 0, 16)
clip.ENCODERS["openclip_tiny_h"] = clip.Encoder(16, 3, 2, "gelu", 0)


def get_config(variant="v1"):
    """v1, v1-inpainting, v2-v, xl-base or xl-refiner."""
    xl = variant.startswith("xl")
    c = config.latent_diffusion()
    c.data.update(name="emoji_singles", image_size=16, batch_size=2)
    c.schedule.update(beta_start=0.00085, beta_end=0.012)
    c.first_stage.update(channels=8, mult=(1, 2), blocks=1, attention=(0, 0), groups=4)
    c.first_stage.update(z_channels=4, embed_channels=4)
    c.first_stage.scale = 0.13025 if xl else 0.18215
    encoders = {
        "v2-v": ("openclip_tiny_h",),
        "xl-base": ("clip_tiny", "openclip_tiny"),
        "xl-refiner": ("openclip_tiny",),
    }.get(variant, ("clip_tiny",))
    c.cond_stage.update(kind="clip", vocabulary="vocabulary:clip_bpe.txt.gz")
    c.cond_stage.update(encoders=encoders, vocab=49408, pooled=xl, drop=0.1)
    c.cond_stage.skip = (0 if variant.startswith("v1") else 1,) * len(encoders)
    c.cond_stage.final_norm = (not xl,) * len(encoders)
    c.cond_stage.null_tokens = () if variant == "xl-base" else (49406, 49407)
    c.cond_stage.inpaint = "sd" if variant == "v1-inpainting" else ""
    if xl:
        last = "aesthetic" if variant == "xl-refiner" else "target_size"
        c.cond_stage.micro = ("original_size", "crop", last)
    c.unet.update(out_channels=4, channels=32, mult=(1, 2), blocks=1, groups=8)
    c.unet.update(depths=(0, 2) if xl else (1, 0), mid_depth=2 if xl else 1)
    c.unet.head_channels = 16
    c.loss.predicts = "v" if variant == "v2-v" else "eps"
    c.optim.update(lr=1e-3, warmup_steps=2, decay_steps=20)
    c.train.update(steps=2, pictures=2, log_every=1, validation_batches=1)
    c.train.update(checkpoint_every=1, validate_every=2, picture_every=2)
    c.train.trainable = ("unet",)
    c.sample.update(grid="trailing" if xl else "ldm", steps=2, scale=3.0)
    return config.check(c)
