"""The tokenizers of configs, each read once in every process."""

import functools

from ldm_jax import paths
from ldm_jax.data import clip_tokenize, datasets, tokenize


@functools.cache
def _word_pieces(vocabulary, length, on_long):
    return tokenize.load_tokenizer(paths.resolve(vocabulary), length, on_long)


@functools.cache
def _byte_pairs(vocabulary, length, on_long, cleaning, words):
    path = paths.resolve(vocabulary)
    return clip_tokenize.load_tokenizer(path, length, on_long, cleaning, words)


def load(section, on_long="raise", own=()):
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


def of_training(config):
    """Captions of pictures that are read are anybody's: they are cut too."""
    section = config.cond_stage
    read = config.data.name in datasets.READ
    return load(section, "once" if read else SPOKEN[section.kind])
