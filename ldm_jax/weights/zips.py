"""Where the members of an uncompressed zip archive lie; nothing is unpacked.

`zipfile` reads the directory once its size is known to be sane; the rest is stricter
than it: no compression, nothing encrypted, no name twice, no bytes in two members.
"""

import dataclasses
import struct
import zipfile

from ldm_jax.weights import tensors

# Records of the format: PKWARE's APPNOTE.TXT, 4.3.7, 4.3.14 to 4.3.16.
LOCAL = struct.Struct("<4s5H3L2H")
END = struct.Struct("<4s4H2LH")
END_64 = struct.Struct("<4sQ2H2L4Q")
LOCATOR_64 = struct.Struct("<4sLQL")
MAX_DIRECTORY = 2**23  # bytes; 3,000 arrays take 0.3 MB
ENCRYPTED, SIZES_FOLLOW = 0x1, 0x8  # bits of the flags
UNKNOWN = 2**32 - 1  # a size that stands elsewhere


@dataclasses.dataclass(frozen=True, slots=True)
class Member:
    """Bytes of the file: `size` of them from `start`."""

    start: int
    size: int


def members(file):
    """{name: Member} of an open zip; Refused where it is cut off, unsafe or lies."""
    end = _directory_start(file)
    try:
        infos = zipfile.ZipFile(file).infolist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError, OSError) as error:
        raise tensors.Refused(f"its zip directory is broken: {error}") from error
    found, after = {}, 0
    for info in sorted(infos, key=lambda info: info.header_offset):
        _check(info)
        if info.filename in found:
            raise tensors.Refused(f"its zip has {info.filename!r} twice")
        if not 0 <= info.header_offset < end:
            raise tensors.Refused(f"its zip has {info.filename!r} after its end")
        start = _data_start(file, info)
        if info.header_offset < after or start + info.file_size > end:
            raise tensors.Refused(f"its zip member {info.filename!r} overlaps another")
        found[info.filename] = Member(start, info.file_size)
        after = start + info.file_size
    return found


def _directory_start(file):
    """Where the directory starts, by the record that ends every zip without comment."""
    size = file.seek(0, 2)
    tail_size = min(size, END_64.size + LOCATOR_64.size + END.size)
    file.seek(size - tail_size)
    tail = file.read(tail_size)
    end = size - END.size
    if len(tail) < END.size or tail[-END.size :][:4] != b"PK\x05\x06":
        raise tensors.Refused(
            "its zip has no directory at its end: the download stopped early, get the "
            "file again"
        )
    *_, length, start, _ = END.unpack(tail[-END.size :])
    if len(tail) == END_64.size + LOCATOR_64.size + END.size:
        record = END_64.unpack(tail[: END_64.size])
        if tail[END_64.size :][:4] == b"PK\x06\x07" and record[0] == b"PK\x06\x06":
            *_, length, start = record
            end = size - tail_size
    if length > MAX_DIRECTORY:
        raise tensors.Refused(f"its zip directory has {length} bytes, far too many")
    if start + length != end:
        raise tensors.Refused("its zip directory is not where it should be")
    return start


def _check(info):
    name = info.filename
    if name.startswith("/") or "\\" in name or ".." in name.split("/"):
        raise tensors.Refused(f"its zip has a member {name[:80]!r} outside the archive")
    if len(name) > tensors.MAX_NAME or info.orig_filename != name:
        raise tensors.Refused(f"its zip has a member of a broken name {name[:80]!r}")
    if info.flag_bits & ENCRYPTED:
        raise tensors.Refused(f"its zip member {name!r} is encrypted")
    if info.compress_type != zipfile.ZIP_STORED:
        raise tensors.Refused(
            f"its zip member {name!r} is compressed, which torch.save never does; "
            "unpack and pack it again with `zip -0 -r`"
        )
    if info.compress_size != info.file_size:
        raise tensors.Refused(f"its zip member {name!r} has two different sizes")


def _data_start(file, info):
    """After the member's own header, which has to agree with the directory."""
    file.seek(info.header_offset)
    data = file.read(LOCAL.size)
    if len(data) < LOCAL.size or data[:4] != b"PK\x03\x04":
        raise tensors.Refused(f"its zip member {info.filename!r} has no header")
    _, _, flags, method, *_, packed, size, name_size, more = LOCAL.unpack(data)
    name = file.read(name_size).decode("utf-8" if flags & 0x800 else "cp437", "replace")
    sizes = {packed, size} - ({0} if flags & SIZES_FOLLOW else set())
    agree = name == info.orig_filename and method == info.compress_type
    if not agree or flags & ENCRYPTED or sizes - {info.file_size, UNKNOWN}:
        raise tensors.Refused(
            f"its zip member {info.filename!r} has a header that differs from the "
            "directory"
        )
    return info.header_offset + LOCAL.size + name_size + more
