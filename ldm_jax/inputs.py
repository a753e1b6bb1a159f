"""From a config to batches: the one place where config and data pipeline meet."""

import contextlib
import dataclasses
import functools

import jax
import ml_collections
import numpy as np

from ldm_jax import frozen, names, paths
from ldm_jax.data import clip_tokenize, datasets, latents, pipeline, tokenize


@functools.cache
def _word_pieces(vocabulary, length, on_long):
    return tokenize.load_tokenizer(paths.resolve(vocabulary), length, on_long)


@functools.cache
def _byte_pairs(vocabulary, length, on_long, cleaning, words):
    path = paths.resolve(vocabulary)
    return clip_tokenize.load_tokenizer(path, length, on_long, cleaning, words)


def words(section, on_long="raise", own=()):
    """The tokenizer of a cond_stage section, read once in every process.

    own: words of textual inversion, pairs (word, numbers). Raises ValueError if
    `vocab` is not its size or `null_tokens` not its empty caption.
    """
    path = paths.resolve(section.vocabulary)
    if not path.is_file():
        raise FileNotFoundError(
            f"cond_stage.vocabulary names {path}, which does not exist"
        )
    told = section.vocabulary, section.length, on_long
    if section.kind == "clip":
        found = _byte_pairs(*told, section.cleaning, own)
    else:
        found = _word_pieces(*told)
    if len(found) != section.vocab:
        raise ValueError(
            f"cond_stage.vocab is {section.vocab}, but {path} has {len(found)} word "
            "pieces: they must be equal"
        )
    if section.null_tokens:
        _check_null(section.null_tokens, [int(i) for i in found([""])[0]], path)
    return found


def _check_null(null, empty, path):
    """The empty caption is the null's tokens, and then one token to its end."""
    told, rest = tuple(empty[: len(null)]), set(empty[len(null) : 77])
    if told != null or len(rest) > 1:
        raise ValueError(
            f"cond_stage.null_tokens is {null}, but the empty caption begins with "
            f"{told} in {path}: they must be equal"
        )


# Kinds of cond_stage that read captions, and what a too long one is in training:
# `on_long` of their tokenizers. CLIP's captions are the web's, and cut as it did.
SPOKEN = {"text": "raise", "clip": "once"}


def _training_words(section):
    return words(section, SPOKEN[section.kind])


@dataclasses.dataclass(frozen=True)
class Prepare:
    """One example as the model is given it; picklable, for worker processes."""

    section: object  # a frozen cond_stage; None where no caption is wanted
    image_size: int = 0

    def __call__(self, example):
        if self.section is None:
            return example
        tokens = _training_words(self.section)([example["caption"]])[0]
        micro = sizes(self.section.micro, self.image_size)
        return {**example, "tokens": tokens, "micro": micro}


# What SDXL is told of a whole, uncut picture; the score is its refiner's default.
AESTHETIC = 6.0


def sizes(micro, image_size, aesthetic=AESTHETIC):
    """The numbers of cond_stage.micro for a picture that was not cut: float32 [n]."""
    told = {
        "original_size": (image_size, image_size),
        "crop": (0, 0),
        "target_size": (image_size, image_size),
        "aesthetic": (aesthetic,),
    }
    return np.array([x for name in micro for x in told[name]], np.float32)


def prepare(config):
    """The transform of a config's examples."""
    if config.task != "latent_diffusion" or config.cond_stage.kind not in SPOKEN:
        return Prepare(None)
    section = ml_collections.FrozenConfigDict(config.cond_stage)
    _training_words(section)
    return Prepare(section, config.data.image_size)


def source(config, split):
    """The examples of a config's data set: random access, deterministic.

    With data.latents those of training have what was kept of their latents in place of
    pictures, and are walked over again and again, each time in another order.
    """
    drawn = drawn_source(config, split)
    if split != "train" or not config.data.latents:
        return drawn
    folder = paths.resolve(config.data.latents)
    kept = latents.open_kept(folder, made_from(config, split))
    latents.check_examples(kept, drawn)
    return pipeline.shuffled(kept, config.seed)


def drawn_source(config, split):
    """`source` of the pictures themselves, data.latents or not."""
    make = names.pick(datasets.DATASETS, config.data.name)
    return make(split, config.seed, config.data.image_size)


def made_from(config, split):
    """What decides the latents of a config's pictures, as data.latents keeps it."""
    return {
        "data.name": config.data.name,
        "data.image_size": config.data.image_size,
        "seed": config.seed,
        "split": split,
        "first_stage.kind": config.first_stage.kind,
        "first_stage.weights": frozen.digest(config),
        "first_stage.dtype": config.first_stage.dtype,
    }


def check(config):
    """Raises in words what `batches` would: an unknown data set or vocabulary."""
    names.pick(datasets.DATASETS, config.data.name)
    prepare(config)
    if config.data.latents:
        source(config, "train")


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
