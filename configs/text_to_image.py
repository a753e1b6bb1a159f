"""Text to image, 256x256 (Rombach et al., 2022, table 15): LDM-8 on LAION.

  python -m ldm_jax.train --config=configs/text_to_image.py --workdir=runs/laion \
      --config.data.path=LAION --config.first_stage.weights=kl-f8.safetensors

LAION is a folder by ldm_jax.pack. 1.45 B parameters, 390,000 steps; MS-COCO's FID is
23.3, with a guidance of 1.5 12.6 (table 2). text2img256 is the smaller one that was
released after it, tuned on Conceptual Captions.
"""

from ldm_jax import config

VARIANTS = ("paper", "text2img256")


def get_config(variant="paper"):
    if variant not in VARIANTS:
        raise ValueError(f"variant {variant!r} must be one of {', '.join(VARIANTS)}")
    c, smaller = config.latent_diffusion(), variant == "text2img256"
    c.data.update(name="packed", batch_size=28 if smaller else 680)
    c.first_stage.update(config.stage("vq-f4" if smaller else "kl-f8"))
    c.cond_stage.update(kind="text", vocabulary="vocabulary:bert_uncased.txt")
    c.cond_stage.update(null_tokens=(101, 102), drop=0.1)
    if smaller:
        c.cond_stage.width = 640
        c.unet.update(channels=192, mult=(1, 2, 3, 5), depths=(0, 1, 1, 1))
        c.optim.lr = 2e-6 * 28  # the released base rate times the batch
        c.sample.steps = 100  # how long it was trained is not known
    else:
        c.first_stage.scale = 0.18215
        c.schedule.update(beta_start=0.00085, beta_end=0.012)
        c.unet.update(channels=320, mult=(1, 2, 4, 4), depths=(1, 1, 1, 0))
        c.unet.update(out_channels=4, heads=8, head_channels=0)
        c.optim.lr = 1e-4  # of the table; the released file for sampling says 5e-5
        c.train.steps = 390_000
        c.sample.update(steps=250, scale=1.5)
    return config.check(c)
