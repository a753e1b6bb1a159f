"""Opens a released weights file, whatever its format, and executes nothing in it."""

import pathlib

from ldm_jax.weights import msgpack_files, safetensors_files, tensors, torch_files

HEAD = 512  # bytes that tell the formats apart
DOWNLOAD = "download the file itself"
# How a file begins -> what it is and what to do.
FOREIGN = {
    b"version https://git-lfs": "the pointer of a file in Git LFS: run `git lfs pull`",
    b"\x1f\x8b": "a gzip archive: unpack it with `gunzip` first",
    b"BZh": "a bzip2 archive: unpack it with `bunzip2` first",
    b"\xfd7zXZ": "an xz archive: unpack it with `unxz` first",
    b"\x28\xb5\x2f\xfd": "a zstd archive: unpack it with `unzstd` first",
    b"7z\xbc\xaf": "a 7z archive: unpack it first",
    b"Rar!": "a rar archive: unpack it first",
    b"\x89HDF": "HDF5 (Keras .h5): save the weights as .safetensors first",
    b"GGUF": "GGUF, quantised for llama.cpp: get the .safetensors of the model",
    b"\x93NUMPY": "a single numpy array (.npy), not a set of weights",
    b"\x89PNG": "a PNG picture",
    b"\xff\xd8\xff": "a JPEG picture",
    b"%PDF": "a PDF document",
    b"\x7fELF": "a program",
    b"MZ": "a program of Windows",
}


def open_file(path):
    """tensors.Source of the weights file at `path`; its content decides its format.

    Raises FileNotFoundError, or tensors.Refused (a ValueError) naming the file and
    what it looks like instead.
    """
    path = pathlib.Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder, not a weights file")
    if not path.is_file():
        raise FileNotFoundError(f"no weights file {path}")
    with open(path, "rb") as file:
        head = file.read(HEAD)
    try:
        source = _opener(head)(path)
        if not source.tensors:
            raise tensors.Refused("it holds no arrays")
        return source
    except tensors.Refused as error:
        raise tensors.Refused(f"{path}: {error}") from error


def _opener(head):
    for opener, is_such in FORMATS.items():
        if is_such(head):
            return opener
    raise tensors.Refused(_looks_like(head))


def _looks_like(head):
    """What a file that is no weights file is instead, in words."""
    if not head:
        return f"it is empty: {DOWNLOAD}"
    for magic, what in FOREIGN.items():
        if head.startswith(magic):
            return f"it looks like {what}"
    if head[257:262] == b"ustar":
        return (
            "it looks like a tar archive: unpack it, or if it is of torch before 0.1.2 "
            "(2017), load it with torch and save it again"
        )
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype", b"<html", b"<head", b"<?xml")):
        return f"it looks like a web page, not the file behind it: {DOWNLOAD}"
    if text.startswith((b"{", b"[")):
        return f"it looks like JSON, such as an index or an error message: {DOWNLOAD}"
    if head[0] == 0x08 and head[1:3] in (bytes([v, 0x12]) for v in range(1, 32)):
        return "it looks like ONNX: get the weights that it was made from"
    return (
        f"it begins with {head[:16]!r} and is no torch checkpoint, safetensors or flax "
        "msgpack file"
    )


def _is_zip(head):
    return head.startswith((b"PK\x03\x04", b"PK\x05\x06"))


def _is_pickle(head):
    return len(head) > 1 and head[0] == 0x80 and 2 <= head[1] <= 5


def _is_msgpack(head):
    """A map whose first key is text."""
    if not head or not (0x81 <= head[0] <= 0x8F or head[0] in msgpack_files.MAPS):
        return False
    key = head[{0xDE: 3, 0xDF: 5}.get(head[0], 1) :][:1]
    return bool(key) and (0xA0 <= key[0] <= 0xBF or 0xD9 <= key[0] <= 0xDB)


def _is_safetensors(head):
    """Eight bytes of a length, then '{'. Any other magic may be such a length."""
    short = not any(head[4:8])
    return head[8:9] == b"{" and (short or (0 in head[:8] and not _is_msgpack(head)))


FORMATS = {
    safetensors_files.open_safetensors: _is_safetensors,
    torch_files.open_zip: _is_zip,
    torch_files.open_legacy: _is_pickle,
    msgpack_files.open_msgpack: _is_msgpack,
}
