"""Runs a command that sends itself a signal at one step, right after a place in it.

  python -m interrupted SIGKILL row 5 ldm_jax.train --config=...

row: the step's line of metrics.jsonl is written; save: its checkpoint is begun;
restore: its checkpoint is read.
"""

import os
import runpy
import signal
import sys

from ldm_jax import checkpoint, metrics

PLACES = {
    "row": (metrics.Writer, "write"),
    "save": (checkpoint, "save"),
    "restore": (checkpoint, "restore"),
}


def then_signal(function, number, wanted):
    """The function (owner, step, ...) with a signal at the end of one step's call."""

    def wrapped(owner, step, *rest):
        result = function(owner, step, *rest)
        if step == wanted:
            os.kill(os.getpid(), number)
        return result

    return wrapped


def main():
    name, place, step, module, *rest = sys.argv[1:]
    owner, function = PLACES[place]
    wrapped = then_signal(getattr(owner, function), signal.Signals[name], int(step))
    setattr(owner, function, wrapped)
    sys.argv = [module, *rest]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
