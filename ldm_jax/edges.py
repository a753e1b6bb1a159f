"""The soft edges of a picture by HED, as ControlNet's hed is told them."""

import functools

import jax
import jax.numpy as jnp

from ldm_jax import trees
from ldm_jax.models import hed
from ldm_jax.weights import cache


def load():
    """A function: a picture, uint8 [H, W, 3] RGB -> its edges, float32 [H, W] in 0..1.

    It is compiled anew for each H and W: give it pictures of few sizes. It raises
    ValueError for anything but such a picture; `load` raises as `parameters` does.
    """
    return functools.partial(_edges, jax.device_put(parameters()))


def parameters():
    """The published parameters of `models.hed.HED`, as numpy.

    Raises FileNotFoundError when they were not fetched, ValueError for a file that is
    damaged or holds something else; they say what to do.
    """
    params = cache.load("hed")
    report = trees.differences(params, hed.shapes(), "the file", "hed")
    if report:
        raise ValueError(f"{cache.refusal('hed')} it does not hold hed:\n{report}")
    return params


@jax.jit
def _edges(params, picture):
    shape = picture.shape
    if picture.dtype != jnp.uint8 or len(shape) != 3 or shape[2] != 3 or not all(shape):
        raise ValueError(
            "edges are those of a picture, uint8 [H, W, 3]; this is "
            f"{picture.dtype} {list(shape)}"
        )
    return hed.edges(params, picture[None])[0]
