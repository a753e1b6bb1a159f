"""Broken and hostile msgpack files: name -> (bytes, words of the refusal)."""

import struct

import forge
import msgpack


def packed(tree):
    return msgpack.packb(tree)


def raw(data):
    """A map of one entry 'a', of these bytes."""
    return b"\x81\xa1a" + data


def nested(begins, kind=1, times=600):
    """Extensions in each other, each after how such an array begins."""
    data = b""
    for _ in range(times):
        data = struct.pack(">BHb", 0xC8, len(begins + data), kind) + begins + data
    return data


ALL = {
    "map of 2^32": (b"\xdf\xff\xff\xff\xff\xa1a", "cut off, or a length"),
    "map of 65535": (b"\xde\xff\xff\xa1a\x01", "cut off, or a length"),
    "list of 2^32": (
        raw(b"\xdd\xff\xff\xff\xff"),
        "list, or something else of tag 0xdd",
    ),
    "text of 4 GB": (raw(b"\xdb\xff\xff\xff\xff"), "more than 16777216 bytes of text"),
    "extension of 4 GB": (raw(b"\xc9\xff\xff\xff\xff\x01"), "cut off, or a length"),
    "deep": (b"\x81\xa1a" * 10**5 + b"\x01", "too deep in each other"),
    "objects": (packed({"a": forge.extension((6,), "object")}), "of 'object', not"),
    "text as numbers": (packed({"a": forge.extension((6,), "<U1")}), "of '<U1', not"),
    "wrong product": (packed({"a": forge.extension((7,))}), r"\(7,\) and type float32"),
    "huge product": (packed({"a": forge.extension((2**40, 2**40))}), "any machine's"),
    "negative size": (packed({"a": forge.extension((-6,))}), "else than sizes"),
    "size of text": (packed({"a": forge.extension(("6",))}), "else than sizes"),
    "more bytes": (packed({"a": forge.extension((5,))}), "has 24 bytes"),
    "bytes after an array": (
        packed({"a": msgpack.ExtType(1, forge.extension((6,)).data + b"x")}),
        "more bytes than its shape",
    ),
    "array cut": (
        packed({"a": msgpack.ExtType(1, forge.extension((6,)).data[:-1]), "b": 1}),
        "has 24 bytes",
    ),
    "not laid out so": (packed({"a": msgpack.ExtType(1, b"\x01")}), "laid out as flax"),
    "other extension": (packed({"a": msgpack.ExtType(9, b"x")}), "extension 9"),
    "key twice": (b"\x82\xa1a\x01\xa1a\x01", "key 'a' twice"),
    "key of a number": (b"\x82\xa1b\x01\x05\x01", "a name should be"),
    "key of a map": (raw(b"\x81" * 4000), "tag 0x81 where a name should be"),
    "extensions as shapes": (raw(nested(b"\x93\x91")), "else than sizes"),
    "extensions as types": (raw(nested(b"\x93\x90")), "where a name should be"),
    "extensions as numbers": (raw(nested(b"\x92", kind=2)), "laid out as flax"),
    "name of 600 letters": (packed({"a" * 600: {"b": 1}}), "has 600 letters"),
    "long name of many": (
        packed({"a" * 2**20: {str(i): 1 for i in range(2000)}}),
        "has 1048576 letters",
    ),
    "long names in long names": (
        packed({"a" * 300: {"b" * 300: {str(i): 1 for i in range(2000)}}}),
        "has 601 letters",
    ),
    "too many values": (
        packed({str(i): 1 for i in range(2**16 + 1)}),
        "more than 65536 values",
    ),
    "list": (packed({"a": [1, 2]}), "holds a list"),
    "never used tag": (raw(b"\xc1"), "tag 0xc1"),
    "cut": (packed({"a": forge.extension((6,))})[:-1], "cut off, or a length"),
    "goes on": (packed({"a": forge.extension((6,))}) + b"\x00", "goes on after"),
    "chunks that do not fit": (
        packed(
            {
                "a": {
                    "__msgpack_chunked_array__": True,
                    "shape": {"0": 10**9},
                    "chunks": {"0": forge.extension((6,))},
                }
            }
        ),
        "chunks that do not fit",
    ),
    "chunks of text": (
        packed(
            {
                "a": {
                    "__msgpack_chunked_array__": True,
                    "shape": {"0": 6},
                    "chunks": {"0": "x"},
                }
            }
        ),
        "chunks that are no arrays",
    ),
    "chunks without numbers": (
        packed({"a": {"__msgpack_chunked_array__": True, "shape": {"x": 6}}}),
        "chunks without numbers",
    ),
    "no arrays": (packed({"a": 1}), "holds no arrays"),
    "text no UTF-8": (raw(b"\xa1\xff"), "text that is no UTF-8"),
}
