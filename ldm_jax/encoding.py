"""A data set's pictures through the first stage, once, into a folder of latents.

Captions may go through a text encoder that is not trained, too.
"""

import contextlib
import dataclasses
import itertools
import pathlib
import time

import jax
import numpy as np

from ldm_jax import config as config_lib
from ldm_jax import first_stage, frozen, inputs, kept_texts, pictures, sharding
from ldm_jax import system as system_lib
from ldm_jax.data import datasets, latents, pipeline, shards

REST = "rest"  # of a batch: the end of each record, what is neither picture nor map


@dataclasses.dataclass(frozen=True)
class Rows:
    """Chosen examples of a source, as a source; picklable."""

    source: object
    indices: np.ndarray

    def __len__(self):
        return len(self.indices)

    def __getitem__(self, index):
        return self.source[int(self.indices[index])]


@dataclasses.dataclass(frozen=True)
class Parts:
    """(example, rng) -> what is to be encoded, and REST; picklable, for workers."""

    tell: inputs.Prepare  # what an encoder of texts reads
    fields: tuple  # of the data set

    def __call__(self, example, rng):
        # An object: the records' lengths differ, and so no array of numbers has them.
        rest = np.array(latents.pack(self.fields, example), object)
        return {**self.tell(example, rng), REST: rest}


def checked(config, folder, texts):
    """The config that would train from the folder; ValueError where none could.

    data.texts says whether texts are kept: where they are asked for or read.
    """
    config = config.copy_and_resolve_references()
    config.data.update(latents=str(folder), texts=texts or config.data.texts)
    return config_lib.check(config)


def asked(config, split, n, there):
    """n, or all that are there; ValueError where there are fewer, or no end."""
    if n is None and config.data.name in datasets.DRAWN:
        raise ValueError(f"data.name {config.data.name!r} has no end: say --n")
    if n is not None and n > there:
        raise ValueError(f"--n={n} is more than the {there} examples of {split}")
    return there if n is None else n


def beside(example, image_size):
    """{name: value} of what is kept with the latents: all that is no picture or map."""
    square = (image_size, image_size)
    return {
        name: value
        for name, value in example.items()
        if isinstance(value, str) or np.shape(value)[:2] != square
    }


def narrowed(name, array, dtype):
    """Latents as they are kept. Raises ValueError where a number does not fit."""
    if not np.isfinite(array).all():
        raise ValueError(f"{name} is not finite: look at the weights that encode it")
    with np.errstate(over="ignore"):
        narrow = array.astype(dtype)
    if not np.isfinite(narrow).all():
        raise ValueError(
            f"{name} reaches {np.abs(array).max():.4g}, more than {dtype} can hold: "
            "take --dtype=float32 and another folder"
        )
    return narrow


@dataclasses.dataclass(frozen=True)
class Encoder:
    """What is kept of a batch of pictures, and of captions where config says so."""

    kept: object  # jitted: (params, batch) -> {name: array}
    params: dict
    mesh: jax.sharding.Mesh
    dtype: str
    inputs: tuple  # names of what it reads of a batch

    def arrays(self, batch):
        """{name: array as it is kept} of a batch of numpy arrays."""
        batch = {name: batch[name] for name in self.inputs}
        batch = jax.device_put(batch, sharding.batch_sharding(self.mesh))
        found = jax.device_get(self.kept(self.params, batch))
        return {name: narrowed(name, x, self.dtype) for name, x in found.items()}


def make_encoder(config, system, dtype):
    """The Encoder of a config's frozen parts, on this host's devices."""
    mesh = sharding.make_mesh(devices=jax.local_devices())
    params, texts = frozen.load(config, system), config.data.texts
    if texts:
        params["cond_stage"] = frozen.start(config, system)[1]["cond_stage"]

    @jax.jit
    def kept(params, batch):
        x = pictures.to_float(batch["image"])
        found = first_stage.kept(system.posterior(params, x))
        if texts:
            found |= kept_texts.kept(system.condition(params, batch))
        return found

    params = sharding.put_tree(params, mesh, "reading what encodes")
    names = tuple(system.heldout) if texts else ("image",)
    return Encoder(kept, params, mesh, dtype, names)


def fields_of(config, system, example, dtype):
    """The fields of a record: (what is encoded, what the data set says beside it)."""
    encoded = [
        latents.Field(name, dtype, x.shape[1:])
        for name, x in system.batch.items()
        if first_stage.is_kept(name) or kept_texts.is_kept(name)
    ]
    kept = beside(example, config.data.image_size)
    clash = {field.name for field in encoded} & kept.keys()
    if clash:
        raise ValueError(f"the data set has arrays that are called {sorted(clash)} too")
    counted = datasets.COUNTED if config.data.name in datasets.READ else ()
    own = [latents.field_of(name, x, name in counted) for name, x in kept.items()]
    return tuple(encoded), tuple(own)


def records(encoder, fields, batches):
    """Yields the bytes of one record after another; fields: those that are encoded."""
    for batch in batches:
        columns = encoder.arrays(batch)
        for row, rest in enumerate(batch[REST]):
            example = {field.name: columns[field.name][row] for field in fields}
            yield latents.pack(fields, example) + rest


def padded(rows, batch_size):
    """A range and its last number again, up to whole batches.

    So every shard has its own batches, and the same bytes whichever were there before.
    """
    rows = np.array(rows)
    return np.pad(rows, (0, -len(rows) % batch_size), "edge")


def missing(folder, about, host, hosts):
    """The shards that a host has to write; those that are there must be whole."""
    found = []
    for shard in range(host, latents.shard_count(about), hosts):
        path = latents.shard_path(folder, about, shard)
        if path.exists():
            shards.check(path, len(latents.rows(about, shard)))
        else:
            found.append(shard)
    return found


def encode(config, folder, n, split, shard, dtype, batch_size, progress, texts=False):
    """Fills a folder with the latents of a split's first n examples; None: of all.

    shard: examples of a file; batch_size: pictures at once, a multiple of this host's
    devices; progress: (total) -> bar; texts: keep what is said of captions too. Of
    several hosts each writes its part. Returns {pictures, written, files, bytes,
    seconds}, all but the first this host's own.
    """
    began = time.perf_counter()
    folder = pathlib.Path(folder)
    config = checked(config, folder, texts)
    inputs.check_pack(config)
    source = inputs.square_source(config, split)
    n = asked(config, split, n, len(source))
    told = {"texts": {}, **inputs.made_from(config, split)}
    told |= {"n": n, "shard": shard, "dtype": dtype}
    system = system_lib.build(config)
    encoder = make_encoder(config, system, dtype)
    fields, own = fields_of(config, system, source[0], dtype)
    about = latents.begin(folder, told, fields + own)
    todo = missing(folder, about, jax.process_index(), jax.process_count())
    parts = {
        latents.shard_path(folder, about, i): padded(latents.rows(about, i), batch_size)
        for i in todo
    }
    rows = np.concatenate([np.zeros(0, int), *parts.values()])
    parts_of = Parts(inputs.speech(config), own)
    batches = pipeline.batches(
        *(Rows(source, rows), (*encoder.inputs, REST), parts_of, batch_size, 0, 0, 1),
        config.data.workers,
    )
    with contextlib.closing(batches):
        counts = [len(latents.rows(about, i)) for i in todo]
        write(records(encoder, fields, batches), parts, counts, progress)
    return {
        "pictures": n,
        "written": sum(counts),
        "files": len(todo),
        "bytes": sum(path.stat().st_size for path in parts),
        "seconds": time.perf_counter() - began,
    }


def wait_for_all(folder):
    """Returns once the shards of all hosts are there.

    JAX ends a host that waits at its exit for minutes, and all others with it; parts
    of a folder that was there already are unequal.
    """
    about = latents.read_about(folder)
    paths = latents.shard_paths(folder, about)
    while not all(path.exists() for path in paths):
        time.sleep(1)


def write(stream, parts, counts, progress):
    """Fills the files of `parts`, {path: rows}, with the first `count` rows of each."""
    with progress(sum(counts)) as bar:
        for (path, rows), count in zip(parts.items(), counts, strict=True):
            shards.write(path, counted(stream, count, bar), count)
            for _ in itertools.islice(stream, len(rows) - count):
                pass  # the last batch was filled up


def counted(stream, count, bar):
    """The next `count` of a stream, each told to a bar."""
    for item in itertools.islice(stream, count):
        yield item
        bar.update()
