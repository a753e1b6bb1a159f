"""How small a latent: CelebA-HQ's faces, f = 1 to 32 (Rombach et al., 2022).

  python -m ldm_jax.train --config=configs/ablation_celebahq.py:f=8 --workdir=runs/f8 \
      --config.data.path=CELEBAHQ --config.first_stage.weights=vq-f8.safetensors

CELEBAHQ is a folder by ldm_jax.pack. Table 14, figures 6 and 7: 500,000 steps each;
f = 1 is diffusion on pixels, which needs no first stage.
"""

from ldm_jax import config

# f -> first stage; width, widths and depths by level; batch, final rate.
RUNS = {
    1: ("f1", 192, (1, 1, 2, 2, 4, 4), (0, 0, 0, 1, 1, 1), 9, 9e-5),
    2: ("vq-f2", 192, (1, 2, 2, 4, 4), (0, 0, 1, 1, 1), 11, 1.1e-4),
    4: ("vq-f4", 224, (1, 2, 3, 4), (0, 1, 1, 1), 48, 9.6e-5),
    8: ("vq-f8", 256, (1, 2, 4), (1, 1, 1), 96, 9.6e-5),
    16: ("vq-f16", 256, (1, 2, 4), (1, 1, 1), 128, 1.3e-4),
    32: ("vq-f32", 256, (1, 2, 4), (1, 1, 1), 128, 1.3e-4),
}
VARIANTS = tuple(f"f={f}" for f in RUNS)


def get_config(variant="f=4"):
    if variant not in VARIANTS:
        raise ValueError(f"variant {variant!r} must be one of {', '.join(VARIANTS)}")
    stage, channels, mult, depths, batch, rate = RUNS[int(variant[2:])]
    c = config.latent_diffusion()
    c.data.update(name="packed", resize="bilinear", batch_size=batch)
    c.first_stage.update(config.stage(stage))
    c.unet.update(channels=channels, mult=mult, depths=depths)
    c.unet.out_channels = c.first_stage.embed_channels
    c.unet.attention = "plain"
    c.optim.lr = rate
    c.train.update(steps=500_000, pictures=min(batch, 16))
    return config.check(c)
