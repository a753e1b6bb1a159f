"""Runs a command that sends itself a signal at one step, right after ROW or SAVE.

  python -m interrupted SIGKILL row 5 ldm_jax.train --config=...

row: the step's line of metrics.jsonl is written; save: its checkpoint is begun.
"""

import os
import runpy
import signal
import sys

from ldm_jax import checkpoint, metrics


def then_signal(function, number, wanted, step_of):
    """The function, which sends the signal after its call for one step."""

    def wrapped(*args, **kwargs):
        result = function(*args, **kwargs)
        if step_of(*args) == wanted:
            os.kill(os.getpid(), number)
        return result

    return wrapped


def main():
    name, place, step, module, *rest = sys.argv[1:]
    signalling = (signal.Signals[name], int(step))
    if place == "row":
        write = metrics.Writer.write
        metrics.Writer.write = then_signal(write, *signalling, lambda _, step, *__: step)
    else:
        checkpoint.save = then_signal(
            checkpoint.save, *signalling, lambda _, step, *__: step
        )
    sys.argv = [module, *rest]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
