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


@dataclasses.dataclass(frozen=True)
class Prepare:
    """One example as the model is given it; picklable, for worker processes."""

    vocabulary: str  # "" where no caption is wanted
    length: int

    def __call__(self, example):
        if not self.vocabulary:
            return example
        words = tokenizer(self.vocabulary, self.length)
        return {**example, "tokens": words([example["caption"]])[0]}


def prepare(config):
    """The transform of a config's examples."""
    if config.task == "latent_diffusion" and config.cond_stage.kind == "text":
        return Prepare(config.cond_stage.vocabulary, config.cond_stage.length)
    return Prepare("", 0)


def source(config, split):
    """The examples of a config's data set: random access, deterministic."""
    make = names.pick(datasets.DATASETS, config.data.name)
    return make(split, config.seed, config.data.image_size)


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
