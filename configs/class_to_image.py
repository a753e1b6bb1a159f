"""Class to image on ImageNet, 256x256 (Rombach et al., 2022, table 15): LDM-4.

  python -m ldm_jax.train --config=configs/class_to_image.py --workdir=runs/imagenet \
      --config.data.path=IMAGENET --config.first_stage.weights=vq-f4.safetensors

IMAGENET is TensorFlow Datasets' imagenet2012 as ArrayRecord. The table's 395 M
parameters are those of cin256 (f = 8), which was released too; this has 401 M, as the
released cin256-v2. 178,000 steps; FID 10.6, with a guidance of 1.5 3.60 (table 10).
"""

from ldm_jax import config

VARIANTS = ("paper", "cin256")


def get_config(variant="paper"):
    if variant not in VARIANTS:
        raise ValueError(f"variant {variant!r} must be one of {', '.join(VARIANTS)}")
    c, older = config.latent_diffusion(), variant == "cin256"
    c.data.update(name="tfds", crop="random", resize="bilinear")
    c.data.batch_size = 64 if older else 1200
    c.first_stage.update(config.stage("vq-f8" if older else "vq-f4"))
    c.cond_stage.update(kind="label", width=512)
    if older:
        c.cond_stage.classes = 1000  # no null: for guidance take 1001, and drop
        c.unet.update(out_channels=4, channels=256, mult=(1, 2, 4), depths=(1, 1, 1))
        c.optim.lr = 1e-6 * 64  # the released base rate times the batch
        c.train.steps = 4_800_000  # with FID 15.5; 2.9 M with 17.4
        c.sample.eta = 1.0
    else:
        c.cond_stage.update(classes=1001, drop=0.1)
        c.unet.update(channels=192, mult=(1, 2, 3, 5), depths=(0, 1, 1, 1))
        c.unet.update(heads=1, head_channels=0)
        c.optim.lr = 1e-4  # as it is: the released base rate was not scaled
        c.train.steps = 178_000
        c.sample.update(steps=250, scale=1.5, eta=1.0)
    return config.check(c)
