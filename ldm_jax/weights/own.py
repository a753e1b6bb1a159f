"""The project's own weights file: one .safetensors with its config in the header."""

import dataclasses
import hashlib
import json
import pathlib

import jax
import ml_dtypes
import numpy as np

from ldm_jax import trees
from ldm_jax.weights import safetensors_files, streaming, tensors

FLOATS = (np.float16, ml_dtypes.bfloat16, np.float32, np.float64)


def save_weights(path, params, config, meta, dtype=None):
    """Writes parameters (nested dict of arrays), config and meta (JSON dicts).

    dtype: floating leaves are stored as this (e.g. 'float16'); None keeps them. Equal
    content gives equal bytes. The file appears whole or not at all.
    """
    arrays = {
        name: held(np.asarray(leaf)) for name, leaf in trees.flatten(params).items()
    }
    save_arrays(path, arrays, config, meta, dtype)


def held(array):
    """The Tensor of an array in memory."""
    return tensors.Tensor(array.shape, array.dtype, lambda: array)


def save_arrays(path, arrays, config, meta, dtype=None):
    """`save_weights` of {path: tensors.Tensor}, one array in memory at a time."""
    header = {
        "config": json.dumps(config, sort_keys=True),
        "meta": json.dumps(meta, sort_keys=True),
    }
    streaming.write(path, narrowed(arrays, dtype), header)


def narrowed(arrays, dtype):
    """{name: tensors.Tensor} with floats as `dtype`; None keeps them.

    Reading raises ValueError where a number does not fit.
    """
    if dtype is None:
        return arrays
    return {
        name: dataclasses.replace(
            tensor,
            dtype=np.dtype(dtype),
            read=lambda name=name, read=tensor.read: _narrowed(name, read(), dtype),
        )
        if tensor.dtype in FLOATS
        else tensor
        for name, tensor in arrays.items()
    }


def _narrowed(name, array, dtype):
    with np.errstate(over="ignore"):
        narrow = array.astype(dtype)
    if np.isfinite(array).all() and not np.isfinite(narrow).all():
        raise ValueError(f"{name} has numbers that {dtype} cannot hold: try bfloat16")
    return narrow


def load_weights(path):
    """(params, config, meta): nested dict of numpy with floats as float32, two dicts.

    Raises FileNotFoundError, or ValueError naming the file when it is damaged or not
    one of ours. Nothing in the file is executed.
    """
    source, config, meta = open_weights(path)
    return _nested(path, source.tensors), config, meta


def has_header(path):
    """Whether it is a .safetensors with the two header entries that ours have.

    What is no safetensors file is not ours: `reading.open_file` says what it is.
    """
    try:
        source = safetensors_files.open_safetensors(path)
    except tensors.Refused:
        return False
    return {"config", "meta"} <= source.meta.keys()


def open_weights(path):
    """(tensors.Source, config, meta) of a file of ours, no array read yet."""
    path = pathlib.Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no weights file {path}")
    try:
        source = safetensors_files.open_safetensors(path)
    except tensors.Refused as error:
        raise ValueError(f"{path} is not a whole safetensors file: {error}") from error
    config, meta = (_header_dict(path, source.meta, key) for key in ("config", "meta"))
    return source, config, meta


def _header_dict(path, header, key):
    if key not in header:
        raise ValueError(f"{path} has no {key!r} in its header: not a file of ldm_jax")
    try:
        value = json.loads(header[key])
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: header entry {key!r} is not JSON") from error
    if isinstance(value, dict):
        return value
    raise ValueError(f"{path}: header entry {key!r} is not a JSON object")


def _nested(path, arrays):
    params = {}
    for name, tensor in arrays.items():
        *folders, last = name.split("/")
        if any("/".join(folders[:i]) in arrays for i in range(1, len(folders) + 1)):
            raise ValueError(f"{path}: {name!r} lies under another array")
        node = params
        for folder in folders:
            node = node.setdefault(folder, {})
        array = tensor.read()
        node[last] = array.astype(np.float32) if array.dtype in FLOATS else array
    return params


def digest(path):
    """The first 12 hexadecimal digits of the file's sha256."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:12]


def digest_of(params):
    """The same length of hash of parameters in memory: of names, types and numbers."""
    found = hashlib.sha256()
    for name, leaf in sorted(trees.flatten(params).items()):
        array = np.asarray(leaf, order="C")
        found.update(f"{name} {array.dtype} {array.shape}".encode())
        found.update(array)
    return found.hexdigest()[:12]


def content(arrays):
    """The same length of hash of {path: tensors.Tensor}, one in memory at a time.

    Of the numbers as float32: the same whatever types a file keeps them in.
    """
    found = hashlib.sha256()
    for name, tensor in sorted(narrowed(arrays, "float32").items()):
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        found.update(np.ascontiguousarray(tensor.read()))
    return found.hexdigest()[:12]


def as_read(leaf):
    """The shape of an array as it is after reading: floats are float32 then."""
    dtype = np.dtype("float32") if leaf.dtype in FLOATS else leaf.dtype
    return jax.ShapeDtypeStruct(leaf.shape, dtype)


def check_tree(params, shapes, name="the weights file"):
    """Raises ValueError listing how parameters differ from a model's shapes."""
    report = trees.differences(params, shapes, name, "the config's model")
    if report:
        raise ValueError(f"{name} does not fit this config:\n{report}")
