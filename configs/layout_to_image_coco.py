"""Layout to image on COCO, 256x256 (Rombach et al., 2022, table 15): LDM-8.

  python -m ldm_jax.train --config=configs/layout_to_image_coco.py \
      --workdir=runs/coco --config.data.path=COCO \
      --config.first_stage.weights=vq-f8.safetensors

COCO is a folder by ldm_jax.pack of its things and stuff of 2017 without "other". None
was released. 345 M parameters are those of an encoder of 8 layers, where the paper says
16, which were 371 M; 170,000 steps; FID 42.1 (table 9).
"""

from ldm_jax import config

CLASSES = 171


def get_config():
    c = config.latent_diffusion()
    c.data.update(name="packed", crop="random", resize="bilinear")
    c.data.update(flip=True, batch_size=48)
    c.schedule.beta_end = 0.0205  # of the OpenImages model; the table does not say
    c.first_stage.update(config.stage("vq-f8"))
    c.cond_stage.update(kind="layout", classes=CLASSES, vocab=8192, length=92)
    c.cond_stage.update(width=512, depth=8)
    c.unet.update(out_channels=4, channels=192, mult=(1, 2, 4), depths=(2, 2, 2))
    c.unet.update(mid_depth=2, heads=1, head_channels=0, dropout=0.1)
    c.loss.norm = "l1"  # as of the OpenImages model
    c.optim.lr = 1e-6 * 48  # a base rate times the batch: 4.8e-5
    c.train.steps = 170_000
    return config.check(c)
