"""The folder of fetched weights, and its readers. Fetching is `ldm_jax.fetch`."""

import os
import pathlib

from ldm_jax.weights import own

# File name in the cache -> what `python -m ldm_jax.fetch` calls it.
FETCHED = {"vgg16.safetensors": "lpips", "alexnet.safetensors": "lpips"}


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
        command = f"python -m ldm_jax.fetch {FETCHED[name]}"
        raise FileNotFoundError(f"{file} is missing; get it once with: {command}")
    return file


def load(net):
    """Parameters of `models.perceptual` ('alexnet' or 'vgg16'): nested dict, numpy."""
    params, _, _ = own.load_weights(path(f"{net}.safetensors"))
    return params
