"""From a config to batches: the one place where config and data pipeline meet."""

import contextlib
import dataclasses
import functools

import jax

from ldm_jax import names, paths
from ldm_jax.data import datasets, pipeline, tokenize


@functools.cache
def tokenizer(vocabulary, length, on_long="raise"):
    """The tokenizer of a config's vocabulary, read once in every process."""
    return tokenize.load_tokenizer(paths.resolve(vocabulary), length, on_long)


def words(section, on_long="raise"):
    """The tokenizer of a cond_stage section.

    Raises ValueError if `vocab` is not its size or `null_tokens` not its empty caption.
    """
    path = paths.resolve(section.vocabulary)
    if not path.is_file():
        raise FileNotFoundError(
            f"cond_stage.vocabulary names {path}, which does not exist"
        )
    found = tokenizer(section.vocabulary, section.length, on_long)
    if len(found) != section.vocab:
        raise ValueError(
            f"cond_stage.vocab is {section.vocab}, but {path} has {len(found)} word "
            "pieces, one a line: they must be equal"
        )
    empty, null = found([""])[0], list(section.null_tokens)
    if list(empty) != null + [0] * (section.length - len(null)):
        raise ValueError(
            f"cond_stage.null_tokens is {section.null_tokens}, but the empty caption "
            f"is {tuple(map(int, empty[empty > 0]))} in {path}: they must be equal"
        )
    return found


@dataclasses.dataclass(frozen=True)
class Prepare:
    """One example as the model is given it; picklable, for worker processes."""

    vocabulary: str  # "" where no caption is wanted
    length: int

    def __call__(self, example):
        if not self.vocabulary:
            return example
        tokens = tokenizer(self.vocabulary, self.length)([example["caption"]])
        return {**example, "tokens": tokens[0]}


def prepare(config):
    """The transform of a config's examples."""
    if config.task == "latent_diffusion" and config.cond_stage.kind == "text":
        words(config.cond_stage)
        return Prepare(config.cond_stage.vocabulary, config.cond_stage.length)
    return Prepare("", 0)


def source(config, split):
    """The examples of a config's data set: random access, deterministic."""
    make = names.pick(datasets.DATASETS, config.data.name)
    return make(split, config.seed, config.data.image_size)


def check(config):
    """Raises in words what `batches` would: an unknown data set or vocabulary."""
    names.pick(datasets.DATASETS, config.data.name)
    prepare(config)


def batches(config, keys, split="train", start=0):
    """A context manager of this host's batches of numpy arrays, from number `start`."""
    return contextlib.closing(
        pipeline.batches(
            source(config, split),
            keys,
            prepare(config),
            config.data.batch_size,
            start,
            jax.process_index(),
            jax.process_count(),
            config.data.workers,
        )
    )
