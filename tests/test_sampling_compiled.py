"""What the compiled program of sampling does, and when another one is compiled."""

import dataclasses
import re

import helpers
import jax
import numpy as np
import pytest
import tiny_text_to_image

from ldm_jax import denoise as denoise_lib
from ldm_jax import generation, knobs, prompts, sharding, system

BATCH = 2
COMPUTATION = r"(?ms)^(?:ENTRY )?%(\S+) [^\n]*\{\n(.*?)^\}"  # (name, its lines)


@pytest.fixture(scope="module")
def config():
    """Text to image whose keys and values are larger than what they are made of.

    They are the harder ones to take out of a loop, as keeping them needs memory.
    """
    c = tiny_text_to_image.get_config()
    c.cond_stage.width = 8
    c.unet.channels = 16
    return c


@pytest.fixture(scope="module")
def model(config):
    """Random weights on one device."""
    built = system.build(config)
    shapes = jax.eval_shape(built.init, jax.random.key(0))
    mesh = sharding.make_mesh(devices=jax.devices()[:1])
    params = jax.device_put(helpers.random_params(shapes), jax.devices()[0])
    return generation.Model(config, built, params, "random", mesh)


def loops(program):
    """The text of all that the loops of a compiled program do."""
    found = dict(re.findall(COMPUTATION, program))
    inside, reached = {}, re.findall(r" while\(.*body=%([^,\s]+)", program)
    while reached:
        name = reached.pop()
        if name not in inside:
            inside[name] = found[name]
            reached += re.findall(r"=%([^,\s}]+)", found[name])  # calls=, body=, ...
    return "".join(inside.values())


def products(text):
    """The places in the network of its matrix products."""
    return re.findall(r' dot\(.*op_name="([^"]*)"', text)


def of_context(places):
    """Those that make keys and values of the context."""
    return [place for place in places if re.search("/cross/[kv]/", place)]


def program(config):
    """The compiled program of System.draw, guided; it has two prompts for a picture."""
    built = system.build(config)
    params = jax.eval_shape(built.init, jax.random.key(0))
    tokens = jax.ShapeDtypeStruct((BATCH, config.cond_stage.length), np.int32)
    batch = {"tokens": tokens, "negative_tokens": tokens}
    keys = generation.keys(0, np.arange(BATCH))
    lowered = jax.jit(built.draw).lower(params, keys, batch, knobs.of(config))
    return lowered.compile().as_text()


def moving(from_unet):
    """A from_unet whose network is told a context that changes with t."""

    def changed(*args):
        denoise = from_unet(*args)

        def told(params, z_t, t, cond, rng=None):
            context = cond.context * (1 + t[:, None, None] / 1000)
            return denoise(params, z_t, t, cond.replace(context=context), rng)

        return told

    return changed


def test_keys_and_values_of_the_context_are_made_once(config, monkeypatch):
    """XLA takes them out of the sampler's loop, or the API would need a cache.

    Were they made in each step, as they are of a context that moves, it would show.
    """
    attentions = 3  # one on the way down and two on the way up
    once = program(config)
    assert len(of_context(products(once))) == 2 * attentions
    assert not of_context(products(loops(once)))

    monkeypatch.setattr(denoise_lib, "from_unet", moving(denoise_lib.from_unet))
    often = program(config)
    assert len(of_context(products(loops(often)))) == 2 * attentions
    more = loops(often).count(" dot(") - loops(once).count(" dot(")
    assert more == 2 * attentions


def draw(model, count=BATCH, seed=0, prompt="a fox", negative="", **section):
    """(pictures, the names of what was compiled for them)."""
    told = model.config.copy_and_resolve_references()
    told.sample.update(section)
    if "sampler" in section:
        model = dataclasses.replace(model, system=system.build(told))
    model = dataclasses.replace(model, config=told)
    batch = prompts.arrays(model, [prompt] * count, negative)
    keys = generation.Keys(seed, np.arange(count))
    with helpers.compiling() as compiled:
        parts = list(generation.generate(model, batch, keys, BATCH))
    return np.concatenate(parts), compiled


@pytest.fixture(scope="module")
def first(model):
    """The pictures of the first batch, compiled."""
    pictures, compiled = draw(model)
    assert compiled.count("jit(draw)") == compiled.count("jit(develop)") == 1
    return pictures


@pytest.mark.parametrize(
    "told",
    [
        dict(scale=5.0),
        dict(eta=1.0),
        dict(seed=1),
        dict(prompt="a red apple"),
        dict(negative="an owl"),
    ],
    ids=lambda told: "".join(told),
)
def test_another_picture_compiles_nothing(model, first, told):
    pictures, compiled = draw(model, **told)
    assert np.abs(pictures - first).max() > 1e-3
    assert not compiled


def test_a_partial_batch_compiles_nothing(model, first):
    pictures, compiled = draw(model, count=2 * BATCH + 1)
    assert len(pictures) == 2 * BATCH + 1
    np.testing.assert_array_equal(pictures[:BATCH], first)
    assert not compiled


def test_another_number_of_steps_compiles_one_program_once(model, first):
    steps = model.config.sample.steps + 1
    _, compiled = draw(model, steps=steps)
    assert compiled.count("jit(draw)") == 1 and "jit(develop)" not in compiled
    assert not draw(model, steps=steps)[1]


def test_another_sampler_compiles_one_program(model, first):
    """The first stage is the same, and so is its program, of a new System too."""
    _, compiled = draw(model, sampler="dpmpp_2m")
    assert compiled == ["jit(draw)"]
