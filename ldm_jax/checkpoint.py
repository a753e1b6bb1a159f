"""Checkpoints: the whole train state and its meta data, in one folder for each step.

Orbax writes a step under another name and renames it when it is whole, so a run that
was killed while saving goes on from the step before. Orbax's API is the manager's (v0).
"""

import json
import logging
import pathlib

import jax
from jax.experimental import multihost_utils
from jax.sharding import SingleDeviceSharding
import orbax.checkpoint as ocp

from ldm_jax import trees

LOG = logging.getLogger(__name__)

# What a whole checkpoint has at least, relative to its folder.
FILES = ("_CHECKPOINT_METADATA", "state/_METADATA", "meta/metadata")


def open(folder, keep=3, read_only=False):
    """The manager of workdir/checkpoints: keeps the newest `keep` steps; close() it.

    Step folders that miss files (a copy that broke off, say) are set aside as
    'broken_<step>', so that the last good step is the latest again.
    """
    folder = pathlib.Path(folder).absolute()
    if read_only and not folder.is_dir():
        raise FileNotFoundError(f"no checkpoints folder {folder}")
    if not read_only and jax.process_index() == 0:
        _set_aside_broken(folder)
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("checkpoint.open")
    options = ocp.CheckpointManagerOptions(
        max_to_keep=None if read_only else keep,
        create=not read_only,
        read_only=read_only,
        cleanup_tmp_directories=not read_only,
    )
    handlers = {
        "state": ocp.StandardCheckpointHandler(),
        "meta": ocp.JsonCheckpointHandler(),
    }
    return ocp.CheckpointManager(folder, options=options, item_handlers=handlers)


def _set_aside_broken(folder):
    steps = [p for p in folder.glob("*") if p.is_dir() and p.name.isdigit()]
    for step in steps:
        missing = [name for name in FILES if not (step / name).is_file()]
        if missing:
            aside = step.with_name(f"broken_{step.name}")
            while aside.exists():
                aside = aside.with_name(f"{aside.name}_again")
            LOG.warning("checkpoint %s lacks %s: set aside", step, missing)
            step.rename(aside)


def save(manager, step, state, meta):
    """Saves in the background; returns when `state` may be changed or donated.

    meta: a JSON dict (config, data position, versions). A step that is there already is
    left alone. `manager.wait_until_finished()` waits for the files.
    """
    if step in manager.all_steps():
        return
    args = ocp.args.Composite(
        state=ocp.args.StandardSave(state), meta=ocp.args.JsonSave(meta)
    )
    if not manager.save(step, args=args, force=True):
        raise OSError(f"orbax did not save step {step} in {manager.directory}")


def latest(manager):
    """The newest step that was saved whole, or None."""
    return manager.latest_step()


def read_meta(manager, step):
    """The meta data of a step alone, as `save` was given it."""
    return json.loads((_folder(manager, step) / "meta" / "metadata").read_text())


def restore(manager, step, abstract_state):
    """(state, meta) of a step, each array straight into its sharding.

    abstract_state: the tree of jax.ShapeDtypeStruct; a leaf without a sharding goes to
    the first device. Raises ValueError listing what differs when the saved tree has
    other paths, shapes or dtypes (orbax would cast in silence).
    """
    folder = _folder(manager, step)
    saved = manager.item_metadata(step)["state"].tree
    names = ("the checkpoint", "the config's model")
    report = trees.differences(saved, abstract_state, *names)
    if report:
        raise ValueError(f"{folder} does not fit this config:\n{report}")
    args = ocp.args.StandardRestore(jax.tree.map(_placed, abstract_state))
    restored = manager.restore(step, args=ocp.args.Composite(state=args))
    return restored["state"], read_meta(manager, step)


def _folder(manager, step):
    manager.wait_until_finished()  # a step that is being saved is listed already
    folder = pathlib.Path(manager.directory) / str(step)
    if step not in manager.all_steps():
        steps = sorted(manager.all_steps())
        raise FileNotFoundError(f"no checkpoint {folder}; saved steps: {steps}")
    return folder


def _placed(leaf):
    sharding = leaf.sharding or SingleDeviceSharding(jax.local_devices()[0])
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)
