"""Semantic map to image on landscapes, 256x256 (Rombach et al., 2022, table 15).

  python -m ldm_jax.train --config=configs/semantic_to_image.py --workdir=runs/maps \
      --config.data.path=LANDSCAPES --config.first_stage.weights=vq-f8.safetensors

LANDSCAPES is a folder by ldm_jax.pack, whose maps have COCO-Stuff's 182 numbers. The
table's is f = 8, the released ones f = 4, the second of them tuned at 512x512. 215 M
parameters, 360,000 steps. A trained model draws larger pictures than it has seen.
"""

from ldm_jax import config

VARIANTS = ("paper", "released", "released-512")


def get_config(variant="paper"):
    if variant not in VARIANTS:
        raise ValueError(f"variant {variant!r} must be one of {', '.join(VARIANTS)}")
    c, paper = config.latent_diffusion(), variant == "paper"
    c.data.update(name="packed", crop="random", resize="cv_bicubic")
    c.data.batch_size = 48
    c.schedule.beta_end = 0.0205
    c.first_stage.update(config.stage("vq-f8" if paper else "vq-f4"))
    c.cond_stage.update(kind="segmentation", classes=182, stages=3 if paper else 2)
    c.cond_stage.width = 4 if paper else 3  # planes, as many as the latent has
    c.unet.update(out_channels=4 if paper else 3, channels=128, mult=(1, 4, 8))
    c.unet.update(depths=(0, 0, 0), attention="plain")
    c.unet.update(heads=1 if paper else 8, head_channels=0)
    c.loss.norm = "l1"
    c.optim.lr = 1e-6 * 48  # the released base rate times the batch: 4.8e-5
    c.train.steps = 360_000
    if variant == "released-512":
        c.data.update(image_size=512, batch_size=8)
        c.train.pictures = 8
        c.optim.lr = 1e-6 * 8
    return config.check(c)
