"""How small a latent: classes of ImageNet, f = 1 to 32 (Rombach et al., 2022).

  python -m ldm_jax.train --config=configs/ablation_imagenet.py:f=8 --workdir=runs/f8 \
      --config.data.path=IMAGENET --config.first_stage.weights=vq-f8.safetensors

IMAGENET is TensorFlow Datasets' imagenet2012 as ArrayRecord. Table 13, figures 6 and 7:
2 M steps each; f = 1 is diffusion on pixels, which needs no first stage.
"""

from ldm_jax import config

# f -> first stage; width, widths and depths by level; batch, final rate.
RUNS = {
    1: ("f1", 192, (1, 1, 2, 2, 4, 4), (0, 0, 0, 1, 1, 1), 7, 4.9e-5),
    2: ("vq-f2", 192, (1, 2, 2, 4, 4), (0, 0, 1, 1, 1), 9, 6.3e-5),
    4: ("vq-f4", 192, (1, 2, 3, 5), (0, 1, 1, 1), 40, 8e-5),
    8: ("vq-f8", 256, (1, 2, 4), (1, 1, 1), 64, 6.4e-5),
    16: ("vq-f16", 256, (1, 2, 4), (1, 1, 1), 112, 4.5e-5),
    32: ("vq-f32", 256, (1, 2, 4), (1, 1, 1), 112, 4.5e-5),
}
VARIANTS = tuple(f"f={f}" for f in RUNS)


def get_config(variant="f=4"):
    if variant not in VARIANTS:
        raise ValueError(f"variant {variant!r} must be one of {', '.join(VARIANTS)}")
    stage, channels, mult, depths, batch, rate = RUNS[int(variant[2:])]
    c = config.latent_diffusion()
    c.data.update(name="tfds", crop="random", resize="bilinear", batch_size=batch)
    c.first_stage.update(config.stage(stage))
    c.cond_stage.update(kind="label", classes=1000, width=512)  # no null
    c.unet.update(channels=channels, mult=mult, depths=depths)
    c.unet.out_channels = c.first_stage.embed_channels
    c.unet.update(heads=1, head_channels=0)
    c.optim.lr = rate
    c.train.update(steps=2_000_000, pictures=min(batch, 16))
    return config.check(c)
