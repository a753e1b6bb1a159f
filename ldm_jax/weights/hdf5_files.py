"""Reads the float32 arrays of an HDF5 file as Keras writes its .weights.h5.

A small part of the format, in the first version of everything: groups, attributes that
are passed over, and arrays in one piece. What is compressed, chunked or of another type
is refused. Source: the HDF5 File Format Specification 3.0, sections II.A to IV.A.
"""

import math
import struct

import numpy as np

from ldm_jax.weights import tensors

MAGIC = b"\x89HDF\r\n\x1a\n"
FORM = bytes((0, 0, 0, 0, 0, 8, 8))  # versions; offsets and lengths have 8 bytes
ROOT = 56  # where the root's entry stands
ENTRY, NODE = 40, 24  # bytes of a group's entry, of a node's header
SPACE, TYPE, LAYOUT, CONTINUED, GROUP = 0x1, 0x3, 0x8, 0x10, 0x11  # kinds of messages
FLOAT32 = bytes.fromhex("11201f00 04000000 00002000 17080017 7f000000")
CONTIGUOUS = b"\x03\x01"


def loads(data, source="HDF5 file"):
    """{'group/name': float32 array} from a file's bytes; `source` names it in errors.

    Raises tensors.Refused for a file that is broken or uses more of the format.
    """
    try:
        return _Reader(data).arrays()
    except (tensors.Refused, struct.error, UnicodeDecodeError) as error:
        raise tensors.Refused(f"{source}: {error}") from error


class _Reader:
    def __init__(self, data):
        self.data = data
        self.seen = set()

    def arrays(self):
        if self.data[:8] != MAGIC or self.data[8:15] != FORM:
            raise tensors.Refused("it is no HDF5 file, or of a later form")
        found, waiting = {}, [("", self.unpack("Q", ROOT + 8)[0])]
        while waiting:
            name, at = waiting.pop()
            messages = dict(self.messages(at))
            if GROUP in messages:
                tree, heap = struct.unpack_from("<QQ", messages[GROUP])
                inner = self.members(tree, self.names(heap))
                waiting += [(f"{name}/{key}" if name else key, at) for key, at in inner]
            else:
                tensors.add(found, name, self.array(name, messages))
            if len(waiting) > tensors.MAX_TENSORS:
                raise tensors.Refused("its groups have too many members")
        return found

    def unpack(self, form, at):
        return struct.unpack_from(f"<{form}", self.data, at)

    def cut(self, at, size):
        part = self.data[at : at + size]
        if len(part) < size:
            raise tensors.Refused("it is cut off, or points outside of itself")
        return part

    def once(self, at):
        """Nothing has two places: a loop of them would have no end."""
        if at in self.seen:
            raise tensors.Refused(f"what stands at {at} is used twice")
        self.seen.add(at)

    def messages(self, at):
        """(kind, content) of what an object's header says."""
        self.once(at)
        version, count, size = self.unpack("BxHxxxxI", at)
        if version != 1:
            raise tensors.Refused("it has an object of a later form")
        blocks = [(at + 16, size)]
        while blocks and count:
            at, size = blocks.pop()
            end = at + size
            while at + 8 <= end and count:
                kind, length = self.unpack("HH", at)
                content = self.cut(at + 8, length)
                if kind == CONTINUED:
                    blocks.append(struct.unpack_from("<QQ", content))
                yield kind, content
                at, count = at + 8 + length, count - 1

    def names(self, at):
        """The texts of a group, each ended by a zero byte."""
        if self.cut(at, 4) != b"HEAP":
            raise tensors.Refused("the names of a group are not where they should be")
        size, _, start = self.unpack("QQQ", at + 8)
        return self.cut(start, size)

    def members(self, at, names):
        """(name, place) of what a group holds, from the tree of its nodes."""
        nodes = [at]
        while nodes:
            at = nodes.pop()
            self.once(at)
            kind, (count,) = self.cut(at, 4), self.unpack("H", at + 6)
            if kind == b"TREE":
                steps = range(at + NODE + 8, at + NODE + 8 + 16 * count, 16)
                nodes += [self.unpack("Q", step)[0] for step in steps]
            elif kind == b"SNOD":
                for entry in range(at + 8, at + 8 + ENTRY * count, ENTRY):
                    start, place = self.unpack("QQ", entry)
                    yield names[start:].split(b"\0", 1)[0].decode(), place
            else:
                raise tensors.Refused("a group's members are not where they should be")

    def array(self, name, messages):
        parts = [messages.get(kind, b"") for kind in (SPACE, TYPE, LAYOUT)]
        space, dtype, layout = parts
        if dtype[:20] != FLOAT32 or layout[:2] != CONTIGUOUS or space[:1] != b"\x01":
            raise tensors.Refused(f"{name!r} is no float32 array in one piece")
        shape = struct.unpack_from(f"<{space[1]}Q", space, 8)
        tensors.check_shape(shape, 4)
        start, size = struct.unpack_from("<QQ", layout, 2)
        if size != 4 * math.prod(shape):
            raise tensors.Refused(f"{name!r} has {size} bytes for the shape {shape}")
        return np.frombuffer(self.cut(start, size), "<f4").reshape(shape)
