"""The folder of fetched weights, and its readers. Fetching is `ldm_jax.fetch`."""

import os
import pathlib

import numpy as np

from ldm_jax import trees
from ldm_jax.weights import own

# File name in the cache -> what `python -m ldm_jax.fetch` calls it.
FETCHED = {
    "vgg16.safetensors": "lpips",
    "alexnet.safetensors": "lpips",
    "hed.safetensors": "hed",
}


def folder():
    """$LDM_JAX_CACHE or ~/.cache/ldm_jax, made private to the user when missing."""
    default = pathlib.Path.home() / ".cache" / "ldm_jax"
    path = pathlib.Path(os.environ.get("LDM_JAX_CACHE") or default)
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    return path


def path(name):
    """The cached file `name`, or FileNotFoundError with the command that gets it."""
    if name not in FETCHED:
        raise ValueError(f"no fetched file {name!r}; there are {sorted(FETCHED)}")
    file = folder() / name
    if not file.exists():
        raise FileNotFoundError(f"{file} is missing; get it once with: {command(name)}")
    return file


def command(name):
    """What fetches the file `name`."""
    return f"python -m ldm_jax.fetch {FETCHED[name]}"


def refusal(net):
    """How an error about the cached file of `net` begins: which, and what to do."""
    name = f"{net}.safetensors"
    file = folder() / name
    return f"{file} cannot be used: delete it and run `{command(name)}`, because"


def load(net):
    """Parameters of `models.perceptual` ('alexnet', 'vgg16') or 'hed': dict of numpy.

    `frozen.perceptual` and `edges.parameters` hold them to the network's shapes. Raises
    ValueError, which says what to do, for a file that is damaged or has numbers that
    are not finite.
    """
    file = path(f"{net}.safetensors")
    try:
        params, _, _ = own.load_weights(file)
    except ValueError as error:
        raise ValueError(f"{refusal(net)} {error}") from error
    for name, array in trees.flatten(params).items():
        if not np.all(np.isfinite(array)):
            raise ValueError(f"{refusal(net)} {name} has numbers that are not finite")
    return params
