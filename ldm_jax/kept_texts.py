"""What a text encoder that is not trained says of captions, kept on disk.

It is the same at every step. A batch then brings the arrays of the Cond in place of
tokens, and the encoder runs for the null alone, on one example.
"""

import jax
import jax.numpy as jnp

from ldm_jax import denoise

KEPT = "told_"  # how those arrays' names begin in a batch
PORTS = ("context", "vector")  # of the Cond


def kept(cond):
    """The arrays of a Cond by their names in a batch."""
    arrays = {f"{KEPT}{port}": getattr(cond, port) for port in PORTS}
    return {name: array for name, array in arrays.items() if array is not None}


def kept_shapes(conditioner):
    """{name in a batch: (shape of one picture's, dtype)}."""
    one = {
        name: jax.ShapeDtypeStruct((1, *shape), dtype)
        for name, (shape, dtype) in conditioner.inputs.items()
    }
    params = jax.eval_shape(conditioner.init, jax.random.key(0))
    found = kept(jax.eval_shape(conditioner.apply, params, one))
    return {name: (x.shape[1:], x.dtype.name) for name, x in found.items()}


def is_kept(name):
    """Whether an array of a batch is one of those."""
    return name.startswith(KEPT)


def cond_of(batch):
    """The Cond that a batch has; None in a batch of tokens."""
    arrays = {
        name.removeprefix(KEPT): array for name, array in batch.items() if is_kept(name)
    }
    return denoise.Cond(**arrays) if arrays else None


def untold(conditioner, params, micro):
    """The Cond of "no condition" for one picture, [1, ...], which all others share.

    params: the conditioner's; micro: what every picture is told of sizes, float32 [n].
    """
    length, dtype = conditioner.inputs["tokens"]
    batch = {"tokens": jnp.zeros((1, *length), dtype), "micro": micro[None]}
    return conditioner.apply(params, conditioner.null(batch))
