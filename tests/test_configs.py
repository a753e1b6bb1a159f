"""Every file of configs/, and that the sections say what is built from them."""

import dataclasses
import importlib.util
import inspect
import pathlib

import helpers
import jax
import numpy as np
import pytest

from ldm_jax import (
    config,
    config_rules,
    config_rules_judge,
    config_saved,
    frozen,
    generation,
    judge_loss,
    knobs,
    losses,
    names,
    optim,
    paths,
    schedule,
    system,
    tokenizers,
    trees,
)
from ldm_jax.data import datasets, labels
from ldm_jax.models import autoencoder, conditioners, discriminator, perceptual, unet

FOLDER = pathlib.Path(__file__).parent.parent / "configs"
FILES = sorted(FOLDER.glob("*.py"))
LINES = 45  # a file states what differs, no more
TASKS = ("latent_diffusion", "autoencoder", "judge")


def load(file):
    spec = importlib.util.spec_from_file_location(file.stem, file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def variants():
    """(file, arguments of get_config) of every variant of every file."""
    for file in FILES:
        for name in getattr(load(file), "VARIANTS", ("",)):
            yield pytest.param((file, (name,) * bool(name)), id=f"{file.stem}:{name}")


@pytest.fixture(params=FILES, ids=lambda path: path.stem)
def file(request):
    return request.param


@pytest.fixture(params=variants())
def c(request):
    file, variant = request.param
    return load(file).get_config(*variant)


def test_there_are_files():
    assert len(FILES) >= 2


def test_it_is_checked_and_locked(c):
    assert c.is_locked
    assert config_saved.from_json(config_saved.to_json(c)) == config.check(c)


def test_it_says_what_it_is_and_how_to_run_it(file):
    text = file.read_text()
    documentation = text.split('"""')[1]
    assert f"configs/{file.name}" in documentation
    assert len(text.splitlines()) <= LINES


def test_it_builds(c):
    built = system.build(c)
    shapes = jax.eval_shape(built.init, jax.random.key(0))
    trained, frozen = trees.split(shapes, c.train.trainable)
    assert helpers.count(trained) > 0
    # What is frozen comes from a file: a first stage, or what train.init also holds.
    locked = c.task == "latent_diffusion" and bool(c.control.hints)
    assert set(frozen) <= {"first_stage", "cond_stage"} | (
        {"unet"} if locked else set()
    )
    assert ("cond_stage" in frozen) == (is_released(c) or locked)

    size = c.data.image_size
    image = built.batch["image"]
    assert image.shape == (c.data.batch_size, size, size, 3)
    assert image.dtype == np.uint8


def test_its_names_are_known(c):
    names.pick(datasets.DATASETS, c.data.name)
    names.pick(optim.OPTIMIZERS, c.optim.optimizer)
    rate = optim.learning_rate(c.optim)
    assert float(rate(c.train.steps)) >= 0
    if c.task == "autoencoder":
        perceptual.shapes(c.loss.perceptual)
        assert c.data.image_size >= perceptual.SMALLEST[c.loss.perceptual]
    if c.task == "latent_diffusion":
        assert len(knobs.of(c)["grid"].t) == c.sample.steps


def test_its_vocabulary_fits(c):
    """A piece beyond the embedding would be read as NaN."""
    if c.task != "latent_diffusion" or not c.cond_stage.vocabulary:
        return
    words = tokenizers.load(c.cond_stage)
    assert len(words) == c.cond_stage.vocab
    if c.cond_stage.null_tokens:
        empty = words([""])[0][: len(c.cond_stage.null_tokens)]
        np.testing.assert_array_equal(empty, c.cond_stage.null_tokens)


def test_what_ships_is_there(c):
    """Names such as "demo:vocab.txt" are files of the project."""
    for key, value in config_rules.flat(c).items():
        if isinstance(value, str) and value.startswith("demo:"):
            assert paths.resolve(value).is_file(), f"{key} = {value}"


def is_released(c):
    """Whether a config is of weights that its users bring along."""
    return c.task == "latent_diffusion" and c.cond_stage.kind == "clip"


def test_what_ships_fits(c):
    """The first stage that a config names loads, with the scale that it says."""
    if c.task == "latent_diffusion" and c.first_stage.weights:
        assert set(frozen.load(c)) == {"first_stage"}


def test_the_embedded_model_loads():
    """It fits its own config, and was trained on the first stage that ships."""
    model = generation.load()
    assert helpers.count(model.params) < 5e6
    files = [
        paths.resolve(generation.EMBEDDED),
        frozen.first_stage_file(model.config.first_stage),
    ]
    assert sum(path.stat().st_size for path in files) < 10e6


def fields(record):
    return {field.name for field in dataclasses.fields(record)}


def arguments(function):
    return set(inspect.signature(function).parameters)


def test_sections_are_the_arguments_of_what_they_build():
    second, first = config.latent_diffusion(), config.autoencoder()
    assert set(second.unet) == fields(unet.Arch)
    assert set(first.first_stage) == fields(autoencoder.Arch) | {"kind"}
    own = {"weights", "scale"}
    assert set(second.first_stage) == set(first.first_stage) | own
    assert set(second.schedule) == arguments(schedule.linear)
    told = arguments(losses.diffusion)
    assert set(second.loss) == told - {"predict", "schedule", "z_0", "t", "eps"}
    read = {"kind", "drop", "vocabulary", "cleaning", "inpaint"}
    for kind in conditioners.CONDITIONERS.values():
        read |= arguments(kind) - {"image_size"}
    assert set(second.cond_stage) == read
    net = fields(discriminator.PatchDiscriminator)
    assert set(first.discriminator) == net - {"dtype", "parent", "name"}


def test_bases_share_their_sections():
    second, first, judge = (config.BASES[task]() for task in TASKS)
    for section in ("data", "optim", "train", "parallel"):
        assert set(second[section]) == set(first[section]) == set(judge[section])
    assert set(judge.unet) == set(second.unet)


def test_a_judge_names_what_the_data_has():
    assert judge_loss.THINGS == labels.NONE + 1
    assert len(labels.SEGMENTS) == judge_loss.SEGMENTS
    assert judge_loss.JOINTS == labels.JOINTS
    assert config_rules_judge.SAID.keys() == judge_loss.HEADS.keys()
    for patch in (2, 4):
        for name, head in judge_loss.HEADS.items():
            assert config_rules_judge.said((name,), patch) == head.channels(patch)
    assert system.OBJECTS == labels.MAX_OBJECTS
