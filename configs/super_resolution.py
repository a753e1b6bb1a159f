"""Super-resolution on ImageNet, 64x64 to 256x256 (Rombach et al., 2022, table 15).

  python -m ldm_jax.train --config=configs/super_resolution.py --workdir=runs/sr \
      --config.data.path=IMAGENET --config.first_stage.weights=vq-f4.safetensors

IMAGENET is TensorFlow Datasets' imagenet2012 as ArrayRecord. LDM-4, 169 M parameters
with the first stage's, 860,000 steps; FID 2.8, PSNR 24.4 dB (table 5). The paper's
pictures were shrunk by bicubic interpolation; those of the released model are of
OpenImages, and shrunk by a random degradation. It has heads of 32 channels.
"""

from ldm_jax import config

VARIANTS = ("paper", "released")


def get_config(variant="paper"):
    if variant not in VARIANTS:
        raise ValueError(f"variant {variant!r} must be one of {', '.join(VARIANTS)}")
    c = config.latent_diffusion()
    c.data.update(name="tfds", crop="half_or_larger", resize="area", batch_size=64)
    c.first_stage.update(config.stage("vq-f4"))
    c.cond_stage.update(kind="low_res", stages=2)
    c.unet.update(channels=160, mult=(1, 2, 2, 4), attention="plain")
    c.unet.depths = (0, 0, 0, 1)  # the 169 M need it, though the table has a dash
    c.optim.lr = 1e-6 * 64  # the released base rate times the batch: 6.4e-5
    c.train.steps = 860_000
    if variant == "paper":
        c.unet.update(heads=1, head_channels=0)
    else:
        c.data.update(name="packed", degradation="bsr_light")
        c.schedule.beta_end = 0.0155
    return config.check(c)
