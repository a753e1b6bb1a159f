"""The arrays that prompts become, for captions of every kind."""

import types
import warnings

import helpers
import numpy as np
import pytest
import tiny_stable_diffusion

from ldm_jax import inputs, tokenizers
from ldm_jax import prompts as prompts_lib
from ldm_jax.data import tokenize
from ldm_jax.models import clip

NAMES = {"tokens", "emphasis", "negative_tokens", "negative_emphasis"}


def model(variant="v1", words=(), **changes):
    c = tiny_stable_diffusion.get_config(variant).copy_and_resolve_references()
    c.cond_stage.update(changes)
    return types.SimpleNamespace(config=c, words=words)


def tokens(text):
    """A row of 77 as the tokenizer of the tiny model gives it."""
    return tokenizers.load(model().config.cond_stage)([text])[0]


EMPTY = [clip.START, *[clip.END] * 76]


def test_emphasis_is_split_from_the_words():
    found = prompts_lib.arrays(model(), ["a (red:1.3) fox", "an owl"])
    assert set(found) == NAMES
    np.testing.assert_array_equal(found["tokens"][0], tokens("a red fox"))
    np.testing.assert_array_equal(found["tokens"][1], tokens("an owl"))
    want = np.ones((2, 77), np.float32)
    want[0, 2] = 1.3
    np.testing.assert_array_equal(found["emphasis"], want)


def test_the_names_do_not_depend_on_the_prompts():
    """Another name would be another program to compile."""
    for variant, more in (("v1", set()), ("xl-base", {"micro", "negative_micro"})):
        for negative in ("", "(blurry:1.2)"):
            found = prompts_lib.arrays(model(variant), ["a fox"], negative)
            assert set(found) == NAMES | more


def test_no_negative_prompt_is_the_models_null():
    found = prompts_lib.arrays(model(), ["a fox", "an owl"])
    np.testing.assert_array_equal(found["negative_tokens"], [EMPTY] * 2)
    found = prompts_lib.arrays(model("xl-base"), ["a fox", "an owl"])
    np.testing.assert_array_equal(found["negative_tokens"], np.full((2, 77), -1))
    assert np.all(found["tokens"][:, 0] == clip.START)


@pytest.mark.parametrize("variant", ["v1", "xl-base"])
def test_a_negative_prompt_is_said_to_every_row(variant):
    found = prompts_lib.arrays(model(variant), ["a fox", "an owl"], "(blurry:1.2)")
    row = tokens("blurry")
    np.testing.assert_array_equal(found["negative_tokens"], [row, row])
    np.testing.assert_array_equal(
        found["negative_emphasis"][:, 1], np.float32([1.2] * 2)
    )
    assert np.all(found["emphasis"] == 1)


def test_sizes_are_those_of_a_whole_picture():
    base = prompts_lib.arrays(model("xl-base"), ["a fox", "an owl"])
    for name in ("micro", "negative_micro"):
        np.testing.assert_array_equal(base[name], [[16, 16, 0, 0, 16, 16]] * 2)
        assert base[name].dtype == np.float32
    refiner = prompts_lib.arrays(model("xl-refiner"), ["a fox", "an owl"])
    np.testing.assert_array_equal(refiner["micro"], [[16, 16, 0, 0, 6.0]] * 2)
    np.testing.assert_array_equal(refiner["negative_micro"], [[16, 16, 0, 0, 2.5]] * 2)


def test_a_long_prompt_is_cut_or_given_room():
    long = "a red fox, " * 25
    said = []
    prompts_lib.arrays(model(), [long, long], warn=said.append)
    (words,) = said
    assert "100 pieces, 75 fit" in words
    assert words.endswith("; a length of 154 takes more")
    said.clear()
    found = prompts_lib.arrays(model(length=154), [long], warn=said.append)
    assert said == [] and found["tokens"].shape == (1, 154)
    assert found["negative_emphasis"].shape == (1, 154)
    np.testing.assert_array_equal(found["negative_tokens"], [EMPTY * 2])


def test_the_cleaning_is_the_configs():
    rows = {
        kind: prompts_lib.arrays(model(cleaning=kind), ["cats &amp; owls"])["tokens"][0]
        for kind in ("nfc", "ftfy")
    }
    np.testing.assert_array_equal(rows["nfc"], tokens("cats &amp; owls"))
    np.testing.assert_array_equal(rows["ftfy"], tokens("cats & owls"))
    assert np.any(rows["nfc"] != rows["ftfy"])


def test_words_of_ones_own_have_their_numbers():
    words = (("mycat", (clip.VOCAB, clip.VOCAB + 1)),)
    told = model(words=words, vocab=clip.VOCAB + 2)
    row = prompts_lib.arrays(told, ["a mycat here"])["tokens"][0]
    assert list(row[2:4]) == [clip.VOCAB, clip.VOCAB + 1]
    with pytest.raises(ValueError, match="vocab is 49408, but .* has 49410"):
        prompts_lib.arrays(model(words=words), ["a mycat here"])


def test_word_pieces_have_no_emphasis():
    told = types.SimpleNamespace(config=helpers.tiny_config(), words=())
    found = prompts_lib.arrays(told, ["a fox"], "an owl")
    assert set(found) == {"tokens", "negative_tokens"}
    assert found["tokens"].shape == found["negative_tokens"].shape == (1, 24)
    assert np.any(found["tokens"] != found["negative_tokens"])


def test_no_text_at_all_is_of_clip_alone():
    """Word pieces without null tokens have no row that says nothing."""
    told = types.SimpleNamespace(config=helpers.tiny_config(), words=())
    told.config = told.config.copy_and_resolve_references()
    told.config.cond_stage.null_tokens = ()
    found = prompts_lib.arrays(told, ["a fox"])
    assert np.all(found["negative_tokens"] >= 0)


def test_a_model_without_captions_takes_none():
    told = types.SimpleNamespace(config=helpers.tiny_config(), words=())
    told.config = told.config.copy_and_resolve_references()
    told.config.cond_stage.kind = "layout"
    with pytest.raises(ValueError, match="condition is 'layout': it takes no prompts"):
        prompts_lib.arrays(told, ["a fox"])


def test_a_bad_weight_is_told_with_its_prompt():
    with pytest.raises(ValueError, match="is no weight, in '.*1.2.3"):
        prompts_lib.arrays(model(), ["a (fox:1.2.3)"])


@pytest.fixture
def not_yet_told():
    tokenize._warn_once.cache_clear()
    yield
    tokenize._warn_once.cache_clear()


def test_long_captions_of_training_are_cut_and_told_once(not_yet_told):
    prepare = inputs.prepare(model().config)
    long = [f"a {color} fox, " * 25 for color in ("red", "blue", "teal")]
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        rows = [prepare({"caption": text})["tokens"] for text in long]
    (warning,) = told
    assert "more than 75 pieces are cut" in str(warning.message)
    assert "cond_stage.length" in str(warning.message)
    np.testing.assert_array_equal(rows[0], tokens("a red fox, " * 18 + "a red fox"))
    assert all(row[-1] == clip.END and row[-2] != clip.END for row in rows)


def test_long_captions_of_word_pieces_end_training():
    prepare = inputs.prepare(helpers.tiny_config())
    with pytest.raises(ValueError, match="22 fit; cut: .*raise the text length$"):
        prepare({"caption": "a red fox " * 8})


def test_training_examples_are_told_the_same_sizes():
    c = model("xl-refiner").config
    prepared = inputs.prepare(c)({"image": 0, "caption": "a red fox"})
    np.testing.assert_array_equal(prepared["tokens"], tokens("a red fox"))
    np.testing.assert_array_equal(prepared["micro"], [16, 16, 0, 0, 6.0])
    assert prepared["micro"].dtype == np.float32
