"""What the entry points share: flags, messages, and errors without a traceback."""

import sys

from absl import app, flags, logging
import jax
from ml_collections import config_flags


def define_config(required=True):
    """The --config flag: a file of configs/, with --config.key=value overrides."""
    holder = config_flags.DEFINE_config_file(
        "config",
        None,
        "A task file, e.g. configs/demo_text_to_image.py; override any of its keys "
        "with --config.section.key=value.",
        lock_config=True,
    )
    if required:
        flags.mark_flag_as_required("config")
    return holder


def define_workdir(required=True):
    """The --workdir flag."""
    return flags.DEFINE_string("workdir", None, "Folder of the run.", required=required)


def say(message):
    """A line on stderr, from one process."""
    if jax.process_index() == 0:
        print(message, file=sys.stderr, flush=True)


def run(main):
    """app.run, but a user's mistake is one message and exit code 2."""

    def parse(argv):
        try:
            return flags.FLAGS(argv)
        except (flags.Error, AttributeError, KeyError, TypeError, ValueError) as error:
            fail(error)

    def guarded(argv):
        logging.set_verbosity(logging.WARNING)  # Orbax tells each step of each save
        try:
            main(argv)
        except (FileNotFoundError, TypeError, ValueError, FloatingPointError) as error:
            if flags.FLAGS.debug:
                raise
            fail(error)

    app.run(guarded, flags_parser=parse)


def fail(error):
    """Prints the error's words and exits."""
    words = error.args[0] if isinstance(error, KeyError) and error.args else error
    print(f"error: {words}", file=sys.stderr)
    sys.exit(2)


flags.DEFINE_bool("debug", False, "Show the whole traceback of an error.")
