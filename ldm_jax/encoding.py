"""A data set's pictures through the first stage, once, into a folder of latents."""

import contextlib
import dataclasses
import itertools
import pathlib
import time

import jax
import numpy as np

from ldm_jax import config as config_lib
from ldm_jax import first_stage, frozen, inputs, pictures, sharding
from ldm_jax import system as system_lib
from ldm_jax.data import latents, pipeline, shards


@dataclasses.dataclass(frozen=True)
class Rows:
    """Chosen examples of a source, as a source; picklable."""

    source: object
    indices: np.ndarray

    def __len__(self):
        return len(self.indices)

    def __getitem__(self, index):
        return self.source[int(self.indices[index])]


def checked(config, folder):
    """The config that would train from the folder; ValueError where none could."""
    config = config.copy_and_resolve_references()
    config.data.latents = str(folder)
    return config_lib.check(config)


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
        raise ValueError(f"{name} is not finite: look at the first stage's weights")
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
    """What turns a batch of examples into records: its pictures become latents."""

    posterior: object  # jitted: (params, uint8 pictures) -> {name: array}
    params: dict
    mesh: jax.sharding.Mesh
    dtype: str

    def moments(self, image):
        """{name: array as it is kept} of uint8 pictures [B, S, S, 3]."""
        image = jax.device_put(image, sharding.batch_sharding(self.mesh))
        found = jax.device_get(self.posterior(self.params, image))
        return {name: narrowed(name, x, self.dtype) for name, x in found.items()}


def make_encoder(config, dtype):
    """The Encoder of a config's first stage, on this host's devices."""
    system = system_lib.build(config)
    mesh = sharding.make_mesh(devices=jax.local_devices())
    params = jax.device_put(frozen.load(config, system), sharding.replicated(mesh))

    @jax.jit
    def posterior(params, image):
        return first_stage.kept(system.posterior(params, pictures.to_float(image)))

    return Encoder(posterior, params, mesh, dtype)


def fields_of(config, example, dtype):
    """The fields of a record: the latents', and those of an example of the data set."""
    system = system_lib.build(config)
    latent = jax.eval_shape(
        lambda params, image: system.posterior(params, pictures.to_float(image)),
        jax.eval_shape(system.init, jax.random.key(0)),
        jax.ShapeDtypeStruct((1, *example["image"].shape), "uint8"),
    )
    shapes = {name: x.shape[1:] for name, x in first_stage.kept(latent).items()}
    kept = beside(example, config.data.image_size)
    clash = shapes.keys() & kept.keys()
    if clash:
        raise ValueError(f"the data set has arrays that are called {sorted(clash)} too")
    found = [latents.Field(name, dtype, shape) for name, shape in shapes.items()]
    return found + [latents.field_of(name, value) for name, value in kept.items()]


def records(encoder, fields, batches):
    """Yields the bytes of one record after another."""
    for batch in batches:
        columns = batch | encoder.moments(batch["image"])
        for row in range(len(batch["image"])):
            example = {field.name: columns[field.name][row] for field in fields}
            yield latents.pack(fields, example)


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


def encode(config, folder, n, split, shard, dtype, batch_size, progress):
    """Fills a folder with the latents of a split's first n examples.

    shard: examples of a file; batch_size: pictures at once, a multiple of this host's
    devices; progress: (total) -> bar. Of several hosts each writes its part. Returns
    {pictures, written, files, bytes, seconds}, all but the first this host's own.
    """
    began = time.perf_counter()
    folder = pathlib.Path(folder)
    config = checked(config, folder)
    source = inputs.drawn_source(config, split)
    if n > len(source):
        raise ValueError(f"--n={n} is more than the {len(source)} examples of {split}")
    told = inputs.made_from(config, split) | {"n": n, "shard": shard, "dtype": dtype}
    encoder = make_encoder(config, dtype)
    fields = fields_of(config, source[0], dtype)
    about = latents.begin(folder, told, fields)
    todo = missing(folder, about, jax.process_index(), jax.process_count())
    parts = {
        latents.shard_path(folder, about, i): padded(latents.rows(about, i), batch_size)
        for i in todo
    }
    rows = np.concatenate([np.zeros(0, int), *parts.values()])
    own = [field.name for field in fields if not first_stage.is_kept(field.name)]
    batches = pipeline.batches(
        *(Rows(source, rows), ("image", *own), None, batch_size, 0, 0, 1),
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
