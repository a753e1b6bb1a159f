"""What the entry points share: flags, messages, and errors without a traceback."""

import sys

from absl import app, flags, logging
import jax
from ml_collections import config_flags

# What a wrong flag, config or file raises; the message says it, so no traceback.
MISTAKES = (OSError, TypeError, ValueError, FloatingPointError)


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


def define_weights():
    return flags.DEFINE_string(
        "weights",
        None,
        "A .safetensors by ldm_jax.export or .convert, instead of the embedded one.",
    )


def define_control():
    return flags.DEFINE_multi_string(
        "control",
        [],
        "[HINT=]FILE, a control branch by ldm_jax.export or .convert; may be repeated.",
    )


def define_hosts():
    """The flags of a run of several processes; call what comes back before any JAX."""
    several = flags.DEFINE_bool(
        "distributed",
        False,
        "This is one process of several, one for each host. TPU pods, Slurm and the "
        "like say the rest by themselves; elsewhere the next three flags do.",
    )
    coordinator = flags.DEFINE_string("coordinator", None, "host:port of process 0.")
    count, number = _define_share("How many there are.", "Which one this is, from 0.")

    def start():
        given = (coordinator.value, count.value, number.value)
        if several.value:
            jax.distributed.initialize(*given)
        elif given != (None, None, None):
            raise ValueError(
                "--coordinator, --processes and --process need --distributed"
            )

    return start


def define_share():
    """The flags of one of several processes that never talk to each other.

    What comes back returns (the number of this one, how many there are).
    """
    count, number = _define_share(
        "How many processes share the work, each on its own, without --distributed.",
        "Which one this is, from 0; under Slurm $SLURM_PROCID.",
    )

    def share():
        if (count.value is None) != (number.value is None):
            raise ValueError("--processes and --process need each other")
        if count.value and number.value >= count.value:
            raise ValueError(
                f"--process={number.value} is none of --processes={count.value}: they "
                f"are 0 to {count.value - 1}"
            )
        return number.value or 0, count.value or 1

    return share


def _define_share(count, number):
    return (
        flags.DEFINE_integer("processes", None, count, 1),
        flags.DEFINE_integer("process", None, number, 0),
    )


def say(message):
    """A line on stderr, from one process."""
    if jax.process_index() == 0:
        print(message, file=sys.stderr, flush=True)


def run(main):
    """app.run, but a user's mistake is one message and exit code 2."""
    flags.declare_key_flag("debug")

    def parse(argv):
        try:
            return flags.FLAGS(argv)
        except (flags.Error, AttributeError, KeyError, *MISTAKES) as error:
            if "--debug" in argv:
                raise
            fail(error)

    def guarded(argv):
        logging.set_verbosity(logging.WARNING)  # Orbax tells each step of each save
        try:
            main(argv)
        except MISTAKES as error:
            if flags.FLAGS.debug:
                raise
            fail(error)

    app.run(guarded, flags_parser=parse)


def fail(error):
    """Prints the error's words and exits."""
    # ml_collections wraps what a config file raises, with the traceback in the words.
    while "Traceback" in str(error) and error.__context__ is not None:
        error = error.__context__
    words = error.args[0] if isinstance(error, KeyError) and error.args else error
    print(f"error: {words}\n(--debug shows where)", file=sys.stderr)
    sys.exit(2)


flags.DEFINE_bool("debug", False, "Show the whole traceback of an error.")
# What the functions define is of the commands that call them: --help shows it there.
flags.disclaim_key_flags()
