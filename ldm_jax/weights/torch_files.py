"""Checkpoints of `torch.save`: zip files, and the plain pickles of before torch 1.6."""

import io
import itertools
import math
import pathlib
import struct

import numpy as np

from ldm_jax.weights import pickle_machine, pickles, tensors, torch_pickles, zips

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_PROTOCOL = 1001
MAX_DEPTH = 32  # of dicts in dicts
MAX_VISITED = 400_000
MAX_UNFOLDED = 4  # arrays may share bytes, and be this many times the file together
SCALARS = (str, bytes, bool, int, float, complex, np.generic, type(None))


def open_zip(path):
    """Source of a checkpoint that torch.save wrote since 1.6; Refused otherwise."""
    path = pathlib.Path(path)
    with open(path, "rb") as file:
        members = zips.members(file)
        root = _root(members)
        pickled = members[f"{root}/data.pkl"]
        if pickled.size > pickle_machine.MAX_BYTES:
            raise tensors.Refused(f"its pickle has {pickled.size} bytes, far too many")
        _check_order(file, members.get(f"{root}/byteorder"))
        file.seek(pickled.start)
        tree, storages = torch_pickles.load(io.BytesIO(file.read(pickled.size)))
    starts = {}
    for key, storage in storages.items():
        member = members.get(f"{root}/data/{key}")
        starts[key] = _placed(key, storage, member)
    return _source(path, "torch zip", tree, starts)


def _root(members):
    """The folder in the zip that holds everything; torch calls it after the file."""
    roots = [n.removesuffix("/data.pkl") for n in members if n.endswith("/data.pkl")]
    roots = [root for root in roots if "/" not in root]
    if len(roots) != 1:
        kind = "an .npz of numpy" if all(n.endswith(".npy") for n in members) else ""
        shown = ", ".join(sorted(members)[:4])
        raise tensors.Refused(
            f"it is {kind or 'a zip'}, but no torch checkpoint: that has one member "
            f"NAME/data.pkl, this one has {shown or 'nothing'}"
        )
    if f"{roots[0]}/constants.pkl" in members:
        raise tensors.Refused(
            "it is a TorchScript archive, a program with its weights; save the "
            "module's state_dict() instead"
        )
    return roots[0]


def _check_order(file, member):
    if member is not None:
        file.seek(member.start)
        if file.read(min(member.size, 16)) != b"little":
            raise tensors.Refused("its numbers are not little-endian; save it again")


def _placed(key, storage, member):
    if member is None:
        raise tensors.Refused(f"its storage {key[:60]!r} is missing")
    if member.size != storage.numel * storage.dtype.itemsize:
        raise tensors.Refused(
            f"its storage {key[:60]!r} has {member.size} bytes, not the "
            f"{storage.numel} numbers of {storage.dtype} that the pickle tells of"
        )
    return member.start


def open_legacy(path):
    """Source of a checkpoint that torch.save wrote before 1.6; Refused otherwise."""
    path = pathlib.Path(path)
    with open(path, "rb") as file:
        magic, _ = torch_pickles.load(file)
        if type(magic) is not int or magic != LEGACY_MAGIC:
            raise tensors.Refused(
                "it is a pickle, but not one of torch.save; convert its arrays to "
                ".safetensors where you trust it"
            )
        protocol, _ = torch_pickles.load(file)
        if type(protocol) is not int or protocol != LEGACY_PROTOCOL:
            raise tensors.Refused("it has an unknown version of torch's old format")
        system, _ = torch_pickles.load(file)
        if type(system) is not dict or system.get("little_endian") is not True:
            raise tensors.Refused("its numbers are not little-endian; save it again")
        tree, storages = torch_pickles.load(file)
        keys, _ = torch_pickles.load(file)
        starts = _starts(file, keys, storages)
    return _source(path, "torch legacy pickle", tree, starts)


def _starts(file, keys, storages):
    """Storages follow each other in the order of `keys`, each after its length."""
    if type(keys) is not list or not all(type(key) is str for key in keys):
        raise tensors.Refused("it has no list of storages after its pickle")
    here, end = file.tell(), file.seek(0, 2)
    starts = {}
    for key in keys:
        if key not in storages or key in starts:
            raise tensors.Refused(f"its storage {key[:60]!r} is not in the pickle once")
        file.seek(here)
        length = file.read(8)
        nbytes = storages[key].numel * storages[key].dtype.itemsize
        if len(length) < 8 or here + 8 + nbytes > end:
            raise tensors.Refused(
                f"it ends within storage {key[:60]!r}: get the file again"
            )
        told = struct.unpack("<q", length)[0]
        if told != storages[key].numel:
            raise tensors.Refused(
                f"its storage {key[:60]!r} has {told} numbers, not the "
                f"{storages[key].numel} that the pickle tells of"
            )
        starts[key] = here + 8
        here += 8 + nbytes
    missing = sorted(set(storages) - set(starts))
    if missing:
        raise tensors.Refused(f"its storage {missing[0][:60]!r} is missing")
    return starts


def _source(path, form, tree, starts):
    """The state_dict of a training checkpoint, or else every tensor there is."""
    if type(tree) is not dict:
        raise tensors.Refused(f"it holds {_kind(tree)} instead of a dict of tensors")
    chosen, meta = tree.get("state_dict", tree), {}
    if chosen is not tree:
        for key, value in tree.items():
            if type(key) is str and _is_plain(value):
                tensors.note(meta, key, value)
    if type(chosen) is not dict:
        raise tensors.Refused(f"its state_dict is {_kind(chosen)} instead of a dict")
    found = {}
    for name, value in _leaves(chosen, itertools.count()):
        if type(value) in TENSORS:
            tensors.add(found, name, TENSORS[type(value)](path, value, starts))
        elif _is_plain(value):
            tensors.note(meta, name, value)
        elif chosen is not tree:
            raise tensors.Refused(f"state_dict {name!r} is {_kind(value)}, no tensor")
    _check_unfolded(found, path.stat().st_size)
    return tensors.Source(path, form, found, meta)


def _leaves(node, visited, prefix="", depth=0):
    """(dotted name, value) of everything in dicts in dicts, under text or numbers."""
    if depth > MAX_DEPTH:
        raise tensors.Refused(f"its dicts lie more than {MAX_DEPTH} deep")
    for key, value in node.items():
        if next(visited) > MAX_VISITED:
            raise tensors.Refused("its dicts lie in each other too often")
        if type(key) not in (str, int):
            continue
        name = f"{prefix}{key}"
        tensors.check_name(name)
        if type(value) is torch_pickles.ParameterDict:
            value = value.parameters
        if type(value) is dict:
            yield from _leaves(value, visited, f"{name}.", depth + 1)
        else:
            yield name, value


def _is_plain(value):
    return isinstance(value, SCALARS)


def _kind(value):
    if isinstance(value, pickle_machine.Inert | pickle_machine.Global):
        return f"an object of {value}"
    tensor = isinstance(value, torch_pickles.View)
    return "a tensor" if tensor else f"a {type(value).__name__}"


def _check_unfolded(found, size):
    """Tied weights share bytes; a file of one storage in thousands is a bomb."""
    nbytes = sum(math.prod(t.shape) * t.dtype.itemsize for t in found.values())
    if nbytes > MAX_UNFOLDED * size:
        raise tensors.Refused(
            f"its tensors share bytes so often that they unfold to {nbytes} bytes"
        )


def _stored(path, view, starts):
    """The Tensor of a View: C order is read straight, other orders by a copy."""
    size = view.dtype.itemsize
    start = starts[view.storage.key] + view.offset * size
    steps = [
        (n, step) for n, step in zip(view.shape, view.strides, strict=True) if n != 1
    ]
    plain = [math.prod(n for n, _ in steps[i + 1 :]) for i in range(len(steps))]
    if 0 in view.shape or [step for _, step in steps] == plain:
        return tensors.at(path, start, view.dtype, view.shape)

    def read():
        flat = np.empty(1 + sum((n - 1) * step for n, step in steps), view.dtype)
        tensors.fill(flat, path, start)
        shape, strides = [n for n, _ in steps], [step * size for _, step in steps]
        laid = np.lib.stride_tricks.as_strided(flat, shape, strides, writeable=False)
        return laid.copy(order="C").reshape(view.shape)

    return tensors.Tensor(view.shape, view.dtype, read)


def _in_pickle(path, stand_in, starts):
    """A numpy array whose numbers stood in the pickle itself."""
    array = stand_in.array
    return tensors.Tensor(array.shape, array.dtype, lambda: array.copy(order="C"))


TENSORS = {torch_pickles.View: _stored, pickles.Array: _in_pickle}
