"""What a config asks for, counted before anything is allocated."""

import jax
import numpy as np

from ldm_jax import system as system_lib

# Kinds of cond_stage whose released files have a layer back to the vocabulary.
SPELLED = ("text", "layout")


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
