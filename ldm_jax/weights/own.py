"""The project's own weights file: one .safetensors with its config in the header."""

import hashlib
import json
import os
import pathlib

import ml_dtypes
import numpy as np
import safetensors
import safetensors.numpy

from ldm_jax import trees

FLOATS = (np.float16, ml_dtypes.bfloat16, np.float32, np.float64)


def save_weights(path, params, config, meta, dtype=None):
    """Writes parameters (nested dict of arrays), config and meta (JSON dicts).

    dtype: floating leaves are stored as this (e.g. 'float16'); None keeps them. Equal
    content gives equal bytes. The file appears whole or not at all.
    """
    arrays = {}
    for name, leaf in trees.flatten(params).items():
        array = np.asarray(leaf, order="C")
        if dtype is not None and array.dtype in FLOATS:
            array = _narrowed(name, array, dtype)
        arrays[name] = array
    header = {
        "config": json.dumps(config, sort_keys=True),
        "meta": json.dumps(meta, sort_keys=True),
    }
    blob = _with_sorted_header(safetensors.numpy.save(arrays, header))
    path = pathlib.Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_bytes(blob)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _narrowed(name, array, dtype):
    with np.errstate(over="ignore"):
        narrow = array.astype(dtype)
    if np.isfinite(array).all() and not np.isfinite(narrow).all():
        raise ValueError(f"{name} has numbers that {dtype} cannot hold: try bfloat16")
    return narrow


def _with_sorted_header(blob):
    """The library writes metadata in random order; the digest needs a fixed one."""
    size = int.from_bytes(blob[:8], "little")
    header = json.loads(blob[8 : 8 + size])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + blob[8 + size :]


def load_weights(path):
    """(params, config, meta): nested dict of numpy with floats as float32, two dicts.

    Raises FileNotFoundError, or ValueError naming the file when it is damaged or not
    one of ours. Nothing in the file is executed.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no weights file {path}")
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            header = file.metadata() or {}
            names = file.keys()
            arrays = {name: file.get_tensor(name) for name in names}
    except (safetensors.SafetensorError, OSError, TypeError) as error:
        raise ValueError(f"{path} is not a whole safetensors file: {error}") from error
    config, meta = (_header_dict(path, header, key) for key in ("config", "meta"))
    return _nested(path, arrays), config, meta


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
    for name, array in arrays.items():
        *folders, last = name.split("/")
        if any("/".join(folders[:i]) in arrays for i in range(1, len(folders) + 1)):
            raise ValueError(f"{path}: {name!r} lies under another array")
        node = params
        for folder in folders:
            node = node.setdefault(folder, {})
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


def check_tree(params, shapes, name="the weights file"):
    """Raises ValueError listing how parameters differ from a model's shapes."""
    report = trees.differences(params, shapes, name, "the config's model")
    if report:
        raise ValueError(f"{name} does not fit this config:\n{report}")
