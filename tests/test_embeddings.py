"""Words of textual inversion: read from files, heard by every encoder."""

import dataclasses

import forge
import helpers
import jax
import numpy as np
import pytest
import safetensors.numpy
import tiny_stable_diffusion
import tiny_text_to_image

from ldm_jax import embeddings, generation, sharding, system, trees
from ldm_jax import prompts as prompts_lib

NAMES = ("clip_tiny", "openclip_tiny")
WIDTHS = {"clip_tiny": 32, "openclip_tiny": 16}


@pytest.fixture(scope="module")
def model():
    c = tiny_stable_diffusion.get_config("xl-base")
    built = system.build(c)
    params = helpers.random_params(jax.eval_shape(built.init, jax.random.key(0)))
    return generation.Model(c, built, params, "random", sharding.make_mesh())


def table(model, name):
    return np.asarray(model.params["cond_stage"][name]["tokens"]["embedding"])


def context(model, prompt):
    """What one prompt says: (context, vector)."""
    batch = prompts_lib.arrays(model, [prompt])
    cond = jax.jit(model.system.condition)(model.params, batch)
    return np.asarray(cond.context[0]), np.asarray(cond.vector[0])


@pytest.fixture
def file(model, tmp_path):
    """A word that says what "red fox" does, as SDXL's files have it."""
    ids = prompts_lib.arrays(model, ["red fox"])["tokens"][0, 1:3]
    path = tmp_path / "word.safetensors"
    vectors = [table(model, name)[ids] for name in NAMES]
    arrays = dict(zip(("clip_l", "clip_g"), vectors, strict=True))
    safetensors.numpy.save_file(arrays, path)
    return path


def test_a_word_is_heard_as_its_vectors(model, file):
    told = embeddings.added(model, [f"mything={file}"])
    plain = context(model, "a red fox, sleeping")
    for found, want in zip(context(told, "a MyThing, sleeping"), plain, strict=True):
        np.testing.assert_allclose(found, want, atol=1e-5)
    found = context(told, "a red fox, sleeping")  # old words are as they were
    np.testing.assert_allclose(found[0], plain[0], atol=1e-5)
    unheard = context(model, "a mything, sleeping")
    assert np.abs(unheard[0] - plain[0]).max() > 0.1


def test_the_model_grows_and_the_old_one_does_not(model, file):
    told = embeddings.added(model, [f"one={file}", f"two={file}"])
    assert told.words == (("one", (49408, 49409)), ("two", (49410, 49411)))
    assert told.config.cond_stage.vocab == 49412
    assert model.config.cond_stage.vocab == 49408 and model.words == ()
    for name in NAMES:
        assert table(model, name).shape[0] == 49408
        grown = table(told, name)
        assert grown.shape == (49412, WIDTHS[name])
        np.testing.assert_array_equal(grown[:49408], table(model, name))
        np.testing.assert_array_equal(grown[49408:49410], grown[49410:])
    shapes = jax.eval_shape(told.system.init, jax.random.key(0))
    assert trees.differences(told.params, shapes, "new", "system") == ""
    again = embeddings.added(told, [f"three={file}"])
    assert again.words[2] == ("three", (49412, 49413))


def test_nothing_given_changes_nothing(model):
    assert embeddings.added(model, []) is model


VECTORS = np.random.default_rng(0).standard_normal((2, 32)).astype(np.float32)


def torch_file(vectors, container):
    """A torch file with its other numbers; container: what holds the vectors."""
    count, width = vectors.shape
    held = forge.storage("0", "FloatStorage", vectors.size)
    there = forge.tensor(held, 0, (count, width), (width, 1))
    item = {
        "string_to_token": {"*": 265},
        "string_to_param": container({"*": there}),
        "name": "word",
        "step": 500,
    }
    return forge.zipped(item, {"0": vectors.tobytes()})


FILES = {
    "the web UIs": safetensors.numpy.save({"emb_params": VECTORS}),
    "diffusers": safetensors.numpy.save({"<word>": VECTORS}),
    "half precision": safetensors.numpy.save(
        {"<word>": VECTORS.astype(np.float16), "step": np.zeros(1, np.int64)}
    ),
    "textual inversion's code": torch_file(VECTORS, forge.parameters),
    "the first web UI": torch_file(VECTORS, dict),
}


@pytest.mark.parametrize("kind", FILES)
def test_the_files_of_all_who_write_them_are_read(kind, tmp_path):
    path = tmp_path / "word"
    path.write_bytes(FILES[kind])
    found = embeddings.read(path, {"clip_tiny": 32})
    assert set(found) == {"clip_tiny"} and found["clip_tiny"].dtype == np.float32
    want = VECTORS.astype(np.float16) if kind == "half precision" else VECTORS
    np.testing.assert_array_equal(found["clip_tiny"], want)


def test_one_vector_needs_no_second_axis(tmp_path):
    path = tmp_path / "word.safetensors"
    safetensors.numpy.save_file({"<word>": VECTORS[0]}, path)
    found = embeddings.read(path, {"clip_tiny": 32})
    np.testing.assert_array_equal(found["clip_tiny"], VECTORS[:1])


WRONG = {
    "no such width": ({"a": (2, 31)}, r"rows of 32 for clip_tiny, .*'a': \(2, 31\)"),
    "one encoder alone": ({"a": (2, 32)}, "rows of 16 for openclip_tiny"),
    "which of two": ({"a": (2, 32), "b": (1, 32)}, "must hold one array of rows of 32"),
    "unlike counts": ({"a": (2, 32), "b": (1, 16)}, "another number of vectors"),
    "none": ({"a": (1, 2, 32)}, "it holds none"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_file_that_does_not_fit_is_told(model, tmp_path, kind):
    shapes, words = WRONG[kind]
    path = tmp_path / "word.safetensors"
    arrays = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    safetensors.numpy.save_file(arrays, path)
    with pytest.raises(ValueError, match=f"word.safetensors.*{words}"):
        embeddings.added(model, [f"word={path}"])


def test_whole_numbers_are_no_vectors(tmp_path):
    path = tmp_path / "word.safetensors"
    safetensors.numpy.save_file({"a": np.zeros((1, 32), np.int32)}, path)
    with pytest.raises(ValueError, match="holds none"):
        embeddings.read(path, {"clip_tiny": 32})


@pytest.mark.parametrize("text", ["word", "word=", "=file"])
def test_a_flag_without_both_is_told(model, text):
    with pytest.raises(ValueError, match="say it as WORD=FILE"):
        embeddings.added(model, [text])


def test_a_model_of_word_pieces_takes_none(model, file):
    other = dataclasses.replace(model, config=tiny_text_to_image.get_config())
    with pytest.raises(ValueError, match="kind 'text' takes no words"):
        embeddings.added(other, [f"word={file}"])


def test_a_word_that_is_none_is_told(model, file):
    told = embeddings.added(model, [f"two words={file}"])
    with pytest.raises(ValueError, match="'two words' is not a word"):
        context(told, "a fox")
