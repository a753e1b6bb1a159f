"""Unconditional models, 256x256 (Rombach et al., 2022, table 12).

  python -m ldm_jax.train --config=configs/unconditional.py:ffhq --workdir=runs/ffhq \
      --config.data.path=FFHQ --config.first_stage.weights=vq-f4.safetensors

FFHQ is a folder by ldm_jax.pack. CelebA-HQ, FFHQ, LSUN churches and bedrooms as they
were released: 274 M parameters, of churches 295 M; FID 5.11, 4.98, 4.02, 2.95. Churches
has a kl-f8, whose scale its export prints: --config.first_stage.scale.
"""

from ldm_jax import config

VARIANTS = ("celebahq", "ffhq", "lsun_churches", "lsun_bedrooms")
# Batch, final rate, steps. The rates are the released base rates, 2e-6, times the
# batch; that of churches is the final one.
TRAINED = dict(
    celebahq=(48, 9.6e-5, 410_000),
    ffhq=(42, 8.4e-5, 635_000),
    lsun_churches=(96, 5e-5, 500_000),
    lsun_bedrooms=(48, 9.6e-5, 1_900_000),
)


def get_config(variant="celebahq"):
    if variant not in VARIANTS:
        raise ValueError(f"variant {variant!r} must be one of {', '.join(VARIANTS)}")
    c, (batch, rate, steps) = config.latent_diffusion(), TRAINED[variant]
    c.data.update(name="packed", batch_size=batch)
    c.data.flip = variant.startswith("lsun")
    c.data.resize = "bicubic" if c.data.flip else "bilinear"
    c.first_stage.update(config.stage("vq-f4"))
    c.unet.update(channels=224, mult=(1, 2, 3, 4), depths=(0, 1, 1, 1))
    c.unet.attention = "plain"
    if variant == "lsun_churches":
        c.schedule.beta_end = 0.0155
        c.first_stage.update(config.stage("kl-f8"))
        c.unet.update(out_channels=4, channels=192, mult=(1, 2, 2, 4, 4))
        c.unet.update(depths=(1, 1, 1, 1, 0), heads=8, head_channels=0)
        c.unet.update(scale_shift=True, resblock_updown=True)
        c.loss.norm = "l1"
        c.optim.update(schedule="warmup", warmup_steps=10_000)
    c.sample.eta = float(variant in ("ffhq", "lsun_bedrooms"))
    c.optim.lr = rate
    c.train.steps = steps
    return config.check(c)
