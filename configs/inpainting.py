"""In-painting on Places, 256x256 (Rombach et al., 2022, table 15): LDM-4.

  python -m ldm_jax.train --config=configs/inpainting.py --workdir=runs/places \
      --config.data.path=PLACES --config.first_stage.weights=vq-f4-noattn.safetensors

PLACES is TensorFlow Datasets' places365_small as ArrayRecord. 215 M parameters, 360,000
steps; the released one is the big one of 387 M, FID 9.39 after fine-tuning (table 7).
The table's rate of 1e-6 is, unlike its others, no base rate times the batch: that were
1.28e-4. The released file multiplies 1e-6 by at most 0.1 more, which makes no sense for
any batch; it has the table's here, as nothing better is known.
"""

from ldm_jax import config

VARIANTS = ("paper", "released")


def get_config(variant="paper"):
    if variant not in VARIANTS:
        raise ValueError(f"variant {variant!r} must be one of {', '.join(VARIANTS)}")
    c = config.latent_diffusion()
    c.data.update(name="tfds", crop="random", batch_size=128, holes="lama")
    c.schedule.beta_end = 0.0205
    c.first_stage.update(config.stage("vq-f4-noattn"))
    c.cond_stage.inpaint = "ldm"
    c.unet.update(attention="plain", heads=8, head_channels=0)
    if variant == "paper":
        c.unet.update(channels=128, mult=(1, 4, 8), depths=(0, 0, 0), heads=1)
    else:
        c.unet.update(channels=256, mult=(1, 2, 3, 4), depths=(0, 1, 1, 1))
        c.unet.resblock_updown = True
    c.loss.norm = "l1"
    c.optim.lr = 1e-6
    c.train.steps = 360_000
    return config.check(c)
