"""Kept latents: what a first stage says of a data set's pictures, in a folder.

latents.json has all that decides what is in the folder, and the fields of a record.
The records lie in shards of equally many, train-00003-of-00060.array_record. A record
is its fields one after the other: the numbers of an array, led by their count of rows
where that differs from picture to picture, or the length of a text and its UTF-8.
Reading them executes nothing.
"""

import dataclasses
import json
import math
import os
import pathlib
import struct
from typing import Any
import uuid

import numpy as np

from ldm_jax.data import shards

ABOUT = "latents.json"
FORMAT = 2
TEXT = "text"
COUNTED = -1  # the first number of a shape where each record says its own
DTYPES = {
    name: np.dtype(name).newbyteorder("<")
    for name in (
        *("float16", "float32", "float64", "bool"),
        *("int8", "int16", "int32", "int64"),
        *("uint8", "uint16", "uint32", "uint64"),
    )
}
# Of latents.json, and of what type they are; beside them the fields.
KEYS = {
    **dict.fromkeys(("format", "n", "shard", "data.image_size", "seed"), int),
    **dict.fromkeys(("data.name", "split", "dtype"), str),
    **dict.fromkeys(("first_stage.kind", "first_stage.weights"), str),
    "first_stage.dtype": str,
    # Of pictures that are read: the hash of what lies there, and how they are cut.
    **dict.fromkeys(("content", "data.crop", "data.resize"), str),
    "data.flip": bool,
    "texts": dict,  # keys of a config that decide what is kept of captions; {}: nothing
}
MAX_SHARDS = 2**20
COMPARED = 4  # examples that are drawn again when a folder is opened


@dataclasses.dataclass(frozen=True)
class Field:
    """One part of a record: `shape` numbers of `dtype`, or a text."""

    name: str
    dtype: str  # a key of DTYPES, or TEXT
    shape: tuple = ()

    @property
    def counted(self):
        """Whether each record says how many rows it has."""
        return self.shape[:1] == (COUNTED,)


def field_of(name, value, counted=False):
    """The Field of an example's value: a string or numbers.

    counted: whether other examples may have more or fewer rows.
    """
    if isinstance(value, str):
        return Field(name, TEXT)
    array = np.asarray(value)
    if array.dtype.name not in DTYPES:
        raise ValueError(f"{name!r} is {array.dtype.name}: no numbers that can be kept")
    counted = counted and array.ndim > 0
    shape = (COUNTED, *array.shape[1:]) if counted else array.shape
    return Field(name, array.dtype.name, shape)


def pack(fields, example):
    """The bytes of one record. Raises ValueError for another shape than announced."""
    parts = []
    for field in fields:
        value = example[field.name]
        found = field_of(field.name, value, field.counted)
        if found != field:
            raise ValueError(
                f"{found} of an example differs from that of the first one, {field}"
            )
        if field.dtype == TEXT:
            value = np.frombuffer(value.encode(), np.uint8)
        else:
            value = np.asarray(value, DTYPES[field.dtype])
        if field.dtype == TEXT or field.counted:
            parts.append(struct.pack("<I", len(value)))
        parts.append(value.tobytes())
    return b"".join(parts)


def unpack(fields, record):
    """{name: string or array} of a record; float16 comes as float32.

    Raises ValueError in words where the bytes are not these fields.
    """
    example, start = {}, 0
    for field in fields:
        dtype, shape = np.dtype("uint8"), (COUNTED,)
        if field.dtype != TEXT:
            dtype, shape = DTYPES[field.dtype], field.shape
        if shape[:1] == (COUNTED,):
            (count,) = struct.unpack("<I", _cut(record, start, 4, field.name))
            start, shape = start + 4, (count, *shape[1:])
        part = _cut(record, start, math.prod(shape) * dtype.itemsize, field.name)
        start += len(part)
        if field.dtype == TEXT:
            example[field.name] = part.decode()
        else:
            array = np.frombuffer(part, dtype).reshape(shape)
            wide = np.float32 if field.dtype == "float16" else field.dtype
            example[field.name] = array.astype(wide)
    if start != len(record):
        raise ValueError(f"it goes on for {len(record) - start} bytes after its fields")
    return example


def _cut(record, start, count, name):
    part = record[start : start + count]
    if len(part) != count:
        raise ValueError(f"it ends within {name!r}")
    return part


def begin(folder, told, fields):
    """Writes latents.json, or finds the same one there; returns what it says.

    told: KEYS without the format. Raises ValueError naming the first key that another
    has in the folder.
    """
    folder = pathlib.Path(folder)
    path = folder / ABOUT
    about = {"format": FORMAT, **told}
    about["fields"] = [[f.name, f.dtype, list(f.shape)] for f in fields]
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{ABOUT}.{uuid.uuid4().hex}")  # of this host
        lines = [f"{json.dumps(key)}: {json.dumps(x)}" for key, x in about.items()]
        temporary.write_text("{" + ",\n ".join(lines) + "}\n", encoding="utf-8")
        os.replace(temporary, path)
    found = read_about(folder)
    _check_same(folder, found, told)
    if found["fields"] != tuple(fields):
        raise ValueError(
            f"{path} keeps {found['fields']}, but the examples now have "
            f"{tuple(fields)}: the data set has changed; take another folder"
        )
    return found


def read_about(folder):
    """latents.json as a dict, its fields as a tuple of Field.

    Raises FileNotFoundError, or ValueError naming the file and what is wrong with it.
    """
    path = pathlib.Path(folder) / ABOUT
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} does not exist: python -m ldm_jax.encode --config=... "
            f"--out={folder} writes such a folder"
        )
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
        about = _checked(about)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not one of ldm_jax.encode: {error}") from error
    return about


def _checked(about):
    """What latents.json says if it can be true; else ValueError."""
    if not isinstance(about, dict) or about.keys() != {*KEYS, "fields"}:
        raise ValueError(f"it must have the keys {[*KEYS, 'fields']}")
    for key, kind in KEYS.items():
        if type(about[key]) is not kind:
            raise ValueError(f"{key} is {about[key]!r}, it must be {kind.__name__}")
    if about["format"] != FORMAT:
        raise ValueError(
            f"its format is {about['format']}, known is {FORMAT}: encode the pictures "
            "again, into another folder"
        )
    if about["n"] < 1 or about["shard"] < 1 or shard_count(about) > MAX_SHARDS:
        raise ValueError(f"no 1 to {MAX_SHARDS} shards of {about['shard']} are it all")
    if about["split"] not in ("train", "heldout"):
        raise ValueError(f"split is {about['split']!r}")
    return about | {"fields": _fields(about["fields"])}


def _fields(rows):
    found = []
    for row in rows if isinstance(rows, list) else [None]:
        match row:
            case [str(name), str(dtype), list(shape)] if dtype in {TEXT, *DTYPES}:
                if not _is_shape(shape):
                    raise ValueError(f"field {name!r} has the shape {shape}")
                found.append(Field(name, dtype, tuple(shape)))
            case _:
                raise ValueError(f"{row!r} is no field [name, dtype, shape]")
    if len({field.name for field in found}) != len(found):
        raise ValueError("two fields have one name")
    return tuple(found)


def _is_shape(shape):
    """Whether a list can be one; rows that are counted must have bytes."""
    counted = shape[:1] == [COUNTED]
    whole = all(type(n) is int for n in shape)
    return whole and all(counted <= n < 2**31 for n in shape[counted:])


def _check_same(folder, found, wanted):
    texts = wanted.get("texts")
    if texts and not found["texts"]:
        raise ValueError(
            f"{folder} keeps no texts, which data.texts reads: python -m "
            "ldm_jax.encode --texts keeps them, in another folder"
        )
    now = {key: value for key, value in wanted.items() if key != "texts"}
    if texts is not None:
        now |= {"--texts": bool(texts), **texts}
    then = found["texts"] | found | {"--texts": bool(found["texts"])}
    for key, value in now.items():
        if then.get(key) != value:
            raise ValueError(
                f"the latents in {folder} were made with {key} {then.get(key)!r}, now "
                f"it is {value!r}: take another folder, or the same {key}"
            )


def shard_count(about):
    """How many there are."""
    return -(-about["n"] // about["shard"])


def rows(about, shard):
    """The range of the examples of a shard."""
    start = shard * about["shard"]
    return range(start, min(start + about["shard"], about["n"]))


def shard_path(folder, about, shard):
    return shards.path(folder, about["split"], shard, shard_count(about))


def shard_paths(folder, about):
    """All of them."""
    return [shard_path(folder, about, i) for i in range(shard_count(about))]


@dataclasses.dataclass(frozen=True)
class Kept:
    """The examples of a folder, in the data set's order; picklable."""

    folder: pathlib.Path
    about: dict
    records: Any  # random access to their bytes

    def __len__(self):
        return self.about["n"]

    def __getitem__(self, index):
        index = int(index)
        try:
            return unpack(self.about["fields"], self.records[index])
        except (RuntimeError, ValueError) as error:
            path = shard_path(self.folder, self.about, index // self.about["shard"])
            raise ValueError(
                f"{path}, record {index % self.about['shard']} is damaged: {error}"
            ) from error


def open_kept(folder, wanted):
    """The Kept of a folder in which all shards are whole.

    wanted: keys of latents.json and what they must be. Raises ValueError naming the key
    or the file, FileNotFoundError saying which shards are missing.
    """
    folder = pathlib.Path(folder)
    about = read_about(folder)
    _check_same(folder, about, wanted)
    paths = shard_paths(folder, about)
    counts = [len(rows(about, i)) for i in range(len(paths))]
    records = shards.opened(paths, counts, command(folder, about))
    return Kept(folder, about, records)


def command(folder, about):
    """What wrote a folder, and completes it."""
    told = " ".join(f"--{key}={about[key]}" for key in ("n", "split", "shard", "dtype"))
    told += " --texts" if about["texts"] else ""
    return f"python -m ldm_jax.encode --config=... --out={folder} {told}"


def check_examples(kept, drawn):
    """Raises ValueError where a data set has other first examples than were kept.

    Only texts and whole numbers are compared: other machines may round differently.
    """
    for index in range(min(COMPARED, len(kept))):
        then, now = kept[index], drawn[index]
        for field in kept.about["fields"]:
            exact = field.dtype == TEXT or DTYPES[field.dtype].kind in "biu"
            if exact and not np.array_equal(then[field.name], now.get(field.name)):
                raise ValueError(
                    f"example {index} of {kept.folder} has the {field.name} "
                    f"{then[field.name]!r}, in the data set it is "
                    f"{now.get(field.name)!r} now: encode it again, into another folder"
                )
