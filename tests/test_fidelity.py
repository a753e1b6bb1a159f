"""The text task's prompts and pictures; the judge itself in the tier `fetched`."""

import contextlib
import types

import helpers
import jax
import numpy as np
import pytest

from ldm_jax import fidelity, generation, sharding
from ldm_jax import system as system_lib
from ldm_jax.data import captions, singles, sprites

BAR = types.SimpleNamespace(update=lambda count: None)


def test_prompts_are_fixed_and_use_every_colour_equally():
    asked = fidelity.prompts(200, 2)
    assert len(asked.labels) == 400
    assert len(set(asked.labels)) == 200
    counts = np.bincount(asked.colours, minlength=12)
    assert counts.min() >= 33 and counts.max() <= 34
    few = fidelity.prompts(10, 2)
    np.testing.assert_array_equal(few.labels, asked.labels[:20])
    np.testing.assert_array_equal(few.colours, asked.colours[:20])
    with pytest.raises(ValueError, match="between 1 and 266"):
        fidelity.prompts(267, 1)


def test_captions_name_the_sprite_and_the_colour():
    asked = fidelity.prompts(3, 2)
    loaded = sprites.load()
    for text, label, colour in zip(
        asked.captions(), asked.labels, asked.colours, strict=True
    ):
        assert loaded.names[loaded.scene_indices[label]] in text
        assert f"{singles.COLOUR_NAMES[colour]} background" in text


def test_held_out_prompts_are_those_kept_from_training():
    asked = fidelity.prompts(266, 12)
    loaded = sprites.load()
    names = [loaded.names[loaded.scene_indices[label]] for label in asked.labels]
    expected = [
        captions.held_out(name, singles.COLOUR_NAMES[colour])
        for name, colour in zip(names, asked.colours, strict=True)
    ]
    np.testing.assert_array_equal(asked.held_out(), expected)
    assert 0 < np.mean(expected) < 0.1


def test_shuffling_moves_label_and_colour_together():
    asked = fidelity.prompts(100, 2)
    other = asked.shuffled()
    pairs = lambda p: sorted(zip(p.labels.tolist(), p.colours.tolist(), strict=True))
    assert pairs(asked) == pairs(other)
    assert np.mean(asked.labels == other.labels) < 0.05


def test_real_pictures_have_their_own_colour_and_another_prompts_seldom():
    asked = fidelity.prompts(48, 1)
    images = fidelity.real(asked, 32)
    assert images.shape == (48, 32, 32, 3) and images.dtype == np.uint8
    assert np.mean(fidelity.colours_right(images, asked)) > 0.95
    assert np.mean(fidelity.colours_right(images, asked.shuffled())) < 0.3
    np.testing.assert_array_equal(images, fidelity.real(asked, 32))


def flat_features(images, bar):
    """Stands in for VGG16: the picture itself, centred, of unit length."""
    flat = images.reshape(len(images), -1).astype(np.float64)
    flat = flat - flat.mean(1, keepdims=True)
    return flat / np.linalg.norm(flat, axis=1, keepdims=True)


def test_figures_of_perfect_pictures_and_of_chance(monkeypatch):
    monkeypatch.setattr(fidelity, "features", flat_features)
    asked = fidelity.prompts(24, 1)
    galleries = [fidelity.gallery(colour, 32) for colour in range(12)]
    own = zip(asked.labels, asked.colours, strict=True)
    plain = np.stack([galleries[colour][label] for label, colour in own])
    monkeypatch.setattr(fidelity, "gallery", lambda colour, size: galleries[colour])
    told = fidelity.compare(asked, plain, plain, BAR)
    assert told["own_in_5"] == told["own_nearest"] == 1
    assert told["ceiling"]["own_nearest"] == 1 and told["ceiling"]["n"] == 24
    assert told["shuffled"]["own_in_5"] < 0.2
    assert told["held_out"] is None or told["held_out"]["n"] < 6


def test_the_task_from_a_model_to_figures(monkeypatch):
    monkeypatch.setattr(fidelity, "features", flat_features)
    monkeypatch.setattr(fidelity, "require_judge", lambda size: None)
    config = helpers.tiny_config()
    system = system_lib.build(config)
    shapes = jax.eval_shape(system.init, jax.random.key(0))
    mesh = sharding.make_mesh(devices=jax.devices()[:1])
    params = helpers.random_params(shapes)
    model = generation.Model(config, system, params, "here", mesh)
    steps = []
    bar = types.SimpleNamespace(update=steps.append)
    asked = lambda total: steps.append(-total) or contextlib.nullcontext(bar)
    told, rows = fidelity.evaluate(model, 3, 2, 0, 4, asked)
    assert told["n"] == told["ceiling"]["n"] == told["shuffled"]["n"] == 6
    assert rows.shape == (6, 2, 16, 16, 3) and rows.dtype == np.uint8
    np.testing.assert_array_equal(rows[:, 1], fidelity.real(fidelity.prompts(3, 2), 16))
    # The fake features do not move the bar: twelve pictures and the galleries.
    assert sum(steps) == -(6 * 2 + 6 * 266)


def test_a_size_that_vgg16_cannot_divide_is_refused():
    with pytest.raises(ValueError, match="image_size 96 must be a multiple of 64"):
        fidelity.require_judge(96)


@pytest.mark.fetched
def test_vgg16_knows_real_pictures():
    asked = fidelity.prompts(266, 1)
    here = asked.colours == 4
    asked = fidelity.Prompts(asked.labels[here], asked.colours[here])
    seen = fidelity.features(fidelity.real(asked, 64), BAR)
    np.testing.assert_allclose(np.linalg.norm(seen, axis=-1), 1, rtol=1e-4)
    found = fidelity.ranks({"real": (seen, asked)}, 64, BAR)["real"]
    assert np.mean(found == 0) > 0.95
