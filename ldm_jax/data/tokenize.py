"""Word pieces of captions: lower-cased BERT tokens over a (reduced) vocabulary."""

import dataclasses
import functools
import pathlib
import warnings

import numpy as np
import tokenizers
from tokenizers import models, normalizers, pre_tokenizers

SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
BY_NAME = (*SPECIALS, "[MASK]")  # pieces that a text can name, if there are such


def check_on_long(on_long):
    if on_long not in ("raise", "warn", "once"):
        raise ValueError(f"on_long is 'raise', 'warn' or 'once', not {on_long!r}")


def tell_cut(count, room, lost, on_long, length=None):
    """ValueError, or a warning, that the end of a caption, `lost`, does not fit.

    on_long "once" warns of the first such caption of the process and of no other.
    length: of a tokenizer that would take the caption whole, if there can be one.
    """
    said = f"caption has {count} pieces, {room} fit; cut: {lost!r}"
    if on_long == "raise":
        more = f" to {length}" if length else ""
        raise ValueError(f"{said}. Shorten it or raise the text length{more}")
    if on_long == "once":
        _warn_once(room)
        return
    more = f"; a length of {length} takes more" if length else ""
    warnings.warn(f"{said}{more}", stacklevel=4)


@functools.cache
def _warn_once(room):
    """The same words for all captions, so that Python's own filter knows them too."""
    warnings.warn(
        f"captions of more than {room} pieces are cut, this is said once: raise the "
        "text length (cond_stage.length) to keep them whole",
        stacklevel=3,
    )


@dataclasses.dataclass(frozen=True)
class Tokenizer:
    """Captions -> rows of piece numbers: [CLS] pieces [SEP] [PAD] ...

    A caption of more than length - 2 pieces is an error that names the words that
    do not fit; with on_long="warn" they are cut with a warning instead, with "once" the
    warning is of the first such caption alone.
    """

    vocabulary: tuple
    length: int
    on_long: str = "raise"

    def __post_init__(self):
        missing = [name for name in SPECIALS if name not in self.vocabulary]
        if missing:
            raise ValueError(f"the vocabulary lacks {missing}")
        if len(set(self.vocabulary)) < len(self.vocabulary):
            raise ValueError("the vocabulary has a piece twice")
        check_on_long(self.on_long)
        if self.length < 3:
            raise ValueError(f"length {self.length} leaves no room for a word; use 3+")

    @functools.cached_property
    def _model(self):
        places = {piece: i for i, piece in enumerate(self.vocabulary)}
        word_pieces = models.WordPiece(places, unk_token="[UNK]")
        model = tokenizers.Tokenizer(word_pieces)
        model.normalizer = normalizers.BertNormalizer(lowercase=True)
        model.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        model.add_special_tokens([name for name in BY_NAME if name in places])
        return model

    @functools.cached_property
    def _special(self):
        return [self.vocabulary.index(name) for name in SPECIALS]

    def __len__(self):
        return len(self.vocabulary)

    def __call__(self, texts):
        """List of str -> int32 [n, length]."""
        pad, _, start, end = self._special
        rows = np.full((len(texts), self.length), pad, np.int32)
        for row, text in zip(rows, texts, strict=True):
            ids = [start, *self._fitting(text), end]
            row[: len(ids)] = ids
        return rows

    def _fitting(self, text):
        found = self._model.encode(text, add_special_tokens=False)
        room = self.length - 2
        if len(found.ids) > room:
            lost = text[found.offsets[room][0] :]
            tell_cut(len(found.ids), room, lost, self.on_long)
        return found.ids[:room]

    def pieces(self, text):
        """The pieces of a text as words, without [CLS] and [SEP]."""
        return self._model.encode(text, add_special_tokens=False).tokens

    def sentence(self, row):
        """The pieces of one row of numbers as text, without the padding."""
        pieces = [self.vocabulary[i] for i in row]
        while pieces and pieces[-1] == "[PAD]":
            pieces.pop()
        return " ".join(pieces).replace(" ##", "")

    def unknown(self, text):
        """The words of a text that the vocabulary cannot spell, in order."""
        found = self._model.encode(text, add_special_tokens=False)
        pairs = zip(found.tokens, found.offsets, strict=True)
        return [text[start:end] for piece, (start, end) in pairs if piece == "[UNK]"]


def load_tokenizer(vocab_path, length, on_long="raise"):
    """The tokenizer of a vocabulary file with one piece per line."""
    lines = pathlib.Path(vocab_path).read_text(encoding="utf-8").split("\n")
    pieces = tuple(lines[:-1] if lines[-1] == "" else lines)
    try:
        return Tokenizer(pieces, length, on_long)
    except ValueError as error:
        raise ValueError(f"{vocab_path}: {error}") from error
