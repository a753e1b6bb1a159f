import gzip
import hashlib
import pickle

import numpy as np
import pytest

from ldm_jax import paths
from ldm_jax.data import clip_tokenize, emphasis

CLIP = paths.resolve("vocabulary:clip_bpe.txt.gz")
START, END = 49406, 49407
COMMA, CAT = 267, 2368
LONG = "supercalifragilisticexpialidocious"  # several pieces, one word


def tokenizer(length=77, **kwargs):
    return clip_tokenize.load_tokenizer(CLIP, length, **kwargs)


@pytest.fixture(scope="module")
def clip():
    return tokenizer()


@pytest.fixture(scope="module")
def double():
    return tokenizer(154)


def ids(row):
    """A row of one chunk without its start and end."""
    assert row[0] == START
    return [int(i) for i in row[1:] if i != END]


def test_the_file_is_openais():
    assert hashlib.sha256(CLIP.read_bytes()).hexdigest() == (
        "924691ac288e54409236115652ad4aa250f48203de50a9e4722a6ecd48d6804a"
    )


# What transformers 5.23 gives.
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "a photo of an astronaut riding a horse on mars",
            [320, 1125, 539, 550, 18376, 6765, 320, 4558, 525, 7496],
        ),
        ("", []),
        (" \n", []),
        (
            "It's  A\tCAT!!  can't,won't",
            [585, 568, 320, CAT, 748, 753, 713, COMMA, 1749, 713],
        ),
        (
            "e\u0301 é 12.5 日本語 👩\u200d🚀",
            [4166, 4166, 272, 273, 269, 276, 39121, 44353] + [34002, 508, 26304, 13542],
        ),
        (
            "(a [b:1.2]) &amp; “x”",
            [263, 320, 314, 321, 281, 272, 269, 273, 60, 264]
            + [261, 6259, 282, 728, 506, 343, 728, 507],
        ),
        (
            "a <|endoftext|> b <|ENDOFTEXT|>",
            [320, END, 321, 27, 347, 40786, 4160, 91, 285],
        ),
    ],
)
def test_pieces_are_those_of_transformers(clip, text, expected):
    rows = clip([text])
    assert rows.dtype == np.int32 and rows.shape == (1, 77)
    assert rows[0].tolist() == [START, *expected, *[END] * (76 - len(expected))]


# What open_clip 3.3 gives.
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "cafÃ© &amp;lt; don’t ①",
            [15304, 283, 847, 713, 158, 239, 510],
        ),
        ("“x”", [257, 343, 257]),
        (
            "a <start_of_text>b !<end_of_text>",
            [320, START, 321, 0, 283, 806, 318, 539, 318, 4160, 285],
        ),
        (
            "a <|endoftext|>",
            [320, 27, 347, 40786, 4160, 91, 285],
        ),
        ("x\u0345y", [343, 344]),
        ("<end_of_text><start_of_text>", [END, START]),
    ],
)
def test_cleaning_is_that_of_open_clip(text, expected):
    row = tokenizer(cleaning="ftfy")([text])[0]
    assert row.tolist() == [START, *expected, *[END] * (76 - len(expected))]


def test_pieces_by_name(clip):
    assert clip.pieces("A cat's") == ["a</w>", "cat</w>", "'s</w>"]
    assert clip.unknown("qwxyz 日本 \x00") == []
    assert len(clip) == 49408


def test_a_caption_of_75_pieces_fits_and_76_are_told(clip):
    row = clip(["cat " * 75])[0]
    assert row.tolist() == [START, *[CAT] * 75, END]
    text = "cat " * 75 + "Owl, fox"
    said = "caption has 78 pieces, 75 fit; cut: 'Owl, fox'"
    more = "Shorten it or raise the text length to 154"
    with pytest.raises(ValueError, match=f"{said}. {more}"):
        clip([text])
    with pytest.warns(UserWarning, match=f"{said}; a length of 154 takes more$"):
        cut = tokenizer(on_long="warn")([text])[0]
    np.testing.assert_array_equal(cut, row)


def test_the_length_that_is_named_is_enough():
    """Also where chunks end early: their rest is told to fit."""
    text = f"{LONG}, " * 40
    with pytest.warns(UserWarning) as told:
        tokenizer(on_long="warn")([text])
    length = int(str(told[0].message).split()[-3])
    assert length > 154 and length % 77 == 0
    tokenizer(length)([text])
    with pytest.raises(ValueError, match=f"raise the text length to {length}"):
        tokenizer(length - 77)([text])


def test_what_is_cut_of_weighted_and_mended_text_is_named():
    lenient = tokenizer(on_long="warn", cleaning="ftfy")
    with pytest.warns(UserWarning, match="76 pieces, 75 fit; cut: '&'"):
        lenient.emphasis(["cat " * 74 + "(owl:1.5) &amp;"])


def test_unused_chunks_are_empty_captions(double):
    rows = double(["a cat", ""])
    empty = [START, *[END] * 76]
    assert rows[0].tolist() == [START, 320, CAT, *[END] * 74, *empty]
    assert rows[1].tolist() == empty * 2


def chunks(tokenizer, text):
    return [ids(row) for row in tokenizer([text])[0].reshape(-1, 77)]


def test_a_chunk_ends_after_a_near_comma(double):
    near = "cat " * 59 + ", " + "cat " * 30
    assert chunks(double, near) == [[CAT] * 59 + [COMMA], [CAT] * 30]
    far = "cat " * 54 + ", " + "cat " * 30
    assert chunks(double, far) == [[CAT] * 54 + [COMMA] + [CAT] * 20, [CAT] * 10]
    last = "cat, " * 50
    assert chunks(double, last) == [[CAT, COMMA] * 37, [CAT, COMMA] * 13]


def test_a_chunk_does_not_tear_a_word(double):
    word = ids(double([LONG])[0, :77])
    assert len(word) > 3
    text = "cat " * 73 + LONG + " owl"
    first, second = chunks(double, text)
    assert first == [CAT] * 73
    assert second[:-1] == word
    torn = chunks(double, "cat" + "z" * 400)[0]
    assert len(torn) == 75


def test_a_chunk_ends_where_the_rest_fits(double):
    text = "cat " * 59 + ", " + "cat " * 90
    first, second = chunks(double, text)
    assert first == [CAT] * 59 + [COMMA] + [CAT] * 15
    assert second == [CAT] * 75
    with pytest.raises(ValueError, match="151 pieces, 150 fit; cut: 'owl'"):
        double([text + "owl"])


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("a cat", [("a cat", 1)]),
        ("", []),
        ("a (cat)", [("a ", 1), ("cat", 1.1)]),
        ("a (cat:1.3)!", [("a ", 1), ("cat", 1.3), ("!", 1)]),
        ("(cat: .5 )", [("cat", 0.5)]),
        ("(cat:-1)", [("cat", -1)]),
        ("[cat]", [("cat", 1 / 1.1)]),
        ("((a) b:2)", [("a", 2.2), (" b", 2)]),
        ("([a] b)", [("a", 1), (" b", 1.1)]),
        (r"\(a\) \[b\] \\ c\d", [(r"(a) [b] \ c\d", 1)]),
        (r"(a\):1.2)", [("a)", 1.2)]),
        ("a (b", [("a ", 1), ("b", 1.1)]),
        ("[a (b", [("a ", 1 / 1.1), ("b", 1)]),
        ("a) b] c:1.2) d", [("a) b] c:1.2) d", 1)]),
        ("[a:1.2]", [("a:1.2", 1 / 1.1)]),
        ("(a: b)", [("a: b", 1.1)]),
        ("(a:--1)", [("a:--1", 1.1)]),
        ("()", []),
    ],
)
def test_emphasis_is_read_as_web_uis_do(prompt, expected):
    found = emphasis.parse(prompt)
    assert [text for text, _ in found] == [text for text, _ in expected]
    np.testing.assert_allclose([w for _, w in found], [w for _, w in expected])


@pytest.mark.parametrize("number", ["1.2.3", "1,3", ".", "-."])
def test_a_weight_that_is_no_number_is_told(clip, number):
    with pytest.raises(ValueError, match=rf"'{number}' is no weight, in 'a \(cat"):
        clip.emphasis([f"a (cat:{number})"])


def test_weights_stand_at_their_pieces(double):
    rows, weights = double.emphasis([f"a (cat, [{LONG}]:1.5) owl", "(" + "cat " * 80])
    assert rows.shape == weights.shape == (2, 154)
    assert rows.dtype == np.int32 and weights.dtype == np.float32
    np.testing.assert_array_equal(rows[:1], double([f"a cat, {LONG} owl"]))
    count = len(ids(rows[0, :77]))
    expected = [1, 1, 1.5, 1.5, *[1.5 / 1.1] * (count - 4), 1, *[1] * (153 - count)]
    np.testing.assert_allclose(weights[0], expected, rtol=1e-6)
    of_words = (rows[1] != START) & (rows[1] != END)
    np.testing.assert_allclose(weights[1], np.where(of_words, 1.1, 1), rtol=1e-6)


def test_brackets_are_text_without_emphasis(clip):
    assert clip.pieces("(cat:1.2)") == [
        *("(</w>", "cat</w>", ":</w>", "1</w>", ".</w>", "2</w>", ")</w>")
    ]


WORDS = {"<cat-toy>": (49408, 49409, 49410), "sks_style": (49411,), "sks": (49412,)}


@pytest.mark.parametrize("cleaning", clip_tokenize.CLEANINGS)
def test_own_words_become_their_numbers(cleaning):
    own = tokenizer(words=WORDS, cleaning=cleaning)
    assert len(own) == 49413
    toy = [49408, 49409, 49410]
    assert ids(own(["a <cat-toy>, sks_style"])[0]) == [320, *toy, COMMA, 49411]
    assert ids(own(["SKS (sks) sks's"])[0]) == [49412, 263, 49412, 264, 49412, 568]
    assert ids(own(["<CAT-toy>"])[0]) == toy
    assert own.pieces("a sks") == ["a</w>", "sks"]
    rows, weights = own.emphasis(["(<cat-toy>:1.5)"])
    assert ids(rows[0]) == toy
    np.testing.assert_array_equal(weights[0, :5], [1, 1.5, 1.5, 1.5, 1])


def test_a_colon_in_a_word_is_text():
    own = tokenizer(words={"style:one": (49408,), "<a:b>": (49409,)})
    rows, weights = own.emphasis(["style:one (style:one:1.5) (<a:b>)"])
    assert ids(rows[0]) == [49408, 49408, 49409]
    np.testing.assert_allclose(weights[0, 1:4], [1, 1.5, 1.1])


def test_own_words_stand_alone():
    own, plain = tokenizer(words=WORDS), tokenizer()
    texts = ["sksx", "xsks", "sks2", "my_sks_style", "sks_styles", "a<cat-toy>", "cat"]
    np.testing.assert_array_equal(own(texts), plain(texts))


def test_a_word_of_several_vectors_stays_in_a_chunk():
    own = tokenizer(154, words=WORDS)
    text = "cat " * 74 + "<cat-toy>"
    assert chunks(own, text) == [[CAT] * 74, [49408, 49409, 49410]]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"": (49408,)}, "empty or has spaces"),
        ({"a b": (49408,)}, "'a b' is not a word"),
        ({"sks": ()}, r"'sks': its numbers \(\) are not 49408 or more"),
        ({"sks": (320,)}, r"'sks': its numbers \(320,\) are not 49408"),
        ({"sks": (49408,), "SKS": (49409,)}, "'SKS' is there twice"),
        ({"a&amp;b": (49408,)}, "'a&amp;b' is never found: 'a&b' is read"),
        ({"(a": (49408,)}, r"'\(a' is never found in prompts: its brackets"),
        ({"a)": (49408,)}, r"'a\)' is never found in prompts"),
        ({"a[b]": (49408,)}, r"'a\[b\]' is never found in prompts"),
        ({"a\\": (49408,)}, "is never found in prompts"),
        ({"a:1.2": (49408,)}, "'a:1.2' is never found in prompts"),
        ({"a:.": (49408,)}, "'a:.' is never found in prompts"),
    ],
)
def test_bad_words_are_named(words, said):
    with pytest.raises(ValueError, match=said):
        tokenizer(words=words, cleaning="ftfy")


@pytest.mark.parametrize(
    ("kwargs", "said"),
    [
        ({"length": 76}, "length 76 is no multiple of 77"),
        ({"length": 0}, "length 0 is no multiple of 77"),
        ({"on_long": "cut"}, "on_long is 'raise', 'warn' or 'once'"),
        ({"cleaning": "nfd"}, "'nfd' is not one of nfc, ftfy"),
    ],
)
def test_bad_choices_are_named(kwargs, said):
    with pytest.raises(ValueError, match=said):
        tokenizer(**kwargs)


def test_a_plain_list_of_merges_is_read_too(clip, tmp_path):
    path = tmp_path / "merges.txt"
    lines = gzip.decompress(CLIP.read_bytes()).splitlines()[: 1 + clip_tokenize.MERGES]
    path.write_bytes(b"\n".join(lines))
    assert clip_tokenize.load_tokenizer(path, 77) == clip


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (CLIP.read_bytes()[:5000], "clip.gz: damaged, or no text"),
        (b"\x1f\x8bnonsense", "clip.gz: damaged, or no text"),
        (b"\xff\xfe", "clip.gz: damaged, or no text"),
        (b"first\ni n\n", "clip.gz has 1 merges after its first line; CLIP has 48894"),
        (b"first\n" + b"i n\n" * 48894, "clip.gz: merge 2, 'i n', is not two pieces"),
        (b"first\n" + b"i q w\n" * 48894, "clip.gz: merge 1, 'i q w', is not two"),
        (b"first\n" + b"in g\n" * 48894, "clip.gz: merge 1, 'in g', is not two"),
    ],
)
def test_damaged_files_are_named(tmp_path, data, said):
    path = tmp_path / "clip.gz"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=said):
        clip_tokenize.load_tokenizer(path, 77)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere.gz"):
        clip_tokenize.load_tokenizer(tmp_path / "nowhere.gz", 77)


def test_survives_pickling():
    own = tokenizer(words=WORDS)
    text = ["a sks in a (cat)"]
    own(text)
    again = pickle.loads(pickle.dumps(own))
    np.testing.assert_array_equal(again(text), own(text))
