"""Layout to image on OpenImages, 256x256 (Rombach et al., 2022, table 15): LDM-4.

  python -m ldm_jax.train --config=configs/layout_to_image_openimages.py \
      --workdir=runs/layout --config.data.path=OPENIMAGES \
      --config.first_stage.weights=vq-f4.safetensors

OPENIMAGES is a folder by ldm_jax.pack, whose boxes have CLASSES classes. 306 M
parameters with the encoder's unused output layer, 4.4 M steps; FID 32.0 (table 9).
"""

from ldm_jax import config

CLASSES = 340  # of the originals: 352 names less 12 that are merged
VARIANTS = ("paper", "released")  # they differ in the number of heads


def get_config(variant="paper"):
    if variant not in VARIANTS:
        raise ValueError(f"variant {variant!r} must be one of {', '.join(VARIANTS)}")
    c = config.latent_diffusion()
    c.data.update(name="packed", crop="any_size", resize="bilinear")
    c.data.update(flip=True, batch_size=24)
    c.schedule.beta_end = 0.0205
    c.first_stage.update(config.stage("vq-f4"))
    c.cond_stage.update(kind="layout", classes=CLASSES, vocab=8192, length=92)
    c.cond_stage.update(width=512, depth=16)
    c.unet.update(channels=128, mult=(1, 2, 3, 4), depths=(0, 3, 3, 3), mid_depth=3)
    if variant == "paper":
        c.unet.update(heads=1, head_channels=0)
    c.loss.norm = "l1"
    c.optim.lr = 2e-6 * 24  # the released base rate times the batch: 4.8e-5
    c.train.steps = 4_400_000
    return config.check(c)
