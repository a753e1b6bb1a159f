"""The commands as users run them, on the tiny configs and a random first stage."""

import contextlib
import os
import pathlib
import signal
import subprocess
import sys
import tempfile

import helpers
import jax
import tiny_text_to_image

from ldm_jax import metrics, system
from ldm_jax.weights import own

TESTS = pathlib.Path(__file__).resolve().parent
CONFIG = TESTS / "tiny_text_to_image.py"
PATIENCE = 500  # seconds after which a command counts as hung


def first_stage(path, scale=1.0):
    """Writes a first stage of random weights that says it was measured."""
    config = tiny_text_to_image.get_config()
    shapes = jax.eval_shape(system.build(config).init, jax.random.key(0))
    params = {"first_stage": helpers.random_params(shapes["first_stage"])}
    own.save_weights(path, params, config.to_dict(), {"scale": scale})
    return path


def config_on(stage):
    """The tiny text-to-image config on the first stage in a file."""
    config = tiny_text_to_image.get_config()
    config.first_stage.weights = str(stage)
    return config


def environment(devices):
    """What a command sees: virtual devices, our modules and those of the tests."""
    flag = f"--xla_force_host_platform_device_count={devices}"
    roots = os.pathsep.join([str(TESTS.parent), str(TESTS)])
    return {**os.environ, "XLA_FLAGS": flag, "PYTHONPATH": roots}


@contextlib.contextmanager
def started(*arguments, devices=1):
    """(process, wait) of `python -m <arguments>`; its whole group is ended at last.

    wait() -> (exit code, what it printed).
    """
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", *map(str, arguments)],
            cwd=TESTS.parent,
            env=environment(devices),
            stdout=log,
            stderr=log,
            start_new_session=True,
        )

        def wait():
            code = process.wait(PATIENCE)
            log.seek(0)
            return code, log.read()

        try:
            yield process, wait
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def run(*arguments, devices=1):
    """Runs `python -m <arguments>` to its end: (exit code, what it printed)."""
    with started(*arguments, devices=devices) as (_, wait):
        return wait()


def said(*arguments):
    """What `python -m <arguments>` prints on stdout alone; it must succeed."""
    done = subprocess.run(
        [sys.executable, "-m", *map(str, arguments)],
        cwd=TESTS.parent,
        env=environment(1),
        stdout=subprocess.PIPE,
        timeout=PATIENCE,
        check=True,
        text=True,
    )
    return done.stdout


def rows(workdir):
    """The rows of a run's metrics.jsonl, without what is never the same twice."""
    found = metrics.read(pathlib.Path(workdir) / "metrics.jsonl")
    return [{k: v for k, v in row.items() if k != "timing"} for row in found]
