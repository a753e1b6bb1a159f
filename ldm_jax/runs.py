"""A run: what a workdir holds, made new or restored from its newest checkpoint."""

import dataclasses
import json
import pathlib

import jax
import numpy as np

from ldm_jax import (
    checkpoint,
    cli,
    config_rules,
    config_saved,
    frozen,
    inputs,
    knobs,
    optim,
    paths,
    sharding,
    train_step,
    trees,
)
from ldm_jax import system as system_lib
from ldm_jax.weights import own

BY_HASH = ("first_stage.weights", "train.init", "control.init")  # files
# The sections that decide what trained parameters mean.
MODEL = ("schedule", "first_stage", "cond_stage", "judge", "unet", "control", "loss")


@dataclasses.dataclass
class Run:
    """What the loop needs. `state` alone changes."""

    config: object
    system: system_lib.System
    mesh: jax.sharding.Mesh
    state: train_step.TrainState
    frozen: dict
    manager: object
    start: int  # global batches that were consumed before this process


def optimizer(config):
    return optim.make(config.optim), optim.learning_rate(config.optim)


def initial_state(config, system):
    """(rng) -> TrainState, for eval_shape and for jit with shardings."""

    def init(rng):
        params = system.init(rng)
        trees.check_patterns(params, config.train.trainable, "train.trainable")
        return state_of(config, system, params)

    return init


def state_of(config, system, params):
    """The TrainState before the first step on parameters of which a part is trained."""
    trained, _ = trees.split(params, config.train.trainable)
    extra = system.init_extra(params)
    tx, _ = optimizer(config)
    averaged = bool(config.train.ema_decay or config.train.ema_std)
    return train_step.init_state(trained, extra, tx, averaged)


def prepare(config, workdir):
    """Everything before the first step; fails in words before it allocates."""
    system = system_lib.build(config)
    inputs.check(config)
    if system.sample:
        jax.eval_shape(lambda: knobs.of(config))  # of a grid that has such steps
        sample = config.sample
        if sample.guide or sample.branches or sample.strength < 1:
            raise ValueError(
                "training draws from noise by the model alone: sample.guide must be '' "
                f"(not {sample.guide!r}), sample.branches () (not {sample.branches}) "
                f"and sample.strength 1 (not {sample.strength})"
            )
    mesh = sharding.make_mesh(config.parallel.fsdp)
    hosts, parts = jax.process_count(), config.train.accumulate
    sharding.check_batch(config.data.batch_size, mesh, hosts, parts)
    given, rest = frozen.start(config, system)
    held = config.train.frozen_dtype
    if held != "float32" and not rest:
        raise ValueError(
            f"train.frozen_dtype {held!r} does nothing: all that train.init brings is "
            f"of train.trainable {config.train.trainable}; it must be 'float32'"
        )
    rest = frozen.narrowed(rest, held)
    _tell_bases(config)
    loaded = trees.merge(frozen.load(config, system), rest)

    init = initial_state(config, system)
    shapes = jax.eval_shape(init, jax.random.key(config.seed))
    check_frozen(config, system, shapes.params, loaded)
    places = sharding.params_sharding(shapes, mesh)
    manager = checkpoint.open(
        pathlib.Path(workdir) / "checkpoints", config.train.keep_checkpoints
    )
    step = checkpoint.latest(manager)
    if step is None:
        state, start = _first_state(config, system, mesh, given, places), 0
    else:
        state, meta = checkpoint.restore(manager, step, placed(shapes, places))
        warn_of_changes(config, meta["config"])
        check_files(config, workdir, meta)
        start = meta["next_batch"]
        cli.say(f"restored step {step} from {workdir}")
    loaded = sharding.put_tree(loaded, mesh, "reading what is frozen", widen=False)
    return Run(config, system, mesh, state, loaded, manager, start)


def _tell_bases(config):
    """Says which branches of control.init were trained over another base."""
    base = frozen.digest_of_start(config)
    for named in filter(None, config.control.init if "control" in config else ()):
        _, _, meta = frozen.open_branch(paths.resolve(named))
        if meta.get("base", base) != base:
            cli.say(
                f"control.init {named} was trained over {meta['base']}, train.init is "
                f"{base}: ldm_jax.convert --transfer carries a branch over"
            )


def _first_state(config, system, mesh, given, places):
    """The state on parameters that were given, and on drawn ones where none were."""

    def begin(given, rng):
        drawn = trees.flatten(system.init(rng))
        params = trees.nested(drawn | trees.flatten(given))
        return state_of(config, system, params)

    given = sharding.put_tree(given, mesh, "reading train.init")
    start = jax.jit(begin, out_shardings=places, donate_argnums=0)
    return start(given, jax.random.key(config.seed))


def placed(shapes, places):
    """Shapes that say where their arrays are to lie."""
    return jax.tree.map(
        lambda s, place: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=place),
        shapes,
        places,
    )


def check_frozen(config, system, trained, loaded):
    """Every parameter is trained or loaded: none stays as it was drawn."""
    everything = trees.flatten(jax.eval_shape(system.init, jax.random.key(0)))
    trained, loaded = trees.flatten(trained).keys(), trees.flatten(loaded).keys()
    if trained & loaded:
        raise ValueError(
            f"train.trainable {config.train.trainable} covers {len(trained & loaded)} "
            f"parameters that are loaded from a file: {sorted(trained & loaded)[:6]}"
        )
    missing = everything.keys() - trained - loaded
    if missing:
        raise ValueError(
            f"{len(missing)} parameters are neither in train.trainable "
            f"{config.train.trainable} nor loaded: {sorted(missing)[:6]}. Train them, "
            "or name a file that holds them as train.init"
        )


def check_files(config, workdir, meta):
    """Raises ValueError where the run was made with other files of weights."""
    now, then = frozen.digest(config), meta["first_stage"]
    if now != then:
        raise ValueError(
            f"the run in {workdir} was trained on the latents of first stage {then}; "
            f"first_stage.weights {config.first_stage.weights} is now {now}"
        )
    now, then = frozen.digest_of_start(config), meta.get("init", "")
    if now != then:
        raise ValueError(
            f"the run in {workdir} began with train.init {then or 'empty'}; "
            f"{config.train.init or 'without a file it'} is {now or 'empty'}: give "
            "--config.train.init as it was"
        )
    now, then = frozen.digests_of_branches(config), meta.get("branches", [])
    if now != then:
        raise ValueError(
            f"the run in {workdir} began with branches of {then}; control.init "
            f"{config.control.init} is now of {now}: give --config.control.init and "
            "its files as they were"
        )


def warn_of_changes(config, saved, sections=None):
    """Names the knobs that differ from those that parameters were trained with.

    saved: the JSON of the config then, perhaps of an older base; sections: the only
    ones that count.
    """
    joined = config.task == "latent_diffusion" and config.sample.branches
    both = (config.to_dict(), config_saved.completed(json.loads(saved)))
    now, then = (config_rules.flat(tree) for tree in both)
    for key in sorted(now.keys() | then.keys()):
        counts = sections is None or key.split(".")[0] in sections
        counts = counts and key not in BY_HASH
        # What is joined when sampling was trained by itself, with its own `control`.
        counts = counts and not (joined and key.startswith("control."))
        if counts and now.get(key) != then.get(key):
            cli.say(f"{key} is {now.get(key)!r}; it was trained with {then.get(key)!r}")


def about(config, step):
    """What a checkpoint says beside the state; `next_batch` is the data's position."""
    return {
        "config": config_saved.to_json(config),
        "first_stage": frozen.digest(config),
        "init": frozen.digest_of_start(config),
        "branches": frozen.digests_of_branches(config),
        "next_batch": step,
        "versions": {"jax": jax.__version__, "numpy": np.__version__},
    }


def save(run, step):
    """One checkpoint with all that the next process needs, in the background."""
    checkpoint.save(run.manager, step, run.state, about(run.config, step))


def _opened(workdir, step=None):
    """(manager, step) of a run's checkpoint, to read from: its newest unless named."""
    folder = pathlib.Path(workdir) / "checkpoints"
    manager = checkpoint.open(folder, read_only=True)
    steps = sorted(manager.all_steps())
    if not steps:
        raise FileNotFoundError(f"{folder} holds no checkpoint")
    if step is not None and step not in steps:
        raise FileNotFoundError(
            f"{folder} holds no checkpoint of step {step}; there are {steps}"
        )
    return manager, steps[-1] if step is None else step


def as_trained(config, workdir, step=None):
    """The config with those sections as a run was made that only its training reads."""
    manager, step = _opened(workdir, step)
    then = json.loads(checkpoint.read_meta(manager, step)["config"])
    manager.close()
    then = config_saved.completed(then)
    trained = config.copy_and_resolve_references()
    beside = ("optim", "train", "loss", "discriminator")
    trained.update({key: then[key] for key in beside if key in then})
    trained.train.init = config.train.init  # the file may have moved since
    return trained


def latest_params(config, workdir, step=None):
    """(parameters, step) of a run's newest checkpoint: the average if there is one.

    step: take the checkpoint of that step instead; FileNotFoundError lists the others.
    """
    system = system_lib.build(config)
    as_saved = as_trained(config, workdir, step)
    manager, step = _opened(workdir, step)
    init = initial_state(as_saved, system_lib.build(as_saved))
    shapes = jax.eval_shape(init, jax.random.key(0))
    mesh = sharding.make_mesh(config.parallel.fsdp)
    places = sharding.params_sharding(shapes, mesh)
    state, meta = checkpoint.restore(manager, step, placed(shapes, places))
    manager.close()
    warn_of_changes(config, meta["config"], MODEL)
    check_files(config, workdir, meta)
    _, rest = frozen.start(as_saved, system)
    rest = sharding.put_tree(rest, mesh, "reading what was frozen")
    return trees.merge(state.ema or state.params, rest), step


def label(params, workdir, step):
    """What pictures say they were made with: the parameters' hash, and which run."""
    return f"{own.digest_of(params)} ({workdir} step {step})"
