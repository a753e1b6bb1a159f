"""What the pickles of `torch.save` hold, with stand-ins for tensors and storages.

Names that torch, numpy and Lightning write are known below; all others are refused
the moment they are named. Objects of the families in INERT (callbacks, configs, whole
optimizers) stay unread: they are only refused where a tensor was expected.
"""

import dataclasses
import itertools

import numpy as np

from ldm_jax.weights import pickle_machine, pickles, tensors

# Class of a storage -> its type. The untyped one has bytes, and the tensor the type.
STORAGES = {
    "FloatStorage": "float32",
    "DoubleStorage": "float64",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
    "ComplexFloatStorage": "complex64",
    "ComplexDoubleStorage": "complex128",
    "UntypedStorage": "uint8",
}
DTYPES = {
    **tensors.NARROW,
    **{name: np.dtype(name) for name in STORAGES.values() if name != "bfloat16"},
    **{name: np.dtype(name) for name in ("uint16", "uint32", "uint64")},
}
INERT_MODULES = {
    *("pytorch_lightning", "lightning", "lightning_fabric", "lightning_utilities"),
    *("omegaconf", "torch.optim", "torch.torch_version"),
    *("typing", "collections", "argparse", "pathlib"),
}
PLAIN_CLASSES = {
    *("object", "dict", "list", "tuple", "set", "frozenset", "slice", "range"),
    *("bool", "int", "float", "complex", "str", "bytearray"),
}
INERT = {
    *((m, name) for m in ("builtins", "__builtin__") for name in PLAIN_CLASSES),
    *(("copyreg", "_reconstructor"), ("copy_reg", "_reconstructor")),
    *(("torch", name) for name in DTYPES),
    *((m, name) for m in ("torch", "torch.cuda") for name in STORAGES),
    *(("torch", name) for name in ("device", "strided", "Tensor")),
    *(("torch.storage", name) for name in ("UntypedStorage", "TypedStorage")),
}
PARAMETER_DICT = pickle_machine.Global("torch.nn.modules.container", "ParameterDict")


@dataclasses.dataclass(frozen=True, slots=True)
class Storage:
    """Numbers of one type in a row; start: where a view of the row `key` begins."""

    key: str
    dtype: np.dtype
    numel: int
    start: int = 0


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class View:
    """A tensor: offset and strides count elements of the storage's row."""

    storage: Storage
    dtype: np.dtype
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class ParameterDict:
    """torch.nn.ParameterDict; `parameters` is all that is read of its state.

    Files of textual inversion (Gal et al., 2022) have their vectors in one.
    """

    def __init__(self):
        self.parameters = {}

    def __setstate__(self, state):
        parameters = state.get("_parameters") if type(state) is dict else None
        if type(parameters) is not dict:
            raise tensors.Refused("its ParameterDict has no dict of parameters")
        self.parameters = parameters


def load(file):
    """(value, {key: Storage}) of the pickle at which `file` stands.

    Refused, with the reason, for what this reader does not take.
    """
    storages = {}
    world = pickle_machine.World(
        name=_name, call=_call, state=_state, stored=lambda pid: _stored(pid, storages)
    )
    return pickle_machine.run(file, world), storages


def _name(module, name):
    known = (module, name) in CALLS or (module, name) in INERT
    if known or (len(module) + len(name) < 256 and _family(module) & INERT_MODULES):
        return pickle_machine.Global(module, name)
    raise tensors.Refused(
        f"its pickle names {module[:80]}.{name[:80]}, which may run code; this reader "
        "takes tensors and plain values only. If you trust the file, load it with "
        "torch and save its state_dict() again, best as .safetensors"
    )


def _family(module):
    """A module and its parents."""
    parts = module.split(".")
    return {".".join(parts[: i + 1]) for i in range(len(parts))}


def _call(function, args):
    if type(function) is not pickle_machine.Global:
        raise tensors.Refused(f"its pickle calls a {type(function).__name__}")
    key = (function.module, function.name)
    if key not in CALLS:
        return pickle_machine.Inert(str(function))
    # Whatever is wrong with the arguments: numbers, types, too few of them.
    wrong = (TypeError, ValueError, KeyError, AttributeError, IndexError, OverflowError)
    try:
        return CALLS[key](*args)
    except tensors.Refused:
        raise
    except wrong as error:
        said = f"its pickle calls {function} wrongly: {str(error)[:100]}"
        raise tensors.Refused(said) from error


def _state(target, state):
    """Sets the state of the STATEFUL; of other objects it is not read."""
    if not isinstance(target, STATEFUL):
        if type(target) in (dict, pickle_machine.Inert):
            return
        raise tensors.Refused(f"its pickle sets the state of a {type(target).__name__}")
    # The methods below and in pickles.py, never one of the file's.
    try:
        target.__setstate__(state)
    except tensors.Refused:
        raise
    except (TypeError, ValueError, OverflowError) as error:
        said = f"its pickle holds a broken numpy array: {str(error)[:100]}"
        raise tensors.Refused(said) from error


def _stored(pid, storages):
    match pid:
        case ("storage", pickle_machine.Global(name=kind), str(key), str(), int(n)):
            view = None
        case ("storage", pickle_machine.Global(name=kind), str(key), str(), int(n), v):
            view = v
        case ("module", cls, _, _) if cls == PARAMETER_DICT:
            return cls  # the old format adds a class's file and source
        case _:
            raise tensors.Refused(
                "its pickle has a persistent id that is no storage; if a whole module "
                "was saved, save its state_dict() instead"
            )
    if kind not in STORAGES or not 0 <= n < 2**60:
        raise tensors.Refused(f"storage {key[:60]!r} is of a kind or size unknown here")
    whole = Storage(key, DTYPES[STORAGES[kind]], n)
    if storages.setdefault(key, whole) != whole:
        raise tensors.Refused(f"storage {key[:60]!r} is declared in two ways")
    return whole if view is None else _part(whole, view)


def _part(whole, view):
    """Storages that were views, of torch before 0.4: (key, offset, size)."""
    match view:
        case (str(), int(start), int(size)) if 0 <= start <= start + size:
            if start + size <= whole.numel:
                return Storage(whole.key, whole.dtype, size, start)
    raise tensors.Refused(f"a view of storage {whole.key[:60]!r} does not lie in it")


def _tensor(storage, offset, size, stride, *rest):
    """torch._utils._rebuild_tensor and _v2; rest: flags and hooks of gradients."""
    if not isinstance(storage, Storage):
        raise tensors.Refused(f"a tensor's storage is a {type(storage).__name__}")
    return _view(storage, storage.dtype, offset, size, stride)


def _tensor_v3(storage, offset, size, stride, grad, hooks, dtype, *rest):
    """For types that have no class of storage; dtype is the Global torch.float8..."""
    if not isinstance(storage, Storage) or storage.dtype != np.uint8:
        raise tensors.Refused("a tensor of a newer type has no untyped storage")
    dtype = DTYPES[dtype.name]
    return _view(storage, dtype, offset, size, stride)


def _view(storage, dtype, offset, size, stride):
    """Checked to lie within the storage, and to have no more numbers than that."""
    tensors.check_shape(size, dtype.itemsize)
    fits = isinstance(stride, list | tuple) and len(stride) == len(size)
    if not fits or not all(
        type(n) is int and 0 <= n < 2**60 for n in (*stride, offset)
    ):
        raise tensors.Refused("a tensor's strides and offset are no sizes")
    ratio = dtype.itemsize // storage.dtype.itemsize
    room = storage.numel // ratio
    steps = zip(size, stride, strict=True)
    last = offset + sum((n - 1) * step for n, step in steps)
    count = np.prod([1, *size], dtype=object)
    if count and not last < room:
        raise tensors.Refused(
            f"a tensor of shape {tuple(size)} ends after its storage of {room} numbers"
        )
    if count > room:
        raise tensors.Refused(
            f"a tensor of shape {tuple(size)} repeats its storage of {room} numbers"
        )
    start = offset + storage.start // ratio
    return View(storage, dtype, start, tuple(size), tuple(stride))


def _parameter(data, *rest):
    if not isinstance(data, View):
        raise tensors.Refused(f"a parameter is made of a {type(data).__name__}")
    return data


def _ordered(*lists):
    """An OrderedDict; Python 2 wrote a list of its items as an argument."""
    if not all(type(pairs) is list for pairs in lists):
        raise tensors.Refused("an OrderedDict without a list of items is not allowed")
    made = {}
    for key, value in itertools.chain(*lists):
        pickle_machine.put(made, key, value)
    return made


def _dtype(name, *rest):
    if type(name) is not str or len(name) > 16:
        raise tensors.Refused("a numpy dtype without a name is not allowed")
    return pickles.Dtype(name)


def _size(sizes=()):
    tensors.check_shape(sizes, 1)
    return tuple(sizes)


def _array(subtype, *rest):
    """numpy's class is a Global here, in pickles.py a word."""
    known = subtype == pickle_machine.Global("numpy", "ndarray")
    return pickles.Array("ndarray" if known else "other", *rest)


def _class(*args):
    raise tensors.Refused("an array made by its class is not allowed")


STATEFUL = (pickles.Array, pickles.Dtype, ParameterDict)
CALLS = {
    **pickles.ALLOWED,
    ("collections", "OrderedDict"): _ordered,
    ("collections", "defaultdict"): lambda *args: {},
    ("numpy", "dtype"): _dtype,
    ("numpy", "ndarray"): _class,
    ("numpy.core.multiarray", "_reconstruct"): _array,
    ("numpy._core.multiarray", "_reconstruct"): _array,
    ("torch", "Size"): _size,
    (PARAMETER_DICT.module, PARAMETER_DICT.name): ParameterDict,
    ("torch._utils", "_rebuild_tensor"): _tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_tensor_v3"): _tensor_v3,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    ("torch._utils", "_rebuild_parameter_with_state"): _parameter,
}
