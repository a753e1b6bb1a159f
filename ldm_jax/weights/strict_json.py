"""JSON of a stranger's file: bounded, and no key twice."""

import json

from ldm_jax.weights import tensors

MAX_BYTES = 2**24  # the header of SDXL has 300 kB


def parse(text, what):
    """The JSON object in bytes; Refused, with `what` it should be, for all else."""
    if len(text) > MAX_BYTES:
        raise tensors.Refused(f"{what} has {len(text)} bytes, over {MAX_BYTES}")
    try:
        text = text.decode()  # json would also guess at UTF-16
        value = json.loads(text, object_pairs_hook=lambda pairs: _unique(pairs, what))
    except tensors.Refused:
        raise
    except (ValueError, RecursionError) as error:
        raise tensors.Refused(f"{what} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise tensors.Refused(f"{what} is a JSON {type(value).__name__}, not an object")
    return value


def read(path):
    """The JSON object in a file; Refused naming it, or OSError."""
    with open(path, "rb") as file:
        return parse(file.read(MAX_BYTES + 1), str(path))


def _unique(pairs, what):
    value = {}
    for key, item in pairs:
        if key in value:
            raise tensors.Refused(f"{what} has the key {key[:60]!r} twice")
        value[key] = item
    return value
