"""Diffusion in latents against diffusion in pixels: pictures a second.

  python -m benchmarks.pixels

The UNets of configs/ablation_imagenet.py at f = 1 (pixels), 4 and 8, one picture of
256x256 at once: a training step, the encoder's work in it, and a picture of --steps
DDIM steps with the decoder's. Each round times every one once, one after the other; a
line of JSON each with the medians, and how many times as fast as pixels it is. Weights
and inputs are random, which do not change the cost.
"""

import json
import statistics

from absl import app, flags
import jax
import numpy as np

from benchmarks import steps
from configs import ablation_imagenet
from ldm_jax import config as config_lib
from ldm_jax import generation, knobs
from ldm_jax import system as system_lib

FACTORS = flags.DEFINE_multi_integer("f", [1, 4, 8], "Of the first stages.")
ROUNDS = flags.DEFINE_integer("rounds", 3, "Timed rounds.", lower_bound=1)
STEPS = flags.DEFINE_integer("steps", 10, "Sampling steps.", lower_bound=1)
IMAGE_SIZE = flags.DEFINE_integer("image_size", 256, "Pixels a side.", lower_bound=64)


def configured(factor):
    c = ablation_imagenet.get_config(f"f={factor}")
    c.data.update(batch_size=1, image_size=IMAGE_SIZE.value)
    c.train.pictures = 1
    c.sample.steps = STEPS.value
    return config_lib.check(c)


def sampling(config):
    """A function that draws one picture, compiled."""
    system = system_lib.build(config)
    params = steps.params(system)
    batch = {"label": np.zeros(1, np.int32)}
    arguments = params, generation.keys(0, np.arange(1)), batch, knobs.of(config)
    sample = jax.jit(system.sample)
    sample(*arguments)
    return lambda: jax.block_until_ready(sample(*arguments))


def main(argv):
    del argv
    timed = {}
    for factor in FACTORS.value:
        timed[factor, "train"] = steps.training(configured(factor))
        timed[factor, "sample"] = sampling(configured(factor))
    seconds = steps.rounds(timed, ROUNDS.value)
    seconds = {key: statistics.median(values) for key, values in seconds.items()}
    for factor in FACTORS.value:
        row = {"f": factor, "image_size": IMAGE_SIZE.value, "steps": STEPS.value}
        for what in ("train", "sample"):
            row[f"{what}_pictures_per_s"] = 1 / seconds[factor, what]
            if 1 in FACTORS.value:
                row[f"{what}_times_f1"] = seconds[1, what] / seconds[factor, what]
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    app.run(main)
