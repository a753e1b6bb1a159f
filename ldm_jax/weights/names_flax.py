"""The names of diffusers' and transformers' Flax files, from those of their folders."""

import dataclasses
import re

# The leaves keep Flax's names; a matrix is stored as it is.
LEAVES = {name: f".{name}" for name in ("kernel", "scale", "embedding", "bias")}
NUMBER = re.compile(r"(?<!encoder\.layers)\.(\d+)")
KERNELS = {"dense": "same", "conv2": "flax1x1"}


def of(modules):
    """{our module path: layouts.Module}: a number follows its list with "_".

    transformers' lists of layers keep the dot.
    """
    return {
        path: dataclasses.replace(
            module,
            names=tuple(NUMBER.sub(r"_\1", name) for name in module.names),
            kernel=KERNELS[module.kernel],
            conv="same",
            leaves=LEAVES,
        )
        for path, module in modules.items()
    }
