"""Broken and hostile weight files: name -> (bytes, words of the refusal)."""

import io
import struct
import zipfile

import forge
import hostile_msgpack
import hostile_pickles
import numpy as np

WHOLE = forge.zipped()
# Where things stand in a zip, from the signature of a record on.
CENTRAL, LOCAL, END = b"PK\x01\x02", b"PK\x03\x04", b"PK\x05\x06"
F32 = {"dtype": "F32", "shape": [6], "data_offsets": [0, 24]}


def patched(data, signature, offset, new, which=0):
    """`new` in place of the bytes at `offset` of the record number `which`."""
    at = -1
    for _ in range(which + 1):
        at = data.index(signature, at + 1)
    return data[: at + offset] + new + data[at + offset + len(new) :]


def renamed(old, new):
    assert len(old) == len(new)
    return WHOLE.replace(old, new)


def in_both(offset_central, offset_local, new):
    """A field of the first member, in the directory and in its own header."""
    data = patched(WHOLE, CENTRAL, offset_central, new)
    return patched(data, LOCAL, offset_local, new)


def twice(old, new):
    """Two members of different names, one then renamed in both headers."""
    assert len(old) == len(new)
    return forge.zipped(storages={"0": forge.SIX, "1": forge.SIX}).replace(old, new)


def far(offset):
    """A member that is said to begin there, by a field of 64 bits."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as made:
        made.writestr("a/data.pkl", b"N.")
        made.filelist[0].header_offset = offset
    return file.getvalue()


ZIPS = {
    **{
        f"header at 2^{bits}": (far(2**bits), "'a/data.pkl' after its end")
        for bits in (20, 32, 62, 63)
    },
    "cut in half": (WHOLE[: len(WHOLE) // 2], "no directory at its end"),
    "last byte missing": (WHOLE[:-1], "no directory at its end"),
    "only the signature": (b"PK\x03\x04", "no directory at its end"),
    "only the end": (END + bytes(18), "is a zip, but|no torch checkpoint"),
    "compressed": (
        forge.archive({"a/data.pkl": bytes(10**6)}, compression=8),
        "'a/data.pkl' is compressed",
    ),
    "compressed bomb of numbers": (
        forge.archive({"a/data.pkl": b"N.", "a/data/0": bytes(10**7)}, compression=8),
        "is compressed",
    ),
    "encrypted": (in_both(8, 6, b"\x01\x00"), "is encrypted"),
    "encrypted in one place": (patched(WHOLE, LOCAL, 6, b"\x01\x00"), "differs from"),
    "sizes differ": (patched(WHOLE, CENTRAL, 24, b"\x09\0\0\0"), "two different sizes"),
    "size lies": (
        patched(WHOLE, CENTRAL, 20, struct.pack("<LL", 5, 5)),
        "header that differs",
    ),
    "size of 4 GB": (
        patched(WHOLE, CENTRAL, 20, struct.pack("<LL", 2**32 - 2, 2**32 - 2)),
        "differs from|overlaps",
    ),
    "overlap": (
        patched(WHOLE, CENTRAL, 42, bytes(4), which=1),
        "differs from the directory|overlaps",
    ),
    "header elsewhere": (patched(WHOLE, CENTRAL, 42, b"\x07\0\0\0"), "has no header"),
    "local name": (
        WHOLE.replace(b"archive/data.pkl", b"archive/DATA.PKL", 1),
        "header that differs",
    ),
    "same name twice": (twice(b"data/1", b"data/0"), "'archive/data/0' twice"),
    "path upwards": (renamed(b"archive/v", b"../hive/v"), "outside the archive"),
    "absolute path": (renamed(b"archive/v", b"/etc/xy/v"), "outside the archive"),
    "path of Windows": (renamed(b"archive/v", b"C:\\temp/v"), "outside the archive"),
    "zero in a name": (renamed(b"archive/v", b"archiv\0/v"), "broken name"),
    "no pickle": (renamed(b"data.pkl", b"text.pkl"), "no torch checkpoint"),
    "no root": (forge.archive({"data.pkl": b"N."}), "no torch checkpoint"),
    "two roots": (
        forge.archive({"a/data.pkl": b"N.", "b/data.pkl": b"N."}),
        "no torch checkpoint",
    ),
    "numpy's": (forge.archive({"a.npy": b"x"}), "an .npz of numpy, but no torch"),
    "TorchScript": (forge.zipped(**{"constants.pkl": b"N."}), "TorchScript archive"),
    "directory of 16 MB": (
        patched(WHOLE, END, 12, struct.pack("<L", 2**24)),
        "directory has 16777216 bytes",
    ),
    "directory elsewhere": (patched(WHOLE, END, 16, b"\x01\0\0\0"), "should be"),
    "something before": (WHOLE[:4] + WHOLE, "not where it should be"),
    "big-endian": (forge.zipped(byteorder=b"big"), "not little-endian"),
    "storage missing": (forge.zipped(storages={}), "storage '0' is missing"),
    "storage cut": (forge.zipped(storages={"0": forge.SIX[:-4]}), "has 20 bytes, not"),
    "storage longer": (forge.zipped(storages={"0": bytes(28)}), "has 28 bytes, not"),
    "pickle in a storage": (
        forge.zipped(storages={"0": forge.pickled({"a": forge.tensor()})}),
        "bytes, not the 6 numbers",
    ),
    "empty pickle": (forge.zipped(b""), "broken at step 0"),
    "a tensor alone": (forge.zipped(forge.tensor()), "holds a tensor instead of"),
    "nothing in it": (forge.zipped({}), "holds no arrays"),
    "state_dict of text": (forge.zipped({"state_dict": "x"}), "state_dict is a str"),
    "text in state_dict": (
        forge.zipped({"state_dict": {"a": [1]}}),
        "state_dict 'a' is a list",
    ),
    "one name for two": (
        forge.zipped({"a.b": forge.tensor(), "a": {"b": forge.tensor()}}),
        "two arrays are called 'a.b'",
    ),
    "name of 600 letters": (
        forge.zipped({"a" * 600: forge.tensor()}),
        "has 600 letters",
    ),
    "too many values": (
        forge.zipped({str(i): 1 for i in range(2**16 + 1)}),
        "more than 65536 values",
    ),
    "one storage in thousands": (
        forge.zipped(
            {
                str(i): forge.tensor(forge.storage(numel=10**5), 0, (10**5,), (1,))
                for i in range(40)
            },
            {"0": bytes(4 * 10**5)},
        ),
        "share bytes so often",
    ),
}

LEGACY = {
    "other magic": (forge.legacy(magic=12), "not one of torch.save"),
    "magic of text": (forge.legacy(magic="x"), "not one of torch.save"),
    "other protocol": (forge.legacy(protocol=1002), "unknown version"),
    "other byte order": (forge.legacy(system={"little_endian": False}), "not little-"),
    "cut in its numbers": (forge.legacy()[:-1], "ends within storage '0'"),
    "cut in its length": (forge.legacy()[:-28], "ends within storage '0'"),
    "cut in its pickle": (forge.legacy()[:150], "is broken at step"),
    "cut before its keys": (forge.legacy()[:-60], "broken at step"),
    "length lies": (forge.legacy(rows=[("0", 5, forge.SIX)]), "has 5 numbers, not"),
    "negative length": (forge.legacy(rows=[("0", -1, forge.SIX)]), "has -1 numbers"),
    "no row": (forge.legacy(rows=[]), "storage '0' is missing"),
    "row of another": (forge.legacy(rows=[("7", 6, forge.SIX)]), "'7' is not in"),
    "row twice": (
        forge.legacy(rows=[("0", 6, forge.SIX)] * 2),
        "not in the pickle once",
    ),
    "keys of numbers": (forge.legacy(keys=[1, 2]), "no list of storages"),
    "program in its header": (
        forge.legacy(system=forge.call("os", "system", hostile_pickles.TOUCH)),
        "names os.system",
    ),
    "program in its keys": (
        forge.legacy(keys=[forge.call("os", "system", hostile_pickles.TOUCH)]),
        "names os.system",
    ),
}


def header(**changes):
    return forge.safetensors({"a": F32 | changes}, forge.SIX)


SAFETENSORS = {
    "offsets after the end": (header(shape=[9], data_offsets=[0, 36]), "no whole safe"),
    "offsets backwards": (header(data_offsets=[24, 0]), "no whole safetensors"),
    "wrong shape": (header(shape=[7]), "no whole safetensors"),
    "huge shape": (header(shape=[2**40, 2**40]), "no whole safetensors"),
    "negative shape": (header(shape=[-6]), "no whole safetensors"),
    "unknown type": (header(dtype="OBJ"), "no whole safetensors"),
    "overlapping": (
        forge.safetensors({"a": F32, "b": F32}, forge.SIX),
        "no whole safetensors",
    ),
    "a hole": (
        forge.safetensors({"a": F32 | {"data_offsets": [8, 32]}}, bytes(32)),
        "no whole safetensors",
    ),
    "longer than told": (forge.safetensors({"a": F32}, bytes(99)), "no whole safe"),
    "cut": (forge.safetensors({"a": F32}, forge.SIX[:-1]), "no whole safetensors"),
    "header longer than the file": (
        forge.safetensors({"a": F32}, forge.SIX, told=10**4),
        "header should have 10000 bytes",
    ),
    "header of 100 MB": (
        forge.safetensors({"a": F32}, forge.SIX, told=10**8),
        "header should have 100000000 bytes",
    ),
    "header of 2^63": (
        forge.safetensors({"a": F32}, forge.SIX, told=2**63),
        "header should have",
    ),
    "key twice": (
        forge.safetensors(
            b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},'
            b'"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}',
            b"x",
        ),
        "has the key 'a' twice",
    ),
    "no JSON": (forge.safetensors(b"{garbage"), "is not JSON"),
    "long number": (forge.safetensors(b'{"a":' + b"9" * 5000 + b"}"), "is not JSON"),
    "UTF-16": (forge.safetensors('{"a":1}'.encode("utf-16-le")), "is not JSON"),
    "deep JSON": (forge.safetensors(b'{"a":' + b"[" * 100_000), "is not JSON"),
    "no arrays": (forge.safetensors({}), "holds no arrays"),
}


POINTER = (
    b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 4265380512\n"
)
OTHERS = {
    "empty": (b"", "is empty"),
    "web page": (b"\n<!DOCTYPE html><html>", "looks like a web page"),
    "pointer": (POINTER, "git lfs pull"),
    "JSON": (b'{"error": "Repository not found"}', "looks like JSON"),
    "tar": (bytes(257) + b"ustar\x0000" + bytes(300), "tar archive"),
    "gzip": (b"\x1f\x8b\x08" + bytes(20), "gzip archive"),
    "HDF5": (b"\x89HDF\r\n\x1a\n" + bytes(20), "HDF5"),
    "ONNX": (b"\x08\x07\x12\x07pytorch", "ONNX"),
    "GGUF": (b"GGUF\x03" + bytes(20), "GGUF"),
    "npy": (b"\x93NUMPY\x01", "single numpy array"),
    "PNG": (b"\x89PNG\r\n", "PNG picture"),
    "zeros": (bytes(100), "begins with"),
    "noise": (np.random.default_rng(0).bytes(1000), "begins with"),
    "one byte": (b"\x80", "begins with"),
}

FILES = {
    **{
        f"pickle: {k}": (forge.zipped(x), s)
        for k, (x, s) in hostile_pickles.ALL.items()
    },
    **{f"zip: {k}": v for k, v in ZIPS.items()},
    **{f"legacy: {k}": v for k, v in LEGACY.items()},
    **{f"safetensors: {k}": v for k, v in SAFETENSORS.items()},
    **{f"msgpack: {k}": v for k, v in hostile_msgpack.ALL.items()},
    **{f"other: {k}": v for k, v in OTHERS.items()},
    **{
        f"legacy pickle: {k}": (forge.legacy(x), s)
        for k, (x, s) in hostile_pickles.PROGRAMS.items()
    },
}
