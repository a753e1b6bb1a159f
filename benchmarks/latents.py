"""What one picture costs a diffusion model, by the shape of its latent.

  python -m benchmarks.latents

The demo's text-to-image model on the latents of first stages of factor 4 and 8: a
training step from pictures and from kept latents, and one call of the denoiser. Each
round times every one of them once, one after the other, so that what else the machine
does falls on all alike; a line of JSON each, with medians in milliseconds per picture.
Weights and inputs are random: they do not change the cost.
"""

import json
import statistics

from absl import app, flags
import jax
import numpy as np

from benchmarks import steps
from configs import demo_text_to_image
from ldm_jax import config as config_lib
from ldm_jax import system as system_lib

ROUNDS = flags.DEFINE_integer("rounds", 5, "Timed rounds.", lower_bound=1)
BATCH = flags.DEFINE_integer("batch_size", 32, "Pictures at once.", lower_bound=1)
LATENTS = {"f4-c3": (4, 3), "f4-c4": (4, 4), "f8-c4": (8, 4), "f8-c16": (8, 16)}


def configured(factor, channels, latents):
    """The demo's config on another latent; latents: whether it is read, not made."""
    c = demo_text_to_image.get_config()
    mult = {4: (1, 1, 2), 8: (1, 1, 2, 2)}[factor]
    c.first_stage.update(mult=mult, attention=(0,) * len(mult))
    c.first_stage.update(z_channels=channels, embed_channels=channels)
    c.unet.out_channels = channels
    c.data.batch_size = BATCH.value
    c.data.latents = "kept" if latents else ""
    return config_lib.check(c)


def denoising(config):
    """A function that calls the denoiser once, compiled."""
    system = system_lib.build(config)
    params = steps.params(system)
    batch = steps.inputs({k: s for k, s in system.batch.items() if k == "tokens"})
    cond = jax.jit(system.condition)(params, batch)
    side = config.data.image_size // 2 ** (len(config.first_stage.mult) - 1)
    z_t = np.zeros((BATCH.value, side, side, config.unet.out_channels), np.float32)
    t = np.full(BATCH.value, 500, np.float32)
    denoise = jax.jit(system.denoise)
    denoise(params, z_t, t, cond)
    return lambda: jax.block_until_ready(denoise(params, z_t, t, cond))


def main(argv):
    del argv
    timed = {}
    for name, shape in LATENTS.items():
        timed[name, "train_from_pictures"] = steps.training(configured(*shape, False))
        timed[name, "train_from_latents"] = steps.training(configured(*shape, True))
        timed[name, "denoise"] = denoising(configured(*shape, False))
    seconds = steps.rounds(timed, ROUNDS.value)
    for name, (factor, channels) in LATENTS.items():
        row = {"latent": name, "numbers": (64 // factor) ** 2 * channels}
        for (latent, what), values in seconds.items():
            if latent == name:
                row[f"{what}_ms"] = 1e3 * statistics.median(values) / BATCH.value
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    app.run(main)
