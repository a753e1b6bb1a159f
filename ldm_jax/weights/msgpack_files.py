"""Files of `flax.serialization.to_bytes`: nested dicts of arrays in msgpack.

Only the structure is read, by the format's own lengths (msgpack's spec.md), and the
numbers stay in the file: msgpack's Unpacker would hold each array in its buffer.
"""

import dataclasses
import math
import pathlib
import struct
from typing import Any

import numpy as np

from ldm_jax.weights import tensors

MAX_DEPTH = 32
MAX_OBJECTS = 2 * tensors.MAX_TENSORS
MAX_TEXT = 2**24  # bytes of all keys and texts together
NDARRAY, COMPLEX, SCALAR = 1, 2, 3  # flax.serialization's kinds of extension
CHUNKED = "__msgpack_chunked_array__"  # its mark of an array of 1 GB or more
DTYPES = {
    **tensors.NARROW,
    **{
        name: np.dtype(name)
        for name in (
            *("float16", "float32", "float64", "complex64", "complex128", "bool"),
            *("int8", "int16", "int32", "int64"),
            *("uint8", "uint16", "uint32", "uint64"),
        )
    },
}


@dataclasses.dataclass(frozen=True, slots=True)
class _Array:
    """Where the numbers of an array lie."""

    start: int
    dtype: np.dtype
    shape: tuple[int, ...]


@dataclasses.dataclass(slots=True)
class _Reader:
    """An open file of `end` bytes, and what was read of it."""

    file: Any
    end: int
    objects: int = 0
    text: int = 0

    def bytes(self, count):
        self.check_left(count)
        return self.file.read(count)

    def check_left(self, count):
        if self.file.tell() + count > self.end:
            raise tensors.Refused(
                "it is cut off, or a length in it is wrong: get the file again"
            )

    def number(self, form):
        return struct.unpack(f">{form}", self.bytes(struct.calcsize(form)))[0]


def open_msgpack(path):
    """Source of a flax msgpack file; Refused when it is cut off or holds more."""
    path = pathlib.Path(path)
    with open(path, "rb") as file:
        reader = _Reader(file, path.stat().st_size)
        tree = _value(reader, 0)
        if file.tell() != reader.end:
            raise tensors.Refused("it goes on after its msgpack data")
    if type(tree) is not dict:
        raise tensors.Refused("it is msgpack, but no dict of arrays as flax writes it")
    found, meta = {}, {}
    _collect(path, tree, "", found, meta)
    return tensors.Source(path, "flax msgpack", found, meta)


def _collect(path, tree, prefix, found, meta):
    for key, value in tree.items():
        name = f"{prefix}{key}"
        tensors.check_name(name)
        if type(value) is _Array:
            array = tensors.at(path, value.start, value.dtype, value.shape)
            tensors.add(found, name, array)
        elif type(value) is dict and CHUNKED in value:
            tensors.add(found, name, _chunked(path, name, value))
        elif type(value) is dict:
            _collect(path, value, f"{name}.", found, meta)
        else:
            tensors.note(meta, name, value)


def _chunked(path, name, node):
    """One Tensor of {'shape': {'0': n, ...}, 'chunks': {'0': array, ...}}."""
    shape, chunks = (_numbered(name, node.get(key)) for key in ("shape", "chunks"))
    if not chunks or not all(type(chunk) is _Array for chunk in chunks):
        raise tensors.Refused(f"{name!r} is in chunks that are no arrays")
    dtype = chunks[0].dtype
    tensors.check_shape(shape, dtype.itemsize)
    sizes = [math.prod(chunk.shape) for chunk in chunks]
    if sum(sizes) != math.prod(shape) or {c.dtype for c in chunks} != {dtype}:
        raise tensors.Refused(f"{name!r} is in chunks that do not fit {tuple(shape)}")

    def read():
        flat, after = np.empty(math.prod(shape), dtype), 0
        for chunk, size in zip(chunks, sizes, strict=True):
            tensors.fill(flat[after : after + size], path, chunk.start)
            after += size
        return flat.reshape(shape)

    return tensors.Tensor(tuple(shape), dtype, read)


def _numbered(name, node):
    """The values of {'0': ..., '1': ...} in order."""
    if type(node) is not dict or set(node) != {str(i) for i in range(len(node))}:
        raise tensors.Refused(f"{name!r} is in chunks without numbers")
    return [node[str(i)] for i in range(len(node))]


def _value(reader, depth):
    reader.objects += 1
    if depth > MAX_DEPTH or reader.objects > MAX_OBJECTS:
        raise tensors.Refused("it has too many objects, or too deep in each other")
    tag = reader.number("B")
    if tag < 0x80 or tag >= 0xE0:
        return tag if tag < 0x80 else tag - 0x100
    if tag < 0x90:
        return _map(reader, depth, tag & 0x0F)
    if 0xA0 <= tag < 0xC0:
        return _text(reader, tag & 0x1F)
    if tag in FIXED:
        return FIXED[tag]
    if tag in NUMBERS:
        return reader.number(NUMBERS[tag])
    if tag in SIZED:
        form, read = SIZED[tag]
        return read(reader, reader.number(form))
    if tag in MAPS:
        return _map(reader, depth, reader.number(MAPS[tag]))
    if tag in FIXED_EXTENSIONS:
        return _extension(reader, FIXED_EXTENSIONS[tag])
    raise tensors.Refused(
        f"it holds a list, or something else of tag {tag:#x}, where flax writes dicts"
    )


def _map(reader, depth, count):
    reader.check_left(2 * count)
    found = {}
    for _ in range(count):
        key = _word(reader)
        if key in found:
            raise tensors.Refused(f"it has the key {key[:60]!r} twice")
        found[key] = _value(reader, depth + 1)
    return found


def _word(reader):
    """A value that has to be text."""
    tag = reader.number("B")
    if 0xA0 <= tag < 0xC0:
        return _text(reader, tag & 0x1F)
    if tag in TEXTS:
        return _text(reader, reader.number(TEXTS[tag]))
    raise tensors.Refused(f"it has something of tag {tag:#x} where a name should be")


def _size(reader):
    """A value that has to be a size."""
    tag = reader.number("B")
    if tag < 0x80:
        return tag
    if tag in SIZES:
        return reader.number(SIZES[tag])
    raise tensors.Refused("an array's shape has something else than sizes in it")


def _text(reader, size):
    try:
        return _limited(reader, size).decode()
    except UnicodeDecodeError as error:
        raise tensors.Refused(f"it has text that is no UTF-8: {error}") from error


def _limited(reader, size):
    reader.text += size
    if reader.text > MAX_TEXT:
        raise tensors.Refused(f"it has more than {MAX_TEXT} bytes of text")
    return reader.bytes(size)


def _extension(reader, size):
    kind = reader.number("b")
    reader.check_left(size)
    end = reader.file.tell() + size
    if kind not in EXTENSIONS:
        raise tensors.Refused(f"it has an extension {kind} that flax does not write")
    value = EXTENSIONS[kind](reader, end)
    if reader.file.tell() != end:
        raise tensors.Refused("an array in it has more bytes than its shape needs")
    return value


def _array(reader, end):
    """(shape, name of the type, bytes): a msgpack list of its own."""
    _expect(reader, 0x93)
    rank = reader.number("B") - 0x90
    if not 0 <= rank < 0x10:
        raise tensors.Refused("an array in it has no plain shape")
    shape = tuple(_size(reader) for _ in range(rank))
    name = _word(reader)
    if name not in DTYPES:
        raise tensors.Refused(f"an array in it is of {name[:40]!r}, not numbers")
    tensors.check_shape(shape, DTYPES[name].itemsize)
    tag = reader.number("B")
    size = reader.number(BYTES[tag]) if tag in BYTES else -1
    start = reader.file.tell()
    if size != math.prod(shape) * DTYPES[name].itemsize or start + size > end:
        raise tensors.Refused(
            f"an array in it of shape {shape} and type {name} has {size} bytes"
        )
    reader.file.seek(size, 1)
    return _Array(start, DTYPES[name], shape)


def _complex(reader, end):
    _expect(reader, 0x92)
    return complex(_real(reader), _real(reader))


def _real(reader):
    _expect(reader, 0xCB)
    return reader.number("d")


def _expect(reader, tag):
    if reader.number("B") != tag:
        raise tensors.Refused("an array in it is not laid out as flax does it")


FIXED = {0xC0: None, 0xC2: False, 0xC3: True}
NUMBERS = dict(zip(range(0xCA, 0xD4), "fdBHIQbhiq", strict=True))
SIZES = {tag: NUMBERS[tag] for tag in range(0xCC, 0xD0)}
TEXTS = dict(zip((0xD9, 0xDA, 0xDB), "BHI", strict=True))
BYTES = dict(zip((0xC4, 0xC5, 0xC6), "BHI", strict=True))
SIZED = {
    first + i: (form, read)
    for first, read in ((0xC4, _limited), (0xC7, _extension), (0xD9, _text))
    for i, form in enumerate("BHI")
}
FIXED_EXTENSIONS = {0xD4 + i: 2**i for i in range(5)}
MAPS = {0xDE: "H", 0xDF: "I"}
EXTENSIONS = {NDARRAY: _array, SCALAR: _array, COMPLEX: _complex}
