"""What the web page asks of a model: pictures, the hint that it hears, mistakes."""

import dataclasses
import subprocess
import sys

import commands
import helpers
import jax
import numpy as np
from PIL import Image
import pytest
import tiny_text_to_image

from ldm_jax import config as config_lib
from ldm_jax import control, generation, given, pictures, sharding, system, webpage
from ldm_jax import prompts as prompts_lib
from ldm_jax.data import hints

SIZE = 16


def config_of(*names, **sections):
    c = tiny_text_to_image.get_config().copy_and_resolve_references()
    if names:
        c.control.update(hints=names, channels=(4, 8))
    for section, changes in sections.items():
        c[section].update(changes)
    return config_lib.check(c)


@pytest.fixture(scope="module")
def model():
    """Random weights with two branches on one device."""
    config = config_of("canny", "depth")
    built = system.build(config)
    params = helpers.random_params(jax.eval_shape(built.init, jax.random.key(0)))
    mesh = sharding.make_mesh(devices=jax.devices()[:1])
    params = jax.device_put(params, jax.devices()[0])
    return generation.Model(config, built, params, "random", mesh)


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    """A file of 41x30 smooth pixels."""
    noise = np.random.default_rng(0).integers(90, 170, (5, 7, 3), np.uint8)
    path = tmp_path_factory.mktemp("webpage") / "photo.png"
    Image.fromarray(noise).resize((41, 30)).save(path)
    return str(path)


@pytest.fixture(scope="module")
def asked(photo):
    told = dict(kind="canny", way="find", seed=7)
    return webpage.Asked("a fox", picture=photo, **told)


def draw(model, asked):
    """The Drawn of a request in which nothing is wrong."""
    told = []
    drawn = webpage.draw(model, asked, told.append)
    assert not told
    return drawn


@pytest.fixture(scope="module")
def first(model, asked):
    return draw(model, asked)


def gap(a, b):
    return np.abs(np.subtract(a.pictures[0], b.pictures[0], dtype=np.int32)).max()


def test_what_the_model_says_may_be_asked_for(model, asked):
    """text_to_image.py draws by 250 steps."""
    config = model.config.copy_and_resolve_references()
    assert webpage.ranges(config) == webpage.RANGES
    config.sample.update(steps=250, scale=40.0)
    assert webpage.ranges(config)["steps"] == (1, 250)
    assert webpage.ranges(config)["scale"] == (0.1, 40.0)
    most = dataclasses.replace(asked, steps=250, scale=40.0)
    assert webpage.hint(config, most) is not None
    with pytest.raises(ValueError, match=r"steps 251 is not in 1 .. 250"):
        webpage.hint(config, dataclasses.replace(most, steps=251))


@pytest.mark.parametrize(
    "told",
    [
        dict(strength=0.5),
        dict(strength=0),
        dict(weighting="guess"),
        dict(weighting="resolution"),
        dict(scale=5),
        dict(seed=8),
        dict(prompt="a red apple"),
        dict(negative="an owl"),
        dict(low=20, high=40),
    ],
    ids=str,
)
def test_what_is_asked_changes_the_picture_and_compiles_nothing(
    model, asked, first, told
):
    with helpers.compiling() as compiled:
        other = draw(model, dataclasses.replace(asked, **told))
    assert gap(other, first) > 0
    assert not compiled


def test_any_number_of_pictures_compiles_nothing(model, asked, first):
    done = []
    with helpers.compiling() as compiled:
        nine = webpage.draw(model, dataclasses.replace(asked, n=9), print, done.append)
    assert not compiled
    assert done == list(range(1, 10)) and len(nine.pictures) == 9
    assert {x.shape for x in nine.pictures} == {(SIZE, SIZE, 3)}
    assert len({x.tobytes() for x in nine.pictures}) == 9
    np.testing.assert_array_equal(nine.pictures[0], first.pictures[0])


def test_another_number_of_steps_compiles_one_program_once(model, asked, first):
    longer = dataclasses.replace(asked, steps=model.config.sample.steps + 1)
    with helpers.compiling() as compiled:
        assert gap(draw(model, longer), first) > 0
    assert compiled.count("jit(draw)") == 1 and "jit(develop)" not in compiled
    with helpers.compiling() as compiled:
        draw(model, dataclasses.replace(longer, strength=2.0, n=3))
    assert not compiled


def test_without_a_picture_the_plain_model_draws_as_sample_does(model):
    drawn = draw(model, webpage.Asked("an owl", negative="a fox", seed=3, n=2))
    batch = prompts_lib.arrays(model, ["an owl"] * 2, "a fox")
    keys = generation.Keys(3, np.arange(2))
    (x,) = generation.generate(model, batch, keys, 4)
    assert drawn.hint is None and drawn.seed == 3
    np.testing.assert_array_equal(np.stack(drawn.pictures), pictures.to_uint8(x))


def test_any_seed_is_told_and_draws_the_same_again(model, asked):
    random = [draw(model, dataclasses.replace(asked, seed=-1)) for _ in range(2)]
    assert random[0].seed != random[1].seed and gap(*random) > 0
    assert (
        gap(random[0], draw(model, dataclasses.replace(asked, seed=random[0].seed)))
        == 0
    )


def test_the_hint_that_is_shown_is_the_one_that_the_model_is_given(
    model, asked, first, monkeypatch
):
    stream, batches = generation.stream, []

    def watched(model, parts, batch_size):
        def seen():
            for batch, keys in parts:
                batches.append(batch)
                yield batch, keys

        return stream(model, seen(), batch_size)

    monkeypatch.setattr(generation, "stream", watched)
    drawn = draw(model, asked)
    (batch,) = batches
    heard = {name for name in batch if name.startswith(control.HINT)}
    assert heard == {control.key("canny")}  # the other branch hears nothing
    shown = webpage.hint(model.config, asked)
    assert shown.shape == (SIZE, SIZE, 3) and shown.dtype == np.uint8
    for other in (drawn.hint, *batch[control.key("canny")]):
        np.testing.assert_array_equal(other, shown)


def test_what_is_found_is_what_sample_finds(asked, photo):
    files = {"image": None, "hint": (photo,), "annotate": True}
    for name in given.FOUND:
        config = config_of(name)
        found = webpage.hint(config, dataclasses.replace(asked, kind=name))
        np.testing.assert_array_equal(
            found, given.read(config, files)[control.key(name)]
        )


def test_a_hint_that_is_ready_is_taken_as_it_is(model, asked, tmp_path):
    lines = hints.canny(np.asarray(Image.open(asked.picture)))[:SIZE, 3 : 3 + SIZE]
    Image.fromarray(lines).save(tmp_path / "hint.png")
    told = dict(way="ready", picture=str(tmp_path / "hint.png"))
    for kind in ("canny", "depth"):
        ready = dataclasses.replace(asked, kind=kind, **told)
        np.testing.assert_array_equal(webpage.hint(model.config, ready), lines)
    assert webpage.hint(model.config, webpage.Asked()) is None


@pytest.mark.parametrize(
    ("told", "words"),
    [
        (dict(prompt="a fox " * 60), "pieces, 22 fit; cut: .* Shorten it"),
        (dict(n=13), "n 13 is not in 1 .. 12"),
        (dict(n=0), "n 0 is not in"),
        (dict(seed=1.5), "seed 1.5 is no whole number"),
        (dict(steps=101), "steps 101 is not in 1 .. 100"),
        (dict(strength=2.1), r"strength 2.1 is not in 0.0 .. 2.0"),
        (dict(scale=float("nan")), "scale nan is not in"),
        (dict(seed=-2), "seed -2 is not in -1 .. 2147483647"),
        (dict(low=200, high=100), "low 200 and high 100 must be"),
        (dict(kind="cany"), "'cany' is not one of canny, depth; did you mean 'canny'"),
        (
            dict(kind="depth"),
            "canny, hough, scribble are found in .*, and photo.png is of depth: make",
        ),
        (dict(way="seek"), "'seek' is not one of ready, find"),
        (dict(weighting="odd"), "'even', 'guess' or 'resolution'"),
    ],
    ids=str,
)
def test_a_mistake_is_told(model, asked, told, words):
    with pytest.raises(ValueError, match=words):
        draw(model, dataclasses.replace(asked, **told))


def test_an_uploaded_file_is_called_by_its_name(model, asked, tmp_path):
    white = np.full((20, 20, 3), 255, np.uint8)
    Image.fromarray(white).save(tmp_path / "white.png")
    (tmp_path / "text.png").write_text("no picture")
    for name, way, words in (
        ("white.png", "ready", "^white.png is mostly white, and canny has white lines"),
        ("text.png", "ready", "^text.png: it is none of JPEG"),
        ("text.png", "find", "^text.png: it is none of JPEG"),
    ):
        wrong = dataclasses.replace(asked, picture=str(tmp_path / name), way=way)
        for act in (webpage.hint, lambda config, wrong: draw(model, wrong)):
            with pytest.raises(ValueError, match=words):
                act(model.config, wrong)


def test_words_that_are_not_known_are_told_and_drawn(model):
    told = []
    drawn = webpage.draw(model, webpage.Asked("a \N{SNOWMAN} fox"), told.append)
    assert len(drawn.pictures) == 1
    assert len(told) == 1 and "\N{SNOWMAN}" in told[0]


def test_a_picture_that_is_not_finite_is_an_error(model, asked):
    broken = jax.tree.map(lambda x: x * np.nan, model.params)
    with pytest.raises(FloatingPointError, match="picture 0 of seed 7 is not finite"):
        draw(dataclasses.replace(model, params=broken), asked)


def test_models_that_want_more_than_prompts_and_hints_are_refused():
    webpage.check(config_of())
    webpage.check(config_of("canny"))
    alike = config_of(cond_stage=dict(kind="none", drop=0.0), sample=dict(scale=1.0))
    with pytest.raises(ValueError, match="condition is 'none': the page draws by prom"):
        webpage.check(alike)
    with pytest.raises(ValueError, match="name --image=FILE and --mask=FILE"):
        webpage.check(config_of(cond_stage=dict(inpaint="sd")))


def test_examples_are_hints_of_scenes_for_the_first_branch_that_hears_such():
    kind, pairs = webpage.examples(config_of("hed", "canny", data=dict(image_size=32)))
    assert kind == "canny" and len(pairs) == 2
    for prompt, hint in pairs:
        assert " " in prompt and hint.shape == (32, 32, 3) and hint.dtype == np.uint8
        assert 0.01 < np.mean(hint > 0) < 0.5
    kind, pairs = webpage.examples(config_of())
    assert kind == "" and [hint for _, hint in pairs] == [None, None]


def test_where_gradio_is_not_installed_the_command_is_told():
    script = "import runpy, sys; sys.modules['gradio'] = None; sys.argv = ['demo']; "
    script += "runpy.run_module('ldm_jax.demo', run_name='__main__')"
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=commands.environment(1),
        capture_output=True,
        text=True,
        timeout=commands.PATIENCE,
        check=False,
    )
    assert done.returncode == 2
    told = "error: the web page needs gradio: bash launch/setup.sh requirements-web.txt"
    assert done.stderr.splitlines()[-2].startswith(told)
