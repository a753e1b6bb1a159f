"""Calls a command many times in one process: what each call exits with and prints.

  python -m mistakes ldm_jax.train '[["--config=a.py"], []]'

prints the JSON [[exit code, "what it printed"], ...], one for each list of flags.
"""

import contextlib
import importlib
import io
import json
import sys

from absl import flags

from ldm_jax import cli


def call(command, arguments):
    """(exit code, output) of a command's main, its flags parsed from scratch."""
    sys.argv = [command.__name__, *arguments]
    flags.FLAGS.unparse_flags()
    printed = io.StringIO()
    with contextlib.redirect_stderr(printed), contextlib.redirect_stdout(printed):
        try:
            cli.run(command.main)
        except SystemExit as end:
            code = end.code
    return code, printed.getvalue()


def main():
    command = importlib.import_module(sys.argv[1])
    cases = json.loads(sys.argv[2])
    print(json.dumps([call(command, arguments) for arguments in cases]))


if __name__ == "__main__":
    main()
