"""Byte pairs of CLIP: prompts, long ones in chunks, emphasis and words of one's own.

The pieces are numbered as in OpenAI's bpe_simple_vocab_16e6: 256 bytes, 256 bytes that
end a word, the merges, the start and the end.
"""

import collections.abc
import dataclasses
import functools
import gzip
import html
import itertools
import pathlib
import re
import zlib

import ftfy
import numpy as np
import tokenizers
from tokenizers import models, normalizers, pre_tokenizers

from ldm_jax import names
from ldm_jax.data import emphasis, tokenize

CHUNK = 77  # positions that CLIP's text encoder reads at once
ROOM = CHUNK - 2
NEAR = 20  # the last comma of a chunk is a place to break if so near its end
MERGES = 48_894
GZIP = b"\x1f\x8b"
WORD_END = "</w>"
WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"

Piece = collections.namedtuple("Piece", "id name place last weight")
Piece.__doc__ = "`place`: where it starts in the text; `last`: whether it ends a word."


@dataclasses.dataclass(frozen=True)
class Cleaning:
    """What one implementation of the tokenizer does to a text before the merges.

    `special` matches what is read as the start or the end, by name, in a text.
    """

    text: collections.abc.Callable
    normalizer: normalizers.Normalizer
    splits: pre_tokenizers.PreTokenizer
    start: str
    special: str


def _split(pattern, again):
    words = pre_tokenizers.Split(tokenizers.Regex(pattern), "removed", invert=True)
    into_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=again)
    return pre_tokenizers.Sequence([words, into_bytes])


def _fixed(text):
    """A text as open_clip.tokenizer cleans it."""
    return " ".join(html.unescape(html.unescape(ftfy.fix_text(text))).split()).lower()


CLEANINGS = {
    "nfc": Cleaning(  # transformers 5, CLIPTokenizer
        text=str,
        normalizer=normalizers.Sequence(
            [
                normalizers.NFC(),
                normalizers.Replace(tokenizers.Regex(r"\s+"), " "),
                normalizers.Lowercase(),
            ]
        ),
        splits=_split(rf"<\|startoftext\|>|<\|endoftext\|>|{WORDS}", again=True),
        start="<|startoftext|>",
        special=r"(?:<\|startoftext\|>|<\|endoftext\|>)+",
    ),
    "ftfy": Cleaning(  # open_clip 3.3, SimpleTokenizer
        text=_fixed,
        normalizer=normalizers.Sequence([]),
        # It ignores case, so a long s is an s and U+0345 is of no class.
        splits=_split(
            WORDS.replace("'s", "'[s\u017f]").replace("[^", "[^\u0345"), again=False
        ),
        start="<start_of_text>",
        # Punctuation in front takes the "<" along into its own word.
        special=r"(?<![^\w\s\u0345]|_)(?:<start_of_text>|<end_of_text>)+",
    ),
}


@dataclasses.dataclass(frozen=True)
class Tokenizer:
    """Captions -> rows of piece numbers: start, pieces, end, end ... in chunks of 77.

    `merges`: pairs of pieces. `length`: a multiple of 77; what is not used of it are
    empty chunks. A caption that does not fit is an error that names what is left over;
    with on_long="warn" it is cut with a warning instead, with "once" the warning is of
    the first such caption alone. `cleaning`: a key of CLEANINGS. `words`: pairs (word,
    numbers) of textual inversion; such a word, in upper or lower case and with no
    letter, digit or _ next to it, has these numbers.
    """

    merges: tuple
    length: int
    on_long: str = "raise"
    cleaning: str = "nfc"
    words: tuple = ()

    def __post_init__(self):
        tokenize.check_on_long(self.on_long)
        cleaning = names.pick(CLEANINGS, self.cleaning)
        if self.length < CHUNK or self.length % CHUNK:
            raise ValueError(f"length {self.length} is no multiple of {CHUNK}")
        _check_merges(self.merges)
        _check_words(self.words, self._end + 1, cleaning.text)

    @property
    def _start(self):
        return 2 * 256 + len(self.merges)

    @property
    def _end(self):
        return self._start + 1

    @functools.cached_property
    def _model(self):
        places = {piece: i for i, piece in enumerate(vocabulary(self.merges))}
        pairs = models.BPE(places, list(self.merges), end_of_word_suffix=WORD_END)
        model = tokenizers.Tokenizer(pairs)
        model.normalizer = CLEANINGS[self.cleaning].normalizer
        model.pre_tokenizer = CLEANINGS[self.cleaning].splits
        return model

    @functools.cached_property
    def _by_length(self):
        return sorted(self.words, key=lambda item: len(item[0]), reverse=True)

    @functools.cached_property
    def _unmerged(self):
        """The pattern of start and end by name, and of `words`, each its own group."""
        special = CLEANINGS[self.cleaning].special
        own = "|".join(f"({re.escape(word)})" for word, _ in self._by_length)
        return re.compile(rf"{special}|(?<!\w)(?i:{own})(?!\w)" if own else special)

    def __len__(self):
        """How many rows an embedding needs: the pieces and the vectors of `words`."""
        return 1 + max([self._end, *(i for _, ids in self.words for i in ids)])

    def __call__(self, texts):
        """List of str -> int32 [n, length]; brackets are nothing special here."""
        return self._rows([[(text, 1.0)] for text in texts])[0]

    def emphasis(self, texts):
        """List of str -> int32 and float32 [n, length]: numbers and weights.

        The syntax is that of `emphasis.parse`; start, end and padding weigh 1.
        """
        return self._rows([emphasis.parse(text) for text in texts])

    def pieces(self, text):
        """The pieces of a text as words; </w> ends one, bytes are spelled as in BPE."""
        return [piece.name for piece in self._pieces([(text, 1.0)])[0]]

    def sentence(self, row):
        """The pieces of one row of numbers as text, without starts and ends."""
        pieces = vocabulary(self.merges)
        said = "".join(pieces[i] if i < self._start else "" for i in row)
        return said.replace(WORD_END, " ").strip()

    def unknown(self, text):
        """No words: bytes spell all there are."""
        return []

    def _rows(self, prompts):
        ids = np.full((len(prompts), self.length), self._end, np.int32)
        ids[:, ::CHUNK] = self._start
        weights = np.ones(ids.shape, np.float32)
        for row, stretches in enumerate(prompts):
            for i, chunk in enumerate(self._chunks(stretches)):
                place = slice(i * CHUNK + 1, i * CHUNK + 1 + len(chunk))
                ids[row, place] = [piece.id for piece in chunk]
                weights[row, place] = [piece.weight for piece in chunk]
        return ids, weights

    def _chunks(self, stretches):
        """Lists of up to 75 pieces; what does not fit is told."""
        pieces, text = self._pieces(stretches)
        room = self.length // CHUNK * ROOM
        if len(pieces) > room:
            lost = text[pieces[room].place :]
            length = -(-len(pieces) // ROOM) * CHUNK
            tokenize.tell_cut(len(pieces), room, lost, self.on_long, length)
        left, chunks = pieces[:room], []
        while left:
            room -= ROOM
            stop = _stop(left, len(left) - room)
            chunks.append(left[:stop])
            left = left[stop:]
        return chunks

    def _pieces(self, stretches):
        """The pieces of (text, weight) pairs, and the text that their places are in."""
        texts = [CLEANINGS[self.cleaning].text(text) for text, _ in stretches]
        pieces, before = [], 0
        for text, (_, weight) in zip(texts, stretches, strict=True):
            for number, name, place, last in self._spelled(text):
                pieces.append(Piece(number, name, before + place, last, weight))
            before += len(text) + 1
        return pieces, " ".join(texts)

    def _spelled(self, text):
        at = 0
        for match in self._unmerged.finditer(text):
            yield from self._merged(text[at : match.start()], at)
            yield from self._given(match)
            at = match.end()
        yield from self._merged(text[at:], at)

    def _merged(self, text, at):
        found = self._model.encode(text, add_special_tokens=False)
        for i, name, (place, _) in zip(
            found.ids, found.tokens, found.offsets, strict=True
        ):
            yield i, name, at + place, name.endswith(WORD_END)

    def _given(self, match):
        """The pieces of what stands for numbers as it is."""
        if match.lastindex is None:
            for special in re.finditer("<.*?>", match.group()):
                start = special.group() == CLEANINGS[self.cleaning].start
                number = self._start if start else self._end
                yield number, special.group(), match.start() + special.start(), True
            return
        word, ids = self._by_length[match.lastindex - 1]
        for i, number in enumerate(ids, 1):
            yield number, word, match.start(), i == len(ids)


def _stop(pieces, least):
    """How many pieces the next chunk takes: at least `least`, so that the rest fits.

    75, but less after the last comma if it is among the last 20 pieces, or else at the
    end of the last word, which is not torn if it can be helped.
    """
    if len(pieces) <= ROOM:
        return len(pieces)
    stops = range(ROOM, max(least, 1) - 1, -1)
    near = (
        n for n in stops if n > ROOM - NEAR and pieces[n - 1].name == f",{WORD_END}"
    )
    whole = (n for n in stops if pieces[n - 1].last)
    return next(itertools.chain(near, whole), ROOM)


def _alphabet():
    """The characters that stand for bytes: those that print first, in this order."""
    prints = [*range(33, 127), *range(161, 173), *range(174, 256)]
    return [*map(chr, prints), *(chr(256 + i) for i in range(256 - len(prints)))]


def vocabulary(merges):
    """All pieces by their numbers, but for the start and the end that follow."""
    alphabet = _alphabet()
    ends = [letter + WORD_END for letter in alphabet]
    return [*alphabet, *ends, *(first + second for first, second in merges)]


def _check_merges(merges):
    known = {*_alphabet(), *(letter + WORD_END for letter in _alphabet())}
    for i, pair in enumerate(merges):
        if len(pair) != 2 or not known.issuperset(pair) or "".join(pair) in known:
            raise ValueError(
                f"merge {i + 1}, {' '.join(pair)!r}, is not two pieces known by then "
                "that make a new one"
            )
        known.add("".join(pair))


def _check_words(words, first, clean):
    seen = set()
    for word, ids in words:
        if not word or word != "".join(word.split()):
            raise ValueError(f"{word!r} is not a word: it is empty or has spaces")
        if clean(word).lower() != word.lower():
            raise ValueError(
                f"{word!r} is never found: {clean(word)!r} is read instead"
            )
        if not emphasis.is_text(word):
            raise ValueError(
                f"{word!r} is never found in prompts: its brackets or its weight are "
                "read as emphasis. Choose a word without"
            )
        if word.lower() in seen:
            raise ValueError(f"the word {word!r} is there twice; case does not count")
        if not ids or min(ids) < first:
            raise ValueError(
                f"word {word!r}: its numbers {ids} are not {first} or more"
            )
        seen.add(word.lower())


def read_merges(path):
    """The pairs of CLIP's list of merges, the .txt.gz or a plain merges.txt."""
    data = pathlib.Path(path).read_bytes()
    try:
        text = (gzip.decompress(data) if data[:2] == GZIP else data).decode("utf-8")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: damaged, or no text: {error}") from error
    lines = text.splitlines()[1 : MERGES + 1]
    if len(lines) < MERGES:
        raise ValueError(
            f"{path} has {len(lines)} merges after its first line; CLIP has {MERGES}"
        )
    return tuple(tuple(line.split(" ")) for line in lines)


def load_tokenizer(path, length, on_long="raise", cleaning="nfc", words=()):
    """The tokenizer of CLIP's list of merges, the .txt.gz or a plain merges.txt.

    `words`: a mapping, or pairs, of words to their numbers.
    """
    pairs = tuple((word, tuple(ids)) for word, ids in dict(words).items())
    merges = read_merges(path)
    try:
        return Tokenizer(merges, length, on_long, cleaning, pairs)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
