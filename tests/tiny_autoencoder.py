"""The first stage of tiny_text_to_image as a config file, without fetched weights."""

import helpers


def get_config():
    c = helpers.tiny_autoencoder_config()
    c.data.image_size = 16
    c.first_stage.mid_attention = False
    c.loss.perceptual_weight = 0.0  # LPIPS is the net that would be fetched
    return c
