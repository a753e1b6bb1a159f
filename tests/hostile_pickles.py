"""Pickles that run programs, forge objects or grow: name -> (opcodes, the refusal).

The file `made` would exist, in the working folder, if a command ran.
"""

import struct

import forge
from forge import Ops, call, name, storage, tensor, value

TOUCH = "touch made"
WRITE = "open('made', 'w')"


def by_stack(module, attribute, *args):
    made = value(module) + value(attribute) + b"\x93" + value(args) + b"R"
    return Ops(made)


def memoised(module, attribute, *args):
    """The call's parts come out of the memo."""
    kept = name(module, attribute) + b"q\x010" + value(args) + b"q\x020"
    return Ops(kept + b"h\x01h\x02R")


def deep(opcode, start, times=100_000):
    return Ops(start + opcode * times)


def set_state(target, state):
    return Ops(target + value(state) + b"b")


def laughs(start, double, times=60):
    """Each step holds the last one twice: exponential for whoever walks it."""
    return Ops(start + double * times)


def many_calls(count=400):
    """A megabyte of text, encoded again and again."""
    text = value("x" * 2**20) + b"q\x010" + value("latin1") + b"q\x020"
    encode = name("_codecs", "encode") + b"q\x030"
    return Ops(text + encode + b"]" + b"h\x03h\x01h\x02\x86Ra" * count)


ARRAY = call(
    *("numpy.core.multiarray", "_reconstruct"), name("numpy", "ndarray"), (0,), b"b"
)
LONG = "x" * 2**22
PLAIN = (
    call("numpy", "dtype", "f4", False, True)
    + value((3, "<", None, None, None, -1, -1, 0))
    + b"b"
)

PROGRAMS = {
    "os.system": (call("os", "system", TOUCH), "names os.system"),
    "posix.system": (call("posix", "system", TOUCH), "names posix.system"),
    "eval": (call("builtins", "eval", WRITE), "names builtins.eval"),
    "exec": (call("builtins", "exec", WRITE), "names builtins.exec"),
    "eval of python 2": (call("__builtin__", "eval", WRITE), "__builtin__.eval"),
    "getattr": (call("builtins", "getattr", "", "join"), "names builtins.getattr"),
    "import": (call("builtins", "__import__", "os"), "builtins.__import__"),
    "only named": (name("os", "system"), "names os.system"),
    "only imported": (name("antigravity", "fly"), "names antigravity.fly"),
    "as a key": (
        Ops(b"}" + name("os", "system") + value(1) + b"s"),
        "names os.system",
    ),
    "NEWOBJ": (
        Ops(name("os", "system") + value((TOUCH,)) + b"\x81"),
        "names os.system",
    ),
    "NEWOBJ_EX": (
        Ops(name("subprocess", "Popen") + value((TOUCH,)) + b"}\x92"),
        "names subprocess.Popen",
    ),
    "INST": (Ops(b"(" + value(TOUCH) + b"ios\nsystem\n"), "names os.system"),
    "OBJ": (Ops(b"(" + name("os", "system") + value(TOUCH) + b"o"), "names os.system"),
    "STACK_GLOBAL": (by_stack("os", "system", TOUCH), "names os.system"),
    "STACK_GLOBAL of numbers": (Ops(value(1) + value(2) + b"\x93"), "else than words"),
    "memoised": (memoised("os", "system", TOUCH), "names os.system"),
    "nested": ({"a": [({"b": call("os", "system", TOUCH)},)]}, "names os.system"),
    "EXT1": (Ops(b"\x82\x01)R"), "uses EXT1"),
    "EXT2": (Ops(b"\x83\x01\x00)R"), "uses EXT2"),
    "EXT4": (Ops(b"\x84\x01\x00\x00\x00)R"), "uses EXT4"),
    "buffer": (Ops(b"\x97\x98"), "uses NEXT_BUFFER"),
    "torch.hub": (call("torch.hub", "load", "a/b", "c"), "names torch.hub.load"),
    "torch.load": (
        call("torch.storage", "_load_from_bytes", forge.legacy()),
        "names torch.storage._load_from_bytes",
    ),
    "numpy.load": (call("numpy", "load", "x.npy"), "names numpy.load"),
    "numpy's runner": (
        call("numpy.testing._private.utils", "runstring", WRITE, {}),
        "names numpy.testing._private.utils.runstring",
    ),
    "subprocess": (
        call("subprocess", "Popen", ["touch", "made"]),
        "subprocess.Popen",
    ),
    "pickle.loads": (call("_pickle", "loads", b"cos\nsystem\n."), "_pickle.loads"),
    "a family's twin": (
        call("pytorch_lightning_x", "run", TOUCH),
        "names pytorch_lightning_x.run",
    ),
    "dotted name": (by_stack("os", "path.os.system", TOUCH), "os.path.os.system"),
    "hook of a ParameterDict": (
        forge.parameters({}, _backward_hooks={0: call("os", "system", TOUCH)}),
        "names os.system",
    ),
    "neighbour of a ParameterDict": (
        name("torch.nn.modules.container", "Sequential"),
        "may run code",
    ),
    "module of torch": (name("torch.nn.modules.conv", "Conv2d"), "may run code"),
    "calls text": (Ops(value("os.system") + value((TOUCH,)) + b"R"), "calls a str"),
    "calls no tuple": (
        Ops(name("collections", "OrderedDict") + value([]) + b"R"),
        "than a tuple",
    ),
}

FORGERIES = {
    "state of a storage": (
        set_state(storage(), {"__setstate__": "x", "key": "../../x"}),
        "sets the state of a Storage",
    ),
    "state of a tensor": (set_state(tensor(), {"offset": 2**40}), "state of a View"),
    "state of a name": (set_state(name("torch", "float32"), {"a": 1}), "of a Global"),
    "state of text": (set_state(value("x"), {"a": 1}), "state of a str"),
    "items of a tensor": (Ops(tensor() + value("a") + value(1) + b"s"), "of a View"),
    "appended to a dict": (Ops(b"}" + value(1) + b"a"), "appends to a dict"),
    "added to a list": (Ops(b"](K\x01\x90"), "adds to a list"),
    "id of text": (Ops(b"Pstorage\n"), "persistent id that is no storage"),
    "id of a number": (Ops(value(7) + b"Q"), "persistent id that is no storage"),
    "id of a module": (
        Ops(value(("module", name("torch", "Tensor"), "x.py", "import os")) + b"Q"),
        "persistent id that is no storage",
    ),
    "id of a module that runs": (
        Ops(value(("module", name("os", "system"), "x.py", "import os")) + b"Q"),
        "names os.system",
    ),
    "id of a strange kind": (tensor(storage("0", "Tensor")), "kind or size unknown"),
    "id of a path": (tensor(storage("../data.pkl")), "'../data.pkl' is missing"),
    "two kinds": (
        [storage("0", "FloatStorage", 6), storage("0", "HalfStorage", 12)],
        "declared in two ways",
    ),
    "storage of text": (tensor("0"), "storage is a str"),
    "storage of a placeholder": (
        tensor(call("omegaconf", "DictConfig")),
        "storage is a Inert",
    ),
    "parameters of text": (forge.parameters("x"), "no dict of parameters"),
    "parameters of nothing": (forge.parameters(None), "no dict of parameters"),
    "state of a ParameterDict": (
        set_state(forge.parameters({}), [1]),
        "no dict of parameters",
    ),
    "ParameterDict of arguments": (
        call("torch.nn.modules.container", "ParameterDict", {"a": tensor()}),
        "calls torch.nn.modules.container.ParameterDict wrongly",
    ),
    "items of a ParameterDict": (
        Ops(forge.parameters({}) + value("a") + value(1) + b"s"),
        "of a ParameterDict",
    ),
    "ParameterDict of placeholders": (
        {"state_dict": forge.parameters({"a": call("omegaconf", "DictConfig")})},
        "state_dict is a ParameterDict",
    ),
    "ParameterDict in itself": (
        {
            "a": Ops(
                forge.parameters({})
                + b"q\x00"
                + value({"_parameters": {"a": Ops(b"h\x00")}})
                + b"b"
            )
        },
        "32 deep",
    ),
    "parameter of text": (
        call("torch._utils", "_rebuild_parameter", "x", True, {}),
        "made of a str",
    ),
    "too few arguments": (
        call("torch._utils", "_rebuild_tensor_v2", storage()),
        "calls torch._utils._rebuild_tensor_v2 wrongly",
    ),
    "objects of numpy": (call("numpy", "dtype", "O8", False, True), "'O8' is not"),
    "text of numpy": (call("numpy", "dtype", "U4", False, True), "'U4' is not"),
    "type by a dict": (call("numpy", "dtype", {"names": ["a"]}), "without a name"),
    "calls ndarray": (call("numpy", "ndarray", (9, 9)), "by its class"),
    "subclass of ndarray": (
        call(
            "numpy.core.multiarray", "_reconstruct", name("numpy", "dtype"), (0,), b"b"
        ),
        "of another class than ndarray",
    ),
    "array of a long state": (set_state(ARRAY, LONG), "no short tuple"),
    "dtype of a long state": (set_state(PLAIN, LONG), "no short tuple"),
    "array of a shape of text": (
        set_state(ARRAY, (1, LONG, Ops(PLAIN), False, b"")),
        "no list of at most",
    ),
    "byte order of a deep tuple": (
        set_state(PLAIN, (3, deep(b"\x85", b")"), None, None, None)),
        "byte order is none",
    ),
    "encoding of a deep tuple": (
        call("_codecs", "encode", "x", deep(b"\x85", b")")),
        "otherwise than as latin1",
    ),
    "array without numbers": (
        set_state(
            ARRAY,
            (1, (2,), Ops(PLAIN), False, [1, 2]),
        ),
        "without plain numbers",
    ),
    "scalar of a storage": (
        call("numpy.core.multiarray", "scalar", storage(), b"xxxx"),
        "no plain number",
    ),
}

SHAPES = {
    "stride 0": (tensor(None, 0, (10**9,), (0,)), "repeats its storage"),
    "stride 0 of many": (tensor(None, 0, (2**20, 2**20), (0, 0)), "repeats its"),
    "overlapping": (tensor(None, 0, (4, 3), (1, 1)), "repeats its storage"),
    "negative stride": (tensor(None, 5, (6,), (-1,)), "no sizes"),
    "negative offset": (tensor(None, -1, (2,), (1,)), "no sizes"),
    "negative size": (tensor(None, 0, (-2, -3), (3, 1)), "else than sizes"),
    "offset after the end": (tensor(None, 1), "ends after its storage of 6"),
    "huge offset": (tensor(None, 2**62, (1,), (1,)), "no sizes"),
    "huge size": (tensor(None, 0, (2**61,), (1,)), "else than sizes"),
    "huge empty": (tensor(None, 0, (2**50, 0, 2**50), (0, 0, 0)), "any machine's"),
    "fractional size": (tensor(None, 0, (2.0, 3), (3, 1)), "else than sizes"),
    "other rank": (tensor(None, 0, (2, 3), (1,)), "no sizes"),
    "rank 1000": (tensor(None, 0, (1,) * 1000, (0,) * 1000), "at most 32"),
    "size of text": (tensor(None, 0, "23", "31"), "no list of at most"),
    "strides of nothing": (tensor(None, 0, (2, 3), None), "no sizes"),
    "strides of a long text": (tensor(None, 0, (2, 3), LONG), "no sizes"),
    "strides of a dict": (tensor(None, 0, (1,), {1: 1}), "no sizes"),
    "size of a long text": (call("torch", "Size", LONG), "no list of at most"),
    "size of 1000": (call("torch", "Size", [1] * 1000), "no list of at most"),
    "numel of 2^62": (tensor(storage("0", "FloatStorage", 2**62)), "kind or size"),
    "negative numel": (tensor(storage("0", "FloatStorage", -6)), "kind or size"),
    "view outside": (
        tensor(storage("0", "FloatStorage", 6, ("1", 4, 4))),
        "does not lie in it",
    ),
}

GROWTH = {
    "deep tuples": (deep(b"\x85", b")"), "it holds a tuple"),
    "deep lists": (Ops(b"]" * 100_000 + b"a" * 99_999), "it holds a list"),
    "deep tuple as a key": (
        Ops(b"}" + deep(b"\x85", b")") + value(1) + b"s"),
        "holds no arrays",
    ),
    "deep dicts": (Ops((b"}" + value("a")) * 2000 + b"}" + b"s" * 2000), "32 deep"),
    "laughing tuples": ({"a": laughs(b")", b"2\x86")}, "holds no arrays"),
    "laughing tuple as a key": (
        Ops(b"}" + laughs(b")", b"2\x86") + value(1) + b"s"),
        "holds no arrays",
    ),
    "laughing dicts": (
        Ops(
            b"}q\x00"
            + b"".join(
                bytes([*b"}q", i + 1, *b"(K\x00h", i, *b"K\x01h", i, *b"u"])
                for i in range(25)
            )
        ),
        "in each other too often",
    ),
    "dict in itself": (Ops(b"}q\x00K\x01h\x00s"), "32 deep"),
    "memo index": (Ops(b"Nr\xff\xff\xff\x7f0" + value(1)), "it holds a int"),
    "memo missing": (Ops(b"h\x07"), "is broken at step 1: KeyError"),
    "empty stack": (Ops(b"0"), "is broken at step 1: IndexError"),
    "stack of marks": (Ops(b"(" * 1000 + b"t"), "it holds a tuple"),
    "LONG4": (Ops(b"\x8b\xff\xff\xff\x7f\x01"), "is broken at step 1: ValueError"),
    "LONG of many digits": (Ops(b"L" + b"9" * 10_000 + b"L\n"), "broken at step 1"),
    "BINUNICODE8": (Ops(b"\x8d" + struct.pack("<Q", 2**40)), "broken at step 1"),
    "BINBYTES8": (Ops(b"\x8e" + struct.pack("<Q", 2**62)), "broken at step 1"),
    "BYTEARRAY8": (Ops(b"\x96" + struct.pack("<Q", 2**40)), "broken at step 1"),
    "FRAME": (Ops(b"\x95" + struct.pack("<Q", 2**60) + value(1)), "it holds a int"),
    "calls that copy": (many_calls(), "unfolds into far more"),
    "no opcode": (Ops(value({"a": 1}) + b"\xff"), "broken at step"),
}

ALL = PROGRAMS | FORGERIES | SHAPES | GROWTH
LONG_ONES = (
    *("array of a long state", "dtype of a long state", "array of a shape of text"),
    *("strides of a long text", "size of a long text"),
)
