"""The tiny first stage as a config file, without LPIPS, which needs fetched weights."""

import helpers


def get_config():
    c = helpers.tiny_autoencoder_config()
    c.data.image_size = 16
    c.loss.perceptual_weight = 0.0
    return c
