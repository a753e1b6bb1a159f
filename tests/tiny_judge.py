"""The judge smaller still, as a config file: 16x16 pictures on 4x4 places."""

from ldm_jax import config


def get_config(variant=""):
    c = config.judge()
    c.data.update(name="emoji_mixed", image_size=16, batch_size=4)
    c.unet.update(channels=8, mult=(1,), blocks=1, groups=4)
    c.unet.update(depths=(0,), mid_depth=0, heads=1, head_channels=0)
    c.train.update(steps=4, pictures=2, log_every=1, validation_batches=1)
    if variant == "reader":
        c.judge.reads = ("depth", "joints")
        c.unet.out_channels = 34
    c.train.update(checkpoint_every=2, validate_every=2, picture_every=2)
    return config.check(c)
