"""What the denoising loop costs beyond the network that it asks: the bar is 5%.

  python -m benchmarks.loop [--big]

System.draw, which is --steps steps of DDIM in one program, against as many calls of a
program that asks the same guided network once: of the embedded text-to-image model, and
with --big of a UNet of 181 M parameters. Each call is given what the last one returned,
so that none begins before it ends. The loop also encodes the condition; the calls make
keys and values of it each time, which the loop does once. Rounds time both, one after
the other, so that what else the machine does falls on both alike; a line of JSON for
each model, of medians. Big weights are random, which does not change the cost.
"""

import json
import statistics

from absl import app, flags
import jax
import numpy as np

from benchmarks import steps
from configs import class_to_image
from ldm_jax import config as config_lib
from ldm_jax import draws, generation, grids, guidance, knobs, prompts
from ldm_jax import schedule as schedule_lib
from ldm_jax import system as system_lib

BIG = flags.DEFINE_bool("big", False, "The big model too.")
BATCH = flags.DEFINE_integer("batch_size", 4, "Pictures at once.", lower_bound=1)
STEPS = flags.DEFINE_integer("steps", 50, "Sampling steps.", lower_bound=1)
ROUNDS = flags.DEFINE_integer("rounds", 5, "Timed rounds.", lower_bound=1)

SAMPLING = {"sampler": "ddim", "guidance": "cfg", "scale": 3.0, "grid": "trailing"}


def embedded():
    """(config, system, params, batch) of the model that ships."""
    model = generation.load(overrides=SAMPLING | {"steps": STEPS.value})
    batch = prompts.arrays(model, ["a fox"] * BATCH.value)
    return model.config, model.system, model.params, batch


def big():
    """The same of the ImageNet model, narrower, in latents of 16 x 16."""
    c = class_to_image.get_config()
    c.data.image_size = 64
    c.unet.channels = 128
    c.sample.update(SAMPLING, steps=STEPS.value)
    system = system_lib.build(config_lib.check(c))
    return c, system, steps.params(system), {"label": np.zeros(BATCH.value, np.int32)}


def guided(config, system):
    """(params, z_t, t, cond, knobs) -> eps, guided as in System.draw."""
    schedule = schedule_lib.linear(**config.schedule)

    def ask(params, z_t, t, cond, told):
        weight = guidance.weight_at(told["table"], told["scale"])
        rule = guidance.with_rescale(guidance.cfg, schedule, told["rescale"])
        # Told the same twice: what it is told does not change the cost.
        denoise = guidance.with_cfg(system.denoise, cond, rule, weight)
        return denoise(params, z_t, t, cond).eps

    return ask


def contenders(config, system, params, batch):
    """{"loop", "calls"}: functions that take all steps, compiled."""
    told, keys = knobs.of(config), generation.keys(0, np.arange(BATCH.value))
    draw, ask = jax.jit(system.draw), jax.jit(guided(config, system))
    cond = jax.jit(system.condition)(params, batch)

    def loop():
        return jax.block_until_ready(draw(params, keys, batch, told))

    z_T = draws.initial_noise(keys, loop().shape[1:])
    at_once = [grids.at(z_T, t) for t in told["grid"].t]

    def calls():
        z = z_T
        for t in at_once:
            z = ask(params, z, t, cond, told)
        return jax.block_until_ready(z)

    calls()
    return {"loop": loop, "calls": calls}


def main(argv):
    del argv
    for make in (embedded, big) if BIG.value else (embedded,):
        config, system, params, batch = make()
        seconds = steps.rounds(contenders(config, system, params, batch), ROUNDS.value)
        loop, calls = (statistics.median(seconds[name]) for name in ("loop", "calls"))
        unet = sum(leaf.size for leaf in jax.tree.leaves(params["unet"]))
        row = {"model": make.__name__, "unet_parameters": unet}
        row |= {"batch_size": BATCH.value, "steps": STEPS.value}
        row |= {"loop_s": loop, "calls_s": calls, "loop_by_calls": loop / calls}
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    app.run(main)
