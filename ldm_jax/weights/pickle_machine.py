"""Runs a pickle as data, with nothing of the file's choosing ever called.

Python's own Unpickler stays safe only as far as its subclass sees: ten bytes (a memo
index) make it take gigabytes, and a deep tuple as a dict key ends the process. So the
opcodes are parsed by `pickletools` and carried out here, on plain containers and on
stand-ins. Globals, calls and states are left to a `World`, the table of one format.
"""

from collections.abc import Callable
import dataclasses
import pickletools
from typing import Any

from ldm_jax.weights import tensors

MAX_BYTES = 2**26  # of one pickle; a Stable Diffusion checkpoint's has under 2 MB
MAX_STEPS = 2_000_000  # opcodes; it has under 200,000
MAX_COST = 2**26  # of what calls copy, about in bytes
COPIED = {str: 1, bytes: 1, bytearray: 1, tuple: 16, list: 128, dict: 128}


@dataclasses.dataclass(frozen=True, slots=True)
class Global:
    """A name in the file. It is never imported."""

    module: str
    name: str

    def __str__(self):
        return f"{self.module}.{self.name}"


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Inert:
    """Stands for an object that is not read. It takes what the file puts into it."""

    name: str

    def __str__(self):
        return self.name


@dataclasses.dataclass(frozen=True)
class World:
    """What a format makes of the three opcodes that reach out of the pickle.

    name(module, name): what a global stands for. call(function, args): the value of a
    call. state(target, state): sets an object's state. stored(id): the object of a
    persistent id. All raise Refused for what they do not take.
    """

    name: Callable[[str, str], Any]
    call: Callable[[Any, tuple], Any]
    state: Callable[[Any, Any], None]
    stored: Callable[[Any], Any]


class _Machine:
    def __init__(self, world):
        self.world = world
        self.stack, self.marks, self.memo = [], [], {}
        self.cost = 0

    def spend(self, *values):
        """A memoised string in many calls would grow without end."""
        self.cost += sum(COPIED[type(v)] * len(v) for v in values if type(v) in COPIED)
        if self.cost > MAX_COST:
            raise tensors.Refused("its pickle unfolds into far more than it holds")

    def above_mark(self):
        above, self.stack = self.stack, self.marks.pop()
        return above

    def call(self, function, args):
        if type(args) is not tuple:
            raise tensors.Refused("its pickle calls with something else than a tuple")
        self.spend(*args)
        self.stack.append(self.world.call(function, args))


class _Bounded:
    """The part of a stream that one pickle may take."""

    def __init__(self, file):
        self.file, self.left = file, MAX_BYTES

    def read(self, size):
        return self._took(self.file.read(min(size, self.left + 1)))

    def readline(self):
        return self._took(self.file.readline(self.left + 1))

    def _took(self, data):
        self.left -= len(data)
        if self.left < 0:
            raise tensors.Refused(f"its pickle has more than {MAX_BYTES} bytes")
        return data


def run(file, world):
    """The value of the pickle that starts where `file` stands, and ends after it."""
    machine = _Machine(world)
    opcodes = pickletools.genops(_Bounded(file))
    for step in range(MAX_STEPS):
        try:
            opcode, arg, _ = next(opcodes)
            if opcode.name == "STOP":
                return machine.stack.pop()
            if opcode.name not in OPCODES:
                raise tensors.Refused(f"its pickle uses {opcode.name}")
            OPCODES[opcode.name](machine, arg)
        except tensors.Refused:
            raise
        except (ValueError, IndexError, KeyError) as error:
            said = f"{type(error).__name__} {str(error)[:100]}"
            raise tensors.Refused(
                f"its pickle is broken at step {step}: {said}"
            ) from error
    raise tensors.Refused(f"its pickle has more than {MAX_STEPS} steps")


def put(target, key, value):
    """target[key] = value, where a key cannot be one whose hash takes long."""
    plain = type(key) in (str, bytes, bool, float, type(None), Global)
    if not plain and not (type(key) is int and abs(key) < 2**60):
        key = Inert(f"a {type(key).__name__} as a key")
    if type(target) is dict:
        target[key] = value
    elif type(target) is not Inert:
        raise tensors.Refused(f"its pickle sets items of a {type(target).__name__}")


def _extend(target, values):
    if type(target) is list:
        target.extend(values)
    elif type(target) is not Inert:
        raise tensors.Refused(f"its pickle appends to a {type(target).__name__}")


def _pairs(target, items):
    if len(items) % 2:
        raise tensors.Refused("its pickle has a key without a value")
    for key, value in zip(items[::2], items[1::2], strict=True):
        put(target, key, value)
    return target


def _push(make):
    return lambda m, arg: m.stack.append(make(arg))


def _collect(make):
    """An opcode that makes one object of all above the mark."""

    def opcode(m, arg):
        above = m.above_mark()
        m.stack.append(make(above))

    return opcode


def _take(count, act):
    """An opcode that uses the last `count` objects up; act(machine, arg, *objects)."""

    def opcode(m, arg):
        if len(m.stack) < count:
            raise IndexError("it takes more than there is")
        objects = m.stack[-count:]
        del m.stack[-count:]
        act(m, arg, *objects)

    return opcode


def _tuple(m, arg, *objects):
    m.stack.append(objects)


def _mark(m, arg):
    m.marks.append(m.stack)
    m.stack = []


def _pop(m, arg):
    if m.stack:
        m.stack.pop()
    else:
        m.above_mark()


def _keep(m, arg):
    m.memo[len(m.memo) if arg is None else arg] = m.stack[-1]


def _append(m, arg, value):
    _extend(m.stack[-1], [value])


def _appends(m, arg):
    above = m.above_mark()
    _extend(m.stack[-1], above)


def _set_item(m, arg, key, value):
    put(m.stack[-1], key, value)


def _set_items(m, arg):
    above = m.above_mark()
    _pairs(m.stack[-1], above)


def _into_set(m, arg):
    m.above_mark()
    if type(m.stack[-1]) is not Inert:
        raise tensors.Refused(f"its pickle adds to a {type(m.stack[-1]).__name__}")


def _global(m, arg):
    m.stack.append(m.world.name(*arg.split(" ", 1)))


def _stack_global(m, arg, module, name):
    if type(module) is not str or type(name) is not str:
        raise tensors.Refused("its pickle names a global by something else than words")
    m.stack.append(m.world.name(module, name))


def _instance(m, arg):
    function = m.world.name(*arg.split(" ", 1))
    m.call(function, tuple(m.above_mark()))


def _object(m, arg):
    function, *args = m.above_mark()
    m.call(function, tuple(args))


def _build(m, arg, state):
    for part in state if type(state) is tuple else (state,):
        m.spend(part)
    m.spend(state)
    m.world.state(m.stack[-1], state)


OPCODES = {
    **dict.fromkeys(("PROTO", "FRAME"), lambda m, arg: None),
    **dict.fromkeys(
        (
            *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4"),
            *("FLOAT", "BINFLOAT", "STRING", "BINSTRING", "SHORT_BINSTRING"),
            *("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
            *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
        ),
        _push(lambda arg: arg),
    ),
    "NONE": _push(lambda arg: None),
    "NEWTRUE": _push(lambda arg: True),
    "NEWFALSE": _push(lambda arg: False),
    "EMPTY_LIST": _push(lambda arg: []),
    "EMPTY_DICT": _push(lambda arg: {}),
    "EMPTY_TUPLE": _push(lambda arg: ()),
    "EMPTY_SET": _push(lambda arg: Inert("set")),
    "LIST": _collect(list),
    "TUPLE": _collect(tuple),
    "DICT": _collect(lambda items: _pairs({}, items)),
    "FROZENSET": _collect(lambda items: Inert("frozenset")),
    **{f"TUPLE{count}": _take(count, _tuple) for count in (1, 2, 3)},
    "APPEND": _take(1, _append),
    "APPENDS": _appends,
    "SETITEM": _take(2, _set_item),
    "SETITEMS": _set_items,
    "ADDITEMS": _into_set,
    "MARK": _mark,
    "POP": _pop,
    "POP_MARK": lambda m, arg: m.above_mark(),
    "DUP": lambda m, arg: m.stack.append(m.stack[-1]),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"), _keep),
    **dict.fromkeys(
        ("GET", "BINGET", "LONG_BINGET"), lambda m, arg: m.stack.append(m.memo[arg])
    ),
    "GLOBAL": _global,
    "STACK_GLOBAL": _take(2, _stack_global),
    "INST": _instance,
    "OBJ": _object,
    "REDUCE": _take(2, lambda m, arg, function, args: m.call(function, args)),
    "NEWOBJ": _take(2, lambda m, arg, function, args: m.call(function, args)),
    "NEWOBJ_EX": _take(3, lambda m, arg, function, args, words: m.call(function, args)),
    "BUILD": _take(1, _build),
    "PERSID": lambda m, arg: m.stack.append(m.world.stored(arg)),
    "BINPERSID": _take(1, lambda m, arg, found: m.stack.append(m.world.stored(found))),
}
