"""Train what a config describes, and go on where a run was cut off.

  python -m ldm_jax.train --config=configs/demo_text_to_image.py --workdir=runs/demo

The same command again resumes. SIGTERM saves a checkpoint and exits with code 75.
Any knob of the config is a flag: --config.data.batch_size=16; ldm_jax/config.py has
them all. On several hosts start it on each with --distributed and a workdir that all of
them see.
"""

import contextlib
import signal
import sys
import threading
import time

from clu import parameter_overview
import jax
from jax.experimental import multihost_utils
import jax.numpy as jnp

from ldm_jax import cli, inputs, metrics, runs, sharding, train_step, validation
from ldm_jax import config as config_lib

CONFIG = cli.define_config()
WORKDIR = cli.define_workdir()
start_hosts = cli.define_hosts()

PREEMPTED = 75  # exit code after SIGTERM: saved, run the same command again


def compile_step(run):
    """The train step, compiled from shapes."""
    config, train = run.config, run.config.train
    tx, rate = runs.optimizer(config)
    step = train_step.make_train_step(
        run.system.grads,
        tx,
        rate,
        seed=config.seed,
        ema_decay=train.ema_decay,
        ema_std=train.ema_std,
        accumulate=train.accumulate,
        after_step=run.system.after_step,
    )
    batch = jax.tree.map(
        lambda s: jax.ShapeDtypeStruct(
            s.shape, s.dtype, sharding=sharding.batch_sharding(run.mesh)
        ),
        run.system.batch,
    )
    places = sharding.params_sharding(run.state, run.mesh)
    began = time.perf_counter()
    compiled = (
        jax.jit(
            step,
            donate_argnums=0,
            out_shardings=(places, sharding.replicated(run.mesh)),
        )
        .lower(run.state, run.frozen, batch)
        .compile()
    )
    cli.say(f"compiled the train step in {time.perf_counter() - began:.1f} s")
    return compiled


def train(config, workdir):
    """Runs to config.train.steps; returns an exit code."""
    run = runs.prepare(config, workdir)
    overview = parameter_overview.get_parameter_overview(
        run.state.params, include_stats=False, max_lines=40
    )
    cli.say(f"trained parameters\n{overview}")
    step_fn = compile_step(run)
    validator = validation.Validator(config, run.system, run.mesh, run.frozen)
    first = int(run.state.step)
    writer = metrics.Writer(workdir, first if first else None)
    with contextlib.ExitStack() as stack:
        stack.callback(writer.close)
        stack.callback(run.manager.close)
        stop = stack.enter_context(stop_on_sigterm())
        return loop(run, step_fn, validator, writer, stop)


def loop(run, step_fn, validator, writer, stop):
    """Data -> step -> log -> validate -> save."""
    train = run.config.train
    batch_size = run.config.data.batch_size
    first = int(run.state.step)
    bar = metrics.Progress(train.steps, first, batch_size)
    meter = metrics.Meter(batch_size)
    keys = tuple(run.system.batch)
    note = ""  # read at log steps only: reading makes the host wait for the device
    with inputs.batches(run.config, keys, start=run.start) as batches:
        for step in range(first + 1, train.steps + 1):
            asked = time.perf_counter()
            batch = sharding.put_batch(next(batches), run.mesh)
            waited = time.perf_counter() - asked
            run.state, numbers = step_fn(run.state, run.frozen, batch)
            meter.add(waited)
            last = step == train.steps
            stopping = agreed(stop, step, train.log_every)

            if metrics.due(step, train.log_every) or last:
                numbers = jax.device_get(numbers)
                writer.write(step, "train", numbers, meter.read())
                check_finite(numbers, step, train.max_bad_steps)
                note = f"loss {float(numbers['loss']):.4g}"
            bar.update(waited, note)
            if metrics.due(step, train.validate_every) or last:
                writer.write(step, "validation", validator.numbers(run.state))
            if metrics.due(step, train.checkpoint_every) or last or stopping:
                runs.save(run, step)
            if metrics.due(step, train.picture_every) or last:
                validator.draw(run.state, writer, step)
            if stopping and not last:
                run.manager.wait_until_finished()
                bar.close()
                cli.say(
                    f"SIGTERM: saved step {step}; the same command goes on from there"
                )
                return PREEMPTED
    run.manager.wait_until_finished()
    bar.close()
    return 0


def check_finite(numbers, step, limit):
    """Ends the run after too many skipped steps; nothing of them was saved."""
    bad = int(numbers["bad_in_a_row"])
    if bad:
        cli.say(f"step {step}: the last {bad} steps were not finite and were skipped")
    if bad >= limit:
        raise FloatingPointError(
            f"step {step}: {bad} steps in a row had a loss, gradients or updates not "
            f"finite (train.max_bad_steps {limit}); the parameters are those of step "
            f"{step - bad}. Lower optim.lr, or look at the batches since then"
        )


@contextlib.contextmanager
def stop_on_sigterm():
    """An event that SIGTERM sets, so that the step in progress ends first."""
    stop = threading.Event()
    before = signal.signal(signal.SIGTERM, lambda *_: stop.set())
    try:
        yield stop
    finally:
        signal.signal(signal.SIGTERM, before)


def agreed(stop, step, every):
    """Whether to stop here. Several hosts must answer alike, so they ask each other."""
    if jax.process_count() == 1:
        return stop.is_set()
    if not metrics.due(step, every):
        return False
    flags_of_all = multihost_utils.process_allgather(jnp.int32(stop.is_set()))
    return bool(flags_of_all.any())


def main(argv):
    del argv
    # Until the loop takes over there is nothing to save: SIGTERM just ends it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(PREEMPTED))
    start_hosts()
    config = config_lib.check(CONFIG.value)
    sys.exit(train(config, WORKDIR.value))


if __name__ == "__main__":
    cli.run(main)
