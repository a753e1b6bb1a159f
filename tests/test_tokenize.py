import hashlib
import pickle

import numpy as np
import pytest

from ldm_jax import paths
from ldm_jax.data import captions, datasets, sprites, tokenize

VOCABULARY = paths.resolve("demo:vocab.txt")
BERT = paths.resolve("vocabulary:bert_uncased.txt")
TINY = (*tokenize.SPECIALS, "a", "fox", "on", "run", "##s", "##ning", ",", "z", "##e")


@pytest.fixture(scope="module")
def embedded():
    return tokenize.load_tokenizer(VOCABULARY, 64)


@pytest.fixture(scope="module")
def bert():
    return tokenize.load_tokenizer(BERT, 77)


def test_rows_are_framed_and_padded():
    tiny = tokenize.Tokenizer(TINY, 8)
    rows = tiny(["a fox runs", ""])
    assert rows.dtype == np.int32
    np.testing.assert_array_equal(rows, [[2, 4, 5, 7, 8, 3, 0, 0], [2, 3] + [0] * 6])


def test_specials_are_found_by_name():
    full = ("[PAD]", "x", "[UNK]", "fox", "[CLS]", "[SEP]")
    rows = tokenize.Tokenizer(full, 5)(["fox owl"])
    np.testing.assert_array_equal(rows, [[4, 3, 2, 5, 0]])


def test_lower_case_accents_and_punctuation():
    tiny = tokenize.Tokenizer(TINY, 8)
    assert tiny.pieces("A Fóx,running") == ["a", "fox", ",", "run", "##ning"]


def test_longest_piece_wins_and_whole_words_become_unknown():
    tiny = tokenize.Tokenizer(TINY, 8)
    assert tiny.pieces("runs ze zoo") == ["run", "##s", "z", "##e", "[UNK]"]
    assert tiny.unknown("a zoo, ze fox in") == ["zoo", "in"]
    assert tiny.unknown("") == []


def test_too_long_raises_or_warns_with_the_words():
    text = "a fox on a zoo"
    with pytest.raises(ValueError, match="cut: 'a zoo'"):
        tokenize.Tokenizer(TINY, 5)([text])
    lenient = tokenize.Tokenizer(TINY, 5, on_long="warn")
    with pytest.warns(UserWarning, match="cut: 'a zoo'"):
        rows = lenient([text])
    np.testing.assert_array_equal(rows, [[2, 4, 5, 6, 3]])
    assert (tokenize.Tokenizer(TINY, 7)([text]) != 0).all()


def test_too_long_is_told_once_or_not_at_all():
    tokenize._warn_once.cache_clear()
    once = tokenize.Tokenizer(TINY, 5, on_long="once")
    with pytest.warns(UserWarning, match="more than 3 pieces are cut") as told:
        rows = once(["a fox on a zoo", "a fox on z", "a fox"])
    assert len(told) == 1
    np.testing.assert_array_equal(rows[:2], [[2, 4, 5, 6, 3]] * 2)


@pytest.mark.parametrize(
    ("pieces", "length", "said"),
    [
        (TINY[1:], 8, r"\[PAD\]"),
        ((*TINY, "fox"), 8, "twice"),
        (TINY, 2, "length 2"),
    ],
)
def test_bad_vocabularies_are_named(pieces, length, said):
    with pytest.raises(ValueError, match=said):
        tokenize.Tokenizer(pieces, length)


def test_file_errors_name_the_file(tmp_path):
    path = tmp_path / "words.txt"
    path.write_text("fox\n")
    with pytest.raises(ValueError, match="words.txt"):
        tokenize.load_tokenizer(path, 8)


def test_embedded_vocabulary_starts_with_the_specials(embedded):
    assert embedded.vocabulary[:4] == tokenize.SPECIALS
    assert len(embedded) < 1200
    np.testing.assert_array_equal(embedded([""])[0, :3], [2, 3, 0])


def test_every_word_of_every_caption_is_spelled(embedded):
    for text in captions.caption_words():
        assert embedded.unknown(text) == []
        word = "".join(p.removeprefix("##") for p in embedded.pieces(text))
        assert word == text.lower().replace(" ", "")


def test_no_piece_is_spare(embedded):
    used = {p for text in captions.caption_words() for p in embedded.pieces(text)}
    assert used == set(embedded.vocabulary[4:])


def test_drawn_captions_fit_and_differ(embedded):
    source = datasets.DRAWN["emoji_mixed"]("train", 0, 32)
    texts = [source[i]["caption"] for i in range(24)]
    rows = embedded(texts)
    assert not (rows == 1).any()
    assert len(np.unique(rows, axis=0)) == len(set(texts))


def test_names_differ_in_tokens(embedded):
    loaded = sprites.load()
    rows = embedded([loaded.names[i] for i in loaded.scene_indices])
    assert len(np.unique(rows, axis=0)) == 266


def test_survives_pickling(embedded):
    embedded(["a fox"])
    again = pickle.loads(pickle.dumps(embedded))
    text = ["an owl on a red background"]
    np.testing.assert_array_equal(again(text), embedded(text))


def test_the_file_is_googles(bert):
    assert hashlib.sha256(BERT.read_bytes()).hexdigest() == (
        "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3"
    )
    assert len(bert) == 30522


# What transformers 5.23 gives.
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "a photo of an astronaut riding a horse on mars",
            [1037, 6302, 1997, 2019, 19748, 5559, 1037, 3586, 2006, 7733],
        ),
        ("", []),
        (
            "Ünïcode CAFÉ 日本語 a\x00b x\u200by",
            [27260, 7668, 1864, 1876, 1950, 11113, 1060, 2100],
        ),
        ("a [SEP] b [sep] [MASK]", [1037, 102, 1038, 1031, 19802, 1033, 103]),
        ("z" * 101, [100]),
        ("it's 3.14", [2009, 1005, 1055, 1017, 1012, 2403]),
    ],
)
def test_pieces_are_those_of_transformers(bert, text, expected):
    row = bert([text])[0]
    assert row.tolist() == [101, *expected, 102, *[0] * (75 - len(expected))]


def test_a_special_named_in_a_text_is_not_unknown():
    tiny = tokenize.Tokenizer(TINY, 8)
    assert tiny.pieces("a [SEP] fox") == ["a", "[SEP]", "fox"]
    assert tiny.unknown("a [SEP] fox [sep]") == ["[", "sep", "]"]
    assert tiny.unknown("a Zoö") == ["Zoö"]


def test_a_sentence_is_that_of_the_tokens():
    vocabulary = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "owl", "##s")
    words = tokenize.Tokenizer(vocabulary, 8)
    assert words.sentence([2, 4, 5, 6, 1, 3, 0, 0]) == "[CLS] a owls [UNK] [SEP]"
    assert words.sentence([2, 4, 5]) == "[CLS] a owl"
