"""Reads pickles that hold nothing but numpy arrays in plain containers.

A pickle is a program, so nothing of the file's choosing is ever called: the globals
that numpy writes are mapped to the few names below, all others are refused. Even
numpy's own __setstate__ is kept from the file, which could forge a dtype with it.
"""

import collections
import io
import pickle

import numpy as np

from ldm_jax.weights import tensors

# Names of dtypes: kind and bytes of one. Others are expressions to numpy.
NUMERIC = {"b1", "c8", "c16", "f2", "f4", "f8"}
NUMERIC |= {f"{kind}{size}" for kind in "iu" for size in (1, 2, 4, 8)}
ORDERS = ("<", ">", "=", "|")
PLAIN = (str, bytes, bool, int, float, complex, np.generic, type(None))
Refused = tensors.Refused  # for those who read pickles alone


def loads(data, source="pickle"):
    """Containers of arrays from the bytes of a pickle; `source` names it in errors."""
    try:
        tree = _Reader(io.BytesIO(data)).load()
    except Refused as error:
        raise Refused(f"{source}: {error}") from None
    return _finished(tree, source)


def _finished(tree, where):
    """The same containers with arrays in them; Refused, with its place, for more."""
    if isinstance(tree, dict):
        return {k: _finished(v, f"{where}[{k!r}]") for k, v in tree.items()}
    if isinstance(tree, list | tuple):
        items = (_finished(v, f"{where}[{i}]") for i, v in enumerate(tree))
        return type(tree)(items)
    if isinstance(tree, Array):
        return tree.array
    if not isinstance(tree, (np.ndarray, *PLAIN)):
        raise Refused(f"{where} is a {type(tree).__name__}; expected numpy arrays")
    return tree


class Dtype:
    """What a pickled dtype says, read by us."""

    def __init__(self, name, align=False, copy=True):
        if not isinstance(name, str) or name not in NUMERIC:
            shown = repr(name)[:20] if isinstance(name, str) else type(name).__name__
            raise Refused(f"dtype {shown} is not allowed; expected numbers")
        self.dtype = np.dtype(name)

    def __setstate__(self, state):
        _check_state(state)
        _, order, *structure = state
        if order not in ORDERS:
            raise Refused("its byte order is none; expected < > = or |")
        if structure[:3] != [None, None, None]:
            raise Refused("a structured dtype is not allowed; expected numbers")
        self.dtype = self.dtype.newbyteorder(order)


class Array:
    """An array in the making: numpy writes an empty one and then its state."""

    def __init__(self, subtype, shape, typecode):
        if subtype != "ndarray":
            raise Refused("an array of another class than ndarray is not allowed")
        self.array = np.empty(0, np.int8)

    def __setstate__(self, state):
        _check_state(state)
        _, shape, dtype, fortran, data = state
        if not isinstance(dtype, Dtype) or not isinstance(data, bytes):
            raise Refused("an array without plain numbers is not allowed")
        self.array = _from_buffer(data, dtype, shape, "F" if fortran else "C")


def _check_state(state):
    """numpy writes tuples of at most 9; unpacking a text would make one of letters."""
    if type(state) is not tuple or len(state) > 9:
        raise Refused("the state of an array or dtype is no short tuple")


def _from_buffer(data, dtype, shape, order, axes=None):
    if axes is not None or not isinstance(dtype, Dtype):
        raise Refused("an array without plain numbers in plain order is not allowed")
    tensors.check_shape(shape, dtype.dtype.itemsize)
    return np.frombuffer(data, dtype.dtype).reshape(shape, order=order)


def _scalar(dtype, data):
    if not isinstance(dtype, Dtype):
        raise Refused("a scalar that is no plain number is not allowed")
    return np.frombuffer(data, dtype.dtype, count=1)[0]


def _encode(text, encoding):
    """How pickle protocols before 3 write bytes."""
    if encoding != "latin1":
        raise Refused("bytes written otherwise than as latin1 are not allowed")
    return text.encode("latin1")


def _no_bytes():
    """How they write bytes of length 0."""
    return b""


# numpy 1 calls its private package `core`, numpy 2 `_core`. The class ndarray occurs as
# an argument only, so a name stands in for it, which the pickle cannot call.
ALLOWED = {
    ("numpy", "dtype"): Dtype,
    ("numpy", "ndarray"): "ndarray",
    ("_codecs", "encode"): _encode,
    ("__builtin__", "bytes"): _no_bytes,
    ("collections", "OrderedDict"): collections.OrderedDict,
}
for _core in ("core", "_core"):
    ALLOWED[f"numpy.{_core}.multiarray", "_reconstruct"] = Array
    ALLOWED[f"numpy.{_core}.multiarray", "scalar"] = _scalar
    ALLOWED[f"numpy.{_core}.numeric", "_frombuffer"] = _from_buffer


class _Reader(pickle.Unpickler):
    def find_class(self, module, name):
        if (module, name) not in ALLOWED:
            raise Refused(
                f"the global {module}.{name} is not allowed; this reader takes "
                "numpy arrays in plain containers only"
            )
        return ALLOWED[module, name]
