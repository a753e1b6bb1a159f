"""What every reader of weight files hands on: arrays that are not read yet."""

from collections.abc import Callable
import dataclasses
import math
import pathlib
import pickle
from typing import Any

import ml_dtypes
import numpy as np

MAX_RANK = 32  # of numpy before version 2
MAX_NAME = 512  # characters; the longest of a released file has about 120
MAX_TENSORS = 200_000  # a full Stable Diffusion checkpoint has about 3,000
MAX_META = 2**16  # plain values beside them
# numpy does not know these by name.
NARROW = {
    name: np.dtype(getattr(ml_dtypes, name))
    for name in (
        *("bfloat16", "float8_e4m3fn", "float8_e5m2"),
        *("float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e8m0fnu"),
    )
}


class Refused(ValueError, pickle.UnpicklingError):
    """A file is broken, or asks for something other than arrays and plain values."""


@dataclasses.dataclass(frozen=True)
class Tensor:
    """One array of a file, not read yet.

    dtype is one of ml_dtypes for bfloat16 and the 8-bit floats. `read` returns a
    fresh C-contiguous array and reads only this array's bytes; it raises Refused or
    OSError naming the file when the file is no longer what it was.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Source:
    """What a file or folder holds.

    format is a name for people ('torch zip', 'torch legacy pickle', 'safetensors',
    'flax msgpack'). tensors is flat, nested dicts joined with '.'. meta has the plain
    values beside the tensors: global_step, epoch, the metadata of safetensors. files:
    where the arrays lie when `path` is an index of them; () when they lie in `path`.
    """

    path: pathlib.Path
    format: str
    tensors: dict[str, Tensor]
    meta: dict[str, Any]
    files: tuple[pathlib.Path, ...] = ()


def add(tensors, name, tensor):
    """Puts a tensor under its name; Refused for a second one, and for too many."""
    check_name(name)
    if name in tensors:
        raise Refused(f"two arrays are called {name!r}")
    if len(tensors) == MAX_TENSORS:
        raise Refused(f"it holds more than {MAX_TENSORS} arrays")
    tensors[name] = tensor


def note(meta, name, value):
    """Puts a plain value under its name, unless there is one; Refused for too many."""
    check_name(name)
    if len(meta) >= MAX_META:
        raise Refused(f"it holds more than {MAX_META} values that are no arrays")
    meta.setdefault(name, value)


def check_name(name):
    """Refused for a long one: in nested dicts, all below would have it too."""
    if len(name) > MAX_NAME:
        raise Refused(f"the name {name[:60]!r}... has {len(name)} letters, too many")


def check_shape(shape, itemsize):
    """Refused unless numpy could hold such an array; shape: what a file says it is."""
    if not isinstance(shape, list | tuple) or len(shape) > MAX_RANK:
        raise Refused(f"an array's shape is no list of at most {MAX_RANK} sizes")
    if not all(type(n) is int and 0 <= n < 2**60 for n in shape):
        raise Refused("an array's shape has something else than sizes in it")
    if math.prod(n or 1 for n in shape) * itemsize >= 2**60:
        raise Refused("an array's shape is larger than any machine's memory")


def fill(array, path, start):
    """Reads a C-contiguous array's bytes from `start` of a file; no copy is made."""
    raw = array.reshape(-1).view(np.uint8)
    if not raw.size:
        return
    with open(path, "rb") as file:
        file.seek(start)
        if file.readinto(raw) != raw.nbytes:
            raise Refused(f"{path} ends within an array: it changed since it was open")


def at(path, start, dtype, shape):
    """The Tensor whose numbers lie in C order at byte `start` of a file."""

    def read():
        array = np.empty(shape, dtype)
        fill(array, path, start)
        return array

    return Tensor(tuple(shape), np.dtype(dtype), read)
