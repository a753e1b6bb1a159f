"""A session at the keyboard: a line is a prompt, or a setting where it begins with /.

The program that samples is compiled at the first prompt, for batches of one size, and
serves all later ones; another number of steps is another program.
"""

import contextlib
import dataclasses
import functools
import importlib
import math
import pathlib
import sys
import time

from ldm_jax import album, generation, knobs, names
from ldm_jax import config as config_lib

GREETING = "Type what to draw; /help lists the settings, /quit or Ctrl-D ends."


@dataclasses.dataclass(frozen=True)
class Session:
    """The state between two lines; `wanted` is what the next prompt will get."""

    model: generation.Model
    wanted: album.Wanted
    batch_size: int
    out: str
    compiled: frozenset = frozenset()  # numbers of steps that have their program
    ended: bool = False


def run(session, lines, write):
    """Answers line after line by `write`; returns the last Session.

    A mistake is told and changes nothing. /quit, Ctrl-C and the last line end it.
    """
    write(GREETING)
    try:
        for line in lines:
            try:
                session = answer(session, line.strip(), write)
            except (ValueError, FloatingPointError, OSError) as error:
                write(f"error: {error}")
            if session.ended:
                break
    except KeyboardInterrupt:
        write("interrupted")
    return session


def typed():
    """The lines of stdin; on a terminal they can be edited and called back."""
    sys.stdin.reconfigure(errors="replace")
    if not sys.stdin.isatty():
        yield from sys.stdin
        return
    with contextlib.suppress(ImportError):
        importlib.import_module("readline")  # from here on input() uses it
    while True:
        try:
            yield input("> ")
        except EOFError:
            print()
            return


def answer(session, line, write):
    """The Session after one line."""
    if not line:
        return session
    if not line.startswith("/"):
        return draw(session, line, write)
    name, *rest = line.split(maxsplit=1)
    return names.pick(COMMANDS, name)(session, "".join(rest), write)


def draw(session, prompt, write):
    """The Session after the pictures of one prompt."""
    wanted = dataclasses.replace(session.wanted, prompts=(prompt,))
    steps = now(session, "steps")
    if steps not in session.compiled:
        write(f"compiling for {steps} steps: the next prompts will be faster")
    began = time.perf_counter()
    rows = album.extend(session.model, wanted, session.batch_size, session.out, write)
    took = time.perf_counter() - began
    files = sorted({rows[0]["file"], rows[-1]["file"]})
    path = pathlib.Path(session.out).absolute() / " to ".join(files)
    count = f"{len(rows)} picture" + "s" * (len(rows) > 1)
    write(f"{count} in {took:.1f} s: {path}")
    drawn = dataclasses.replace(session, compiled=session.compiled | {steps})
    return put(drawn, "index", wanted.index + len(rows))


def _whole(lowest, highest=album.HIGHEST):
    def convert(text):
        value = int(text)
        if not lowest <= value <= highest:
            raise ValueError(f"{value} is not in {lowest} .. {highest}")
        return value

    return convert


def _finite(text):
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{value} is not finite")
    return value


@dataclasses.dataclass(frozen=True)
class Setting:
    """What can be set: a field of album.Wanted, or of config.sample."""

    kind: str  # of what is typed after the name
    convert: object  # text -> value
    about: str


SETTINGS = {
    "scale": Setting("NUMBER", _finite, "strength of classifier-free guidance"),
    "negative": Setting("WORDS", str, "what to stay away from; no words: nothing"),
    "seed": Setting("NUMBER", _whole(0), "begins anew: index 0 of that seed"),
    "index": Setting("NUMBER", _whole(0), "of the next picture; counts on by itself"),
    "n": Setting("COUNT", _whole(1, 10_000), "pictures of each prompt"),
    "eta": Setting("NUMBER", _finite, "noise that DDIM adds, 0 to 1"),
    "steps": Setting("COUNT", _whole(1), "sampling steps; another count is compiled"),
}


def now(session, key):
    """The value of a setting."""
    in_config = key in session.model.config.sample
    return session.model.config.sample[key] if in_config else vars(session.wanted)[key]


def put(session, key, value):
    """The Session with another value of a setting; ValueError if the model has none."""
    if key not in session.model.config.sample:
        wanted = dataclasses.replace(session.wanted, **{key: value})
        return dataclasses.replace(session, wanted=wanted)
    config = session.model.config.copy_and_resolve_references()
    config.sample[key] = value
    knobs.of(config_lib.check(config))  # of a grid that has such steps
    model = dataclasses.replace(session.model, config=config)
    return dataclasses.replace(session, model=model)


def change(key, session, text, write):
    """The Session after "/key text"."""
    setting = SETTINGS[key]
    try:
        value = setting.convert(text)
    except ValueError as error:
        asked = f"say it as /{key} {setting.kind}; it is {now(session, key)}"
        raise ValueError(f"{asked} ({error})") from error
    session = put(session, key, value)
    write(f"{key} is {value!r}")
    if key == "seed":
        session = put(session, "index", 0)
        write("the next picture has index 0")
    if key == "steps" and value not in session.compiled:
        write("the next prompt compiles a program for it")
    if session.wanted.negative and now(session, "scale") == 1:
        write("the negative prompt does nothing where the scale is 1")
    return session


def show(session, text, write):
    """Lists the commands, and the values in force."""
    for key, setting in SETTINGS.items():
        called = f"/{key} {setting.kind}"
        write(f"{called:<16}{setting.about:<44}now {now(session, key)!r}")
    write(f"{'/help':<16}this list")
    write(f"{'/quit':<16}the end, as Ctrl-D")
    return session


def end(session, text, write):
    return dataclasses.replace(session, ended=True)


COMMANDS = {
    **{f"/{key}": functools.partial(change, key) for key in SETTINGS},
    "/help": show,
    "/quit": end,
}
