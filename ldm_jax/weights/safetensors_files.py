"""Files of the safetensors format, with the types that numpy does not know.

The library checks the file; its numpy reader knows no bfloat16 (0.8), so the numbers
are read here, by the offsets of the header.
"""

import pathlib

import numpy as np
import safetensors

from ldm_jax.weights import strict_json, tensors

# https://huggingface.co/docs/safetensors: 8 bytes length, JSON header, numbers.
DTYPES = {
    "BF16": tensors.NARROW["bfloat16"],
    "F8_E4M3": tensors.NARROW["float8_e4m3fn"],
    "F8_E5M2": tensors.NARROW["float8_e5m2"],
    "F8_E8M0": tensors.NARROW["float8_e8m0fnu"],
    "BOOL": np.dtype("bool"),
    "C64": np.dtype("complex64"),
    **{f"F{bits}": np.dtype(f"float{bits}") for bits in (16, 32, 64)},
    **{f"I{bits}": np.dtype(f"int{bits}") for bits in (8, 16, 32, 64)},
    **{f"U{bits}": np.dtype(f"uint{bits}") for bits in (8, 16, 32, 64)},
}


def open_safetensors(path):
    """Source of a .safetensors file; Refused when its header is broken or lies."""
    path = pathlib.Path(path)
    header, start = _header(path)
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            names = set(file.keys())
    except (safetensors.SafetensorError, OSError, TypeError) as error:
        raise tensors.Refused(f"it is no whole safetensors file: {error}") from error
    meta = header.pop("__metadata__", None) or {}
    if names != set(header):
        raise tensors.Refused("its header is read in two ways")
    found = {}
    for name, entry in header.items():
        tensors.add(found, name, _tensor(path, name, entry, start))
    return tensors.Source(path, "safetensors", found, meta)


def _header(path):
    """(JSON header, where the numbers start)."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        told = int.from_bytes(file.read(8), "little")
        if told > min(size - 8, strict_json.MAX_BYTES):
            raise tensors.Refused(
                f"its header should have {told} bytes: the file has {size}, and a "
                f"header at most {strict_json.MAX_BYTES}; get the file again"
            )
        return strict_json.parse(file.read(told), "its header"), 8 + told


def _tensor(path, name, entry, start):
    """Offsets and sizes agree: the library has checked them."""
    if entry["dtype"] not in DTYPES:
        raise tensors.Refused(f"{name!r} has numbers of type {entry['dtype']}")
    dtype = DTYPES[entry["dtype"]]
    tensors.check_shape(entry["shape"], dtype.itemsize)
    return tensors.at(path, start + entry["data_offsets"][0], dtype, entry["shape"])
