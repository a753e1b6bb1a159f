"""Writes torch checkpoints byte by byte, without torch: whole, broken and hostile."""

import io
import json
import struct
import zipfile

import msgpack
import numpy as np


class Ops(bytes):
    """Opcodes of a pickle, which `value` takes as they are."""


def value(item):
    """The opcodes (of protocol 2) that put a value on the pickle's stack."""
    return Ops(WRITERS[type(item)](item))


def _integer(number):
    data = number.to_bytes((number.bit_length() + 8) // 8, "little", signed=True)
    return b"\x8a" + bytes([len(data)]) + data


def _text(text):
    data = text.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def _many(items):
    return b"(" + b"".join(value(item) for item in items)


WRITERS = {
    Ops: lambda ops: ops,
    type(None): lambda none: b"N",
    bool: lambda flag: b"\x88" if flag else b"\x89",
    int: _integer,
    float: lambda number: b"G" + struct.pack(">d", number),
    str: _text,
    bytes: lambda data: b"B" + struct.pack("<I", len(data)) + data,
    tuple: lambda items: _many(items) + b"t",
    list: lambda items: b"]" + _many(items) + b"e",
    dict: lambda items: b"}" + _many(x for pair in items.items() for x in pair) + b"u",
}


def name(module, attribute):
    return Ops(f"c{module}\n{attribute}\n".encode())


def call(module, attribute, *args):
    return Ops(name(module, attribute) + value(args) + b"R")


def storage(key="0", kind="FloatStorage", numel=6, *view):
    """What torch writes in place of a storage; view: the old format's sixth item."""
    pid = ("storage", name("torch", kind), key, "cpu", numel, *view)
    return Ops(value(pid) + b"Q")


def tensor(held=None, offset=0, size=(2, 3), stride=(3, 1)):
    """A tensor, by default all of storage '0' with its six numbers."""
    held = storage() if held is None else held
    hooks = call("collections", "OrderedDict")
    made = (held, offset, size, stride, False, hooks)
    return call("torch._utils", "_rebuild_tensor_v2", *made)


def parameters(held, **state):
    """A torch.nn.ParameterDict; held: its tensors by their names, or what lies."""
    made = name("torch.nn.modules.container", "ParameterDict") + b")\x81"
    whole = {"training": True, "_parameters": held, "_modules": {}, **state}
    return Ops(made + value(whole) + b"b")


def pickled(item):
    return b"\x80\x02" + value(item) + b"."


NUMBERS = np.arange(6, dtype=np.float32)
SIX = NUMBERS.tobytes()


def zipped(item=None, storages=None, root="archive", **more):
    """A zip checkpoint of `item` (or of a file made of ready bytes); more: members."""
    item = {"a": tensor()} if item is None else item
    made = item if type(item) is bytes else pickled(item)
    storages = {"0": SIX} if storages is None else storages
    members = {"data.pkl": made, "version": b"3\n", "byteorder": b"little"} | more
    members |= {f"data/{key}": data for key, data in storages.items()}
    return archive({f"{root}/{key}": data for key, data in members.items()})


def archive(members, **how):
    """A zip of {name: bytes}; how: what zipfile.ZipFile takes."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", **how) as made:
        for member, data in members.items():
            made.writestr(zipfile.ZipInfo(member), data, made.compression)
    return file.getvalue()


MAGIC = 0x1950A86A20F9469CFC6C
SYSTEM = {"protocol_version": 1001, "little_endian": True, "type_sizes": {}}


def legacy(
    item=None, rows=(("0", 6, SIX),), magic=MAGIC, protocol=1001, system=None, keys=None
):
    """A checkpoint as torch wrote it before 1.6, of an item or a pickle's bytes.

    rows: the storages as (key, told length, bytes).
    """
    item = (
        {"a": tensor(storage("0", "FloatStorage", 6, None))} if item is None else item
    )
    keys = [key for key, _, _ in rows] if keys is None else keys
    parts = [magic, protocol, system or SYSTEM, item, keys]
    data = b"".join(struct.pack("<q", told) + raw for _, told, raw in rows)
    return b"".join(p if type(p) is bytes else pickled(p) for p in parts) + data


def safetensors(header, data=b"", told=None):
    """A file with this header: a dict, or text; told: a length that lies."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if told is None else told) + text + data


def extension(shape, dtype="float32", data=SIX, kind=1):
    """An array in flax's msgpack."""
    return msgpack.ExtType(kind, msgpack.packb((shape, dtype, data)))
