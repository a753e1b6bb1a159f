"""What a config asks for, before anything is allocated: one JSON object.

  python -m ldm_jax.plan --config=configs/class_to_image.py
  python -m ldm_jax.plan --config=configs/text_to_image.py --params

params: how many parameters each part has. `unused` are those that a released file holds
and nothing reads, as the layer back to the vocabulary of text encoders: published sizes
may count them, `total` does not. batch: the shapes of one global batch of training.
--params prints the counts alone.
"""

import json

from absl import flags
import jax
import numpy as np

from ldm_jax import cli
from ldm_jax import config as config_lib
from ldm_jax import system as system_lib

CONFIG = cli.define_config()
PARAMS = flags.DEFINE_bool("params", False, "Print the parameter counts alone.")
SPELLED = ("text", "layout")  # kinds of cond_stage whose released files have logits


def params(config):
    """{role: parameters}, with `unused` where there are such, and their `total`."""
    system = system_lib.build(config)
    shapes = jax.eval_shape(system.init, jax.random.key(0))
    counts = {
        role: sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(tree))
        for role, tree in shapes.items()
    }
    counts = {role: count for role, count in counts.items() if count}
    total = sum(counts.values())
    cond = config.cond_stage if config.task == "latent_diffusion" else None
    if cond and cond.kind in SPELLED:
        counts["unused"] = (cond.width + 1) * cond.vocab
    return counts | {"total": total}


def batch(config):
    """{name: [shape, dtype]} of one global batch of training."""
    told = system_lib.build(config).batch
    return {name: [list(x.shape), str(x.dtype)] for name, x in told.items()}


def main(argv):
    del argv
    config = config_lib.check(CONFIG.value)
    counts = params(config)
    told = counts if PARAMS.value else {"params": counts, "batch": batch(config)}
    print(json.dumps(told))


if __name__ == "__main__":
    cli.run(main)
