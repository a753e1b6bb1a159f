"""Writes .safetensors array by array, so that memory holds one of them at a time.

The library's own writer wants all arrays at once. The format is theirs:
https://huggingface.co/docs/safetensors
"""

import json
import math
import os
import pathlib

import ml_dtypes
import numpy as np

DTYPES = {
    np.dtype("float64"): "F64",
    np.dtype("float32"): "F32",
    np.dtype("float16"): "F16",
    np.dtype(ml_dtypes.bfloat16): "BF16",
    np.dtype("int64"): "I64",
    np.dtype("int32"): "I32",
    np.dtype("int16"): "I16",
    np.dtype("int8"): "I8",
    np.dtype("uint64"): "U64",
    np.dtype("uint32"): "U32",
    np.dtype("uint16"): "U16",
    np.dtype("uint8"): "U8",
    np.dtype("bool"): "BOOL",
}


def write(path, arrays, metadata):
    """Writes {name: tensors.Tensor} and a dict of strings.

    Equal content gives equal bytes. The file appears whole or not at all.
    """
    # Wide types first, so that every array is aligned; the library does the same.
    order = sorted(arrays, key=lambda name: (-arrays[name].dtype.itemsize, name))
    header, start = {"__metadata__": dict(sorted(metadata.items()))}, 0
    for name in order:
        tensor = arrays[name]
        stop = start + math.prod(tensor.shape) * tensor.dtype.itemsize
        header[name] = {
            "dtype": DTYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [start, stop],
        }
        start = stop
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    path = pathlib.Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(temporary, "wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            for name in order:
                _append(file, name, arrays[name])
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _append(file, name, tensor):
    array = np.asarray(tensor.read(), order="C")
    if array.shape != tuple(tensor.shape) or array.dtype != tensor.dtype:
        raise ValueError(
            f"{name} is {array.dtype} {array.shape}, announced as {tensor.dtype} "
            f"{tuple(tensor.shape)}"
        )
    file.write(array.reshape(-1).view(np.uint8).data)
