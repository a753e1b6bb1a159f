"""The tokenizers give the very numbers of transformers and open_clip."""

import importlib.util
import random
import runpy
import unicodedata
import warnings

import numpy as np
import pytest

from ldm_jax import paths
from ldm_jax.data import clip_tokenize, tokenize

pytestmark = pytest.mark.parity

CLIP = paths.resolve("vocabulary:clip_bpe.txt.gz")
BERT = paths.resolve("vocabulary:bert_uncased.txt")
LENGTH = 77
COUNT = 10_000

# First and last code point: scripts from both directions, marks, signs, emoji.
RANGES = [
    *((0x20, 0x7E), (0x20, 0x7E), (0x00, 0x1F), (0x7F, 0xA0), (0xA1, 0xFF)),
    *((0x100, 0x24F), (0x250, 0x2AF), (0x300, 0x36F), (0x370, 0x3FF), (0x400, 0x4FF)),
    *((0x530, 0x58A), (0x590, 0x5FF), (0x600, 0x6FF), (0x900, 0x97F), (0xE00, 0xE7F)),
    *((0x10A0, 0x10FF), (0x1100, 0x11FF), (0x1200, 0x137F), (0x13A0, 0x13FF)),
    *((0x1E00, 0x1FFF), (0x2000, 0x206F), (0x2070, 0x218F), (0x2190, 0x2BFF)),
    *((0x2C00, 0x2DFF), (0x3000, 0x30FF), (0x3400, 0x3420), (0x4E00, 0x4F00)),
    *((0xA640, 0xA69F), (0xAB30, 0xABBF), (0xAC00, 0xAD00), (0xE000, 0xE010)),
    *((0xF900, 0xF910), (0xFB00, 0xFB4F), (0xFB50, 0xFDFF), (0xFE00, 0xFE6F)),
    *((0xFF01, 0xFFEF), (0xFFF9, 0xFFFF), (0x10400, 0x1044F), (0x1D400, 0x1D7FF)),
    *((0x1E900, 0x1E95F), (0x1F100, 0x1F1FF), (0x1F300, 0x1FAFF), (0x20000, 0x20020)),
    *((0x2F800, 0x2F810), (0xE0001, 0xE007F), (0xE0100, 0xE01EF), (0x10FFF0, 0x10FFFF)),
]
EXAMPLES = """
a photo of an astronaut riding horse on mars it's we'll they've I'M don't You'RE he'd
rock'n'roll 'tis O'Neil's '' 's 'S 't' trending artstation, highly-detailed, 8k UHD
f/1.8 1,234.56 1940s 50% #3 @you $9.99 snake_case __init__ e.g. U.S.A. C++ ... !!! ?!
(masterpiece:1.2) [blurry] {x|y} \\( \\) <lora:thing:0.8> https://a.b/c?d=e&f=g
<|endoftext|> <|startoftext|> <|ENDOFTEXT|> <start_of_text> <end_of_text> </w> a</w>
<START_OF_TEXT> <end_of_text><end_of_text> [CLS] [SEP] [PAD] [UNK] [MASK] [sep]
[unused1] ##ing &amp; &lt;b&gt; &amp;amp; &amp;amp;lt; &#39; &#x2019; &nbsp; &copy &#0;
&eacute; &AMP; &quot;hi&quot; &notit; cafÃ© naÃ¯ve â€œquotedâ€\x9d donâ€™t ÃƒÂ©
Ð¿Ñ€Ð¸Ð²ÐµÑ‚ ðŸ˜€ schÃ¶n “quoted” ‘single’ don’t ﬁne ﬀ ﬅ Ａｂｃ１２３ ｶﾞ ①② Ⅷ ½ x²
ǅ ẞ ſ 'ſ' İstanbul ıı Σίσυφος ΟΔΟΣ Å Ω K é e\u0301 n\u0303 \u0301 \u0345 α\u0345
ὰ\u0345 q\u0307\u0323 q\u0323\u0307 ཱི 한국어 각 日本語の猫 中文字符 คำไทย नमस्ते দেশ
العربية مَدْرَسَة עִבְרִית \u202eabc\u202c \u200fאב 👩\u200d🚀 👨\u200d👩\u200d👧\u200d👦
🏳\ufe0f\u200d🌈 👍🏽 🇩🇪 ❤\ufe0f ☕\ufe0e 1\ufe0f\u20e3 😀😀 a\u200bb a\u00adb
\ufeffx \ufffd \x00 \x07 \x1b[31mred\x1b[0m \ud7ff \ue000 𝓯𝓪𝓷𝓬𝔂 𐐨
supercalifragilisticexpialidocious
"""
WORDS = EXAMPLES.split()
SPACES = [
    *"          \n\t\r\x0b\x0c",
    "\r\n",
    "  ",
    *"\x85\xa0\u2003\u2028\u3000\x1c",
    "",
]
FIXED = [
    *("", " ", "\n\t  ", "\u3000", "\x00", "\u0301", "</w>", "[SEP]", "&", "a" * 99),
    *("a" * 100, "a" * 101, "é" * 100, "z" * 3000, "!" * 500, "ab " * 400, "😀" * 99),
    *("1" * 200, "a\u0301" * 100, "<|endoftext|>" * 80, "<end_of_text>" * 80),
    *("!<end_of_text>", "a<end_of_text>b", "_<end_of_text>", "1<end_of_text>"),
    *("<|endoftext|>\u0338", "a <|endoftext|> b", "\u0345<end_of_text>", "!\u0345!"),
]


def _assigned(letter):
    return unicodedata.category(letter) != "Cn"


def _letters(draw):
    first, last = draw.choice(RANGES)
    return "".join(chr(draw.randint(first, last)) for _ in range(draw.randint(1, 6)))


def _text(draw):
    parts = []
    for _ in range(draw.choice([1, 2, 4, 8, 16, 40])):
        parts.append(_letters(draw) if draw.random() < 0.4 else draw.choice(WORDS))
        parts.append(draw.choice(SPACES))
    text = "".join(parts)
    if draw.random() < 0.05:  # mojibake
        return "".join(filter(_assigned, text)).encode().decode("latin-1")
    return text


@pytest.fixture(scope="module")
def texts():
    draw = random.Random(0)
    return FIXED + [_text(draw) for _ in range(COUNT - len(FIXED))]


def ours(tokenizer, texts):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return tokenizer(texts)


def padded(reference, texts):
    """What a tokenizer of transformers gives for rows of 77."""
    rows = reference(texts, padding="max_length", truncation=True, max_length=LENGTH)
    return np.asarray(rows["input_ids"])


def assert_same(texts, rows, expected):
    wrong = [t for t, a, b in zip(texts, rows, expected, strict=True) if (a != b).any()]
    assert not wrong, f"{len(wrong)} of {len(texts)}, such as {wrong[:5]!a}"


def of_transformers():
    """CLIPTokenizer of the same merges; nothing comes from the network."""
    import transformers

    clip = clip_tokenize.load_tokenizer(CLIP, LENGTH)
    names = [*clip_tokenize.vocabulary(clip.merges), "<|startoftext|>", "<|endoftext|>"]
    places = {name: i for i, name in enumerate(names)}
    return transformers.CLIPTokenizer(vocab=places, merges=list(clip.merges))


def of_open_clip(texts):
    """Rows of open_clip's tokenizer, padded with the end as everywhere here."""
    # The package imports torchvision, which only works beside a torch of its build.
    folder = importlib.util.find_spec("open_clip").submodule_search_locations[0]
    module = runpy.run_path(f"{folder}/tokenizer.py")
    simple = module["SimpleTokenizer"](str(CLIP))
    rows = np.asarray(simple(texts))
    lengths = [min(len(simple.encode(text)) + 2, LENGTH) for text in texts]
    padding = np.arange(LENGTH) >= np.asarray(lengths)[:, None]
    return np.where(padding, simple.eot_token_id, rows)


def test_clip_of_transformers(texts):
    tokenizer = clip_tokenize.load_tokenizer(CLIP, LENGTH, "warn", "nfc")
    assert_same(texts, ours(tokenizer, texts), padded(of_transformers(), texts))


def test_clip_of_open_clip(texts):
    """But for new characters: `regex`, which open_clip uses, has a later Unicode.

    What was assigned after Unicode 16 is a letter there and punctuation in the library
    `tokenizers`, so that the words next to it end elsewhere.
    """
    clean = clip_tokenize.CLEANINGS["ftfy"].text
    known = ["".join(filter(_assigned, text)) for text in texts]
    known = [text for text in known if all(map(_assigned, clean(text)))]
    assert len(known) > 0.99 * COUNT
    tokenizer = clip_tokenize.load_tokenizer(CLIP, LENGTH, "warn", "ftfy")
    assert_same(known, ours(tokenizer, known), of_open_clip(known))


def test_bert_of_transformers(texts):
    import transformers

    lines = BERT.read_text(encoding="utf-8").split("\n")[:-1]
    reference = transformers.BertTokenizer(vocab={p: i for i, p in enumerate(lines)})
    tokenizer = tokenize.load_tokenizer(BERT, LENGTH, "warn")
    assert_same(texts, ours(tokenizer, texts), padded(reference, texts))
