"""Diffusion in latents against diffusion in pixels: pictures a second.

  python -m benchmarks.pixels

The UNets of configs/ablation_imagenet.py, one picture of 256x256 at once: a training
step, the encoder's work in it, and a picture of --steps DDIM steps with the decoder's.
Pixels (f = 1) and one first stage after the other: each round times all four once, so
that what else the machine does falls on all alike; a line of JSON each, of medians.
Weights and inputs are random, which do not change the cost. So that two models of 400 M
parameters fit in 24 GB they are trained by SGD, without an average: AdamW would add the
same second or two to a step of either.
"""

import json
import statistics

from absl import app, flags
import jax
import numpy as np
import optax

from benchmarks import steps
from configs import ablation_imagenet
from ldm_jax import config as config_lib
from ldm_jax import generation, knobs
from ldm_jax import system as system_lib

FACTORS = flags.DEFINE_multi_integer("f", [4, 8], "Of the first stages.")
ROUNDS = flags.DEFINE_integer("rounds", 3, "Timed rounds.", lower_bound=1)
STEPS = flags.DEFINE_integer("steps", 10, "Sampling steps.", lower_bound=1)
IMAGE_SIZE = flags.DEFINE_integer("image_size", 256, "Pixels a side.", lower_bound=64)


SGD = optax.sgd(1e-6), optax.constant_schedule(1e-6)


def configured(factor):
    c = ablation_imagenet.get_config(f"f={factor}")
    c.data.update(batch_size=1, image_size=IMAGE_SIZE.value)
    c.train.update(pictures=1, ema_decay=0.0)
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


def timed(factors):
    """{(f, "train" or "sample"): median seconds}."""
    runs = {}
    for factor in factors:
        runs[factor, "train"] = steps.training(configured(factor), SGD)
        runs[factor, "sample"] = sampling(configured(factor))
    seconds = steps.rounds(runs, ROUNDS.value)
    return {key: statistics.median(values) for key, values in seconds.items()}


def main(argv):
    del argv
    for factor in FACTORS.value:
        seconds = timed((1, factor))
        row = {"f": factor, "image_size": IMAGE_SIZE.value, "steps": STEPS.value}
        for what in ("train", "sample"):
            latents, pixels = seconds[factor, what], seconds[1, what]
            row |= {
                f"{what}_pictures_per_s": 1 / latents,
                f"{what}_pictures_per_s_in_pixels": 1 / pixels,
                f"{what}_times_as_fast": pixels / latents,
            }
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    app.run(main)
