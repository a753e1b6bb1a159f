"""Models ready to sample from, and pictures out of them, batch by batch."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np

from ldm_jax import (
    cli,
    config_saved,
    frozen,
    joining,
    knobs,
    names,
    paths,
    runs,
    sharding,
    trees,
)
from ldm_jax import config as config_lib
from ldm_jax import system as system_lib
from ldm_jax.exchange import opening, plans, transfer
from ldm_jax.weights import own

EMBEDDED = "demo:text_to_image.safetensors"


@dataclasses.dataclass(frozen=True)
class Model:
    """A system and its parameters, on the devices."""

    config: object
    system: system_lib.System
    params: dict
    weights: str  # the hash of the file, or of a run's parameters, and which run
    mesh: jax.sharding.Mesh
    words: tuple = ()  # of textual inversion: pairs (word, its numbers)


def load(config=None, workdir=None, weights=None, overrides=()):
    """The Model of a run, or of a weights file: the embedded one unless named.

    Arguments as of `configured`.
    """
    config = configured(config, workdir, weights, overrides)
    if workdir is not None:
        return from_run(config, workdir)
    return from_file(config, EMBEDDED if weights is None else weights)


def configured(config=None, workdir=None, weights=None, overrides=()):
    """The checked config to sample with.

    config: None takes the one in the weights file; overrides as of `overridden`.
    """
    if workdir is not None and weights is not None:
        raise ValueError("--workdir and --weights exclude each other: name one of them")
    if workdir is not None and config is None:
        raise ValueError("--workdir needs the --config that the run was made with")
    weights = EMBEDDED if weights is None else weights
    whole = config is None or workdir is not None  # its branches are in the parameters
    config = config_of(weights) if config is None else config
    if whole:
        joining.check_free(config, dict(overrides))
    return overridden(config, overrides)


def overridden(config, overrides):
    """The checked config with {"section.key": value}; None keeps what it says.

    A key without a section is one of `sample`.
    """
    if config.task != "latent_diffusion":
        raise ValueError(f"task {config.task!r} does not sample; latent_diffusion does")
    given = {
        key if "." in key else f"sample.{key}": value
        for key, value in dict(overrides).items()
        if value is not None
    }
    for key in given:
        section, name = key.split(".", 1)
        names.pick(names.pick(config, section), name)  # a misspelt one is told
    config.update_from_flattened_dict(given)
    return config_lib.check(config)


def config_of(weights=EMBEDDED):
    """The config that a weights file was written with; see `beside`."""
    path = paths.resolve(weights)
    _, config, meta = own.open_weights(path)
    return beside(config_saved.from_dict(config), path, meta)


def beside(config, path, meta):
    """The config whose first stage is found: named, or beside the weights file."""
    if config.task != "latent_diffusion" or "first_stage" not in meta:
        return config
    if config.first_stage.kind != "identity":
        named, wanted = config.first_stage.weights, meta["first_stage"]
        config.first_stage.weights = str(frozen.located(named, path.parent, wanted))
    return config


def from_file(config, weights=EMBEDDED):
    """The Model of a .safetensors that `ldm_jax.export` or `.convert` wrote.

    Raises ValueError where the file fits neither the config nor its first stage.
    """
    path = paths.resolve(weights)
    source, saved, meta = own.open_weights(path)
    if "first_stage" not in meta:
        raise ValueError(f"{path} holds no diffusion model of ldm_jax")
    config = beside(config, path, meta)
    stage = frozen.digest(config)
    if stage != meta["first_stage"]:
        raise ValueError(
            f"{path} was trained on the latents of first stage {meta['first_stage']}, "
            f"but first_stage.weights {config.first_stage.weights} is {stage}"
        )
    runs.warn_of_changes(config, json.dumps(saved), runs.MODEL)
    params = trees.nested(source.tensors)
    label = own.digest(path)
    return _model(config, params, label, str(path), base=label)


def from_run(config, workdir, step=None):
    """The Model of a run's checkpoint, its newest or that of a step.

    Of averaged weights if it keeps them.
    """
    params, step = runs.latest_params(config, workdir, step)
    return _model(config, params, runs.label(params, workdir, step), str(workdir))


def _model(config, params, weights, name, base=""):
    """params: arrays or weights.tensors.Tensor, all but the first stage."""
    system = system_lib.build(config)
    stage = frozen.load(config, system)
    return _placed(config, system, trees.merge(params, stage), weights, name, base)


def _placed(config, system, params, weights, name, base=""):
    """The Model on this host's devices: hosts do not wait for each other.

    base: what branches that were trained over it call it.
    """
    mesh = sharding.make_mesh(config.parallel.fsdp, jax.local_devices())
    shapes = jax.eval_shape(system.init, jax.random.key(0))
    if config.sample.guide:
        shapes = shapes | {"guide": shapes["unet"]}
        params = params | {"guide": joining.guide(config)}
    if config.sample.branches:
        params = params | joining.branches(config, shapes, base)
    params = {role: params.get(role, {}) for role in {**shapes, **params}}
    own.check_tree(jax.tree.map(own.as_read, params), shapes, name)
    params = sharding.put_tree(params, mesh, "reading")
    return Model(config, system, params, weights, mesh)


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A released file or folder with its config and what is read of it, all later."""

    opened: opening.Opened
    config: object
    plan: plans.Plan
    average: bool = False  # whether the plan reads it


def open_checkpoint(path, config=None, overrides=(), variant=None, average=False):
    """The Checkpoint at a path; see opening.open_path and .plan.

    config: None takes the shipped one that goes with the file.
    """
    opened = opening.open_path(path, variant)
    if not opened.found.base or opened.found.parts:
        raise ValueError(
            f"{opened.path} is {opened.found.what}: it cannot be sampled from by itself"
        )
    config = overridden(opening.config_of(opened, config), overrides)
    plan = opening.plan(opened, config, average, control=False)
    opening.tell(opened, plan, cli.say, average)
    return Checkpoint(opened, config, plan, average)


def from_checkpoint(checkpoint):
    """The Model of an open Checkpoint, each array straight to its devices.

    The first stage is the one that first_stage.weights names, if it names any.
    """
    config = checkpoint.config
    system = system_lib.build(config)
    params = trees.nested(plans.tensors_of(checkpoint.plan))
    if config.first_stage.weights:
        params |= frozen.load(config, system)
    label = opening.digest(checkpoint.opened) + " averaged" * checkpoint.average
    return _placed(config, system, params, label, str(checkpoint.opened.path))


def chosen(
    config, workdir, weights, checkpoint, overrides, check, variant=None, average=False
):
    """The Model of a run, a file of ours or a released one, whichever is named.

    check: (config) raises before anything is read; the rest as of `configured` and
    `open_checkpoint`.
    """
    ours = checkpoint and transfer.file_of_ours(checkpoint)
    if (average or variant) and (ours or not checkpoint):
        raise ValueError("--average and --variant are of a released --checkpoint")
    if checkpoint and (workdir or weights):
        raise ValueError("--checkpoint excludes --workdir and --weights: name one")
    if ours or not checkpoint:
        weights = ours or (weights and transfer.file_of_ours(weights)) or weights
        config = configured(config, workdir, weights, overrides)
        check(config)
        return load(config, workdir, weights)
    released = open_checkpoint(checkpoint, config, overrides, variant, average)
    check(released.config)
    return from_checkpoint(released)


def keys(seed, indices):
    """One key per picture, from its seed and its global index alone.

    seed: one of all, or [n].
    """
    seeds, indices = np.broadcast_arrays(np.asarray(seed, np.uint32), indices)
    return jax.vmap(lambda s, i: jax.random.fold_in(jax.random.key(s), i))(
        seeds, indices
    )


@dataclasses.dataclass(frozen=True)
class Keys:
    """`keys`, made as they are read: any number of them, in the shapes of a batch."""

    seed: int
    indices: np.ndarray

    def __len__(self):
        return len(self.indices)

    def __getitem__(self, places):
        return keys(self.seed, self.indices[places])


def generate(model, batch, seeds, batch_size):
    """Yields x [b, H, W, 3], float32 in about [-1, 1], b <= batch_size, in order.

    batch: dict of numpy arrays [n, ...] (what the conditioner reads; {} without a
    condition); seeds: [n] typed keys, or Keys. The last batch is padded, so that one
    compiled program serves all, in later calls too. See `stream`.
    """
    count = len(seeds)

    def parts():
        for start in range(0, count, batch_size):
            place = np.minimum(np.arange(start, start + batch_size), count - 1)
            yield {name: values[place] for name, values in batch.items()}, seeds[place]

    for number, x in enumerate(stream(model, parts(), batch_size)):
        yield x[: count - number * batch_size]


def stream(model, parts, batch_size):
    """Yields x [batch_size, H, W, 3], float32 in about [-1, 1], for each of `parts`.

    parts: pairs of a batch {name: [batch_size, ...]} and typed keys [batch_size].
    The device is always given the next part before the pictures of the last one are
    waited for. Raises ValueError if batch_size does not divide over devices.
    """
    mesh = model.mesh
    if batch_size % mesh.size:
        raise ValueError(
            f"batch_size {batch_size} must be a multiple of the number of devices, "
            f"{mesh.size}"
        )
    rows, told = sharding.batch_sharding(mesh), knobs.of(model.config)
    draw = jax.jit(model.system.draw, out_shardings=rows)  # jax knows it the next time
    last = None
    for part in parts:
        batch, seeds = jax.device_put(part, rows)
        z_0 = draw(model.params, seeds, batch, told)
        pictures = _develop(model, z_0, batch)
        if last is not None:
            yield _fetched(last, batch_size)
        last = pictures
    if last is not None:
        yield _fetched(last, batch_size)


def _develop(model, z_0, batch):
    """x of a batch in parts of `sample.decode_batch`; the last one may overlap."""
    rows, size = sharding.batch_sharding(model.mesh), len(z_0)
    batch = {name: batch[name] for name in ("image", "mask") if name in batch}
    develop = jax.jit(model.system.develop, out_shardings=rows)
    at_once = model.config.sample.decode_batch or size
    at_once = min(sharding.whole_batch(at_once, model.mesh.size), size)
    if at_once == size:
        return [develop(model.params, z_0, batch)]
    return [
        develop(model.params, *jax.device_put(_slice((z_0, batch), at, at_once), rows))
        for at in range(0, size, at_once)
    ]


@functools.partial(jax.jit, static_argnums=2)
def _slice(tree, at, length):
    """Rows at .. at + length of every array; the last one stands for those beyond."""
    place = jnp.arange(length) + at
    return jax.tree.map(lambda x: jnp.take(x, place, axis=0, mode="clip"), tree)


def _fetched(parts, size):
    return np.concatenate(jax.device_get(parts))[:size]
