"""Frechet distances of samples: which pictures are compared with which."""

import contextlib
import types

import helpers
import jax
import numpy as np
import pytest

from ldm_jax import feature_distance, fidelity, generation, reconstruction, sharding
from ldm_jax import system as system_lib
from ldm_jax.data import datasets, labels
from ldm_jax.weights import cache

SIZE = 16


class Eye:
    """Stands in for VGG16: four numbers of each picture. Remembers what it saw."""

    def __init__(self):
        self.seen = []

    def look(self, images):
        self.seen.append(images)
        flat = images.reshape(len(images), -1).astype(np.float64)
        parts = np.stack([part.mean(1) for part in np.array_split(flat, 4, 1)], 1)
        return None, parts.astype(np.float32)


@pytest.fixture
def eye(monkeypatch, tmp_path):
    eye = Eye()
    monkeypatch.setattr(reconstruction, "judge", lambda net, mesh: eye)
    path = tmp_path / "vgg16.safetensors"
    path.write_bytes(b"weights")
    monkeypatch.setattr(cache, "path", lambda name: path)
    return eye


def model():
    config = helpers.tiny_config()
    system = system_lib.build(config)
    shapes = jax.eval_shape(system.init, jax.random.key(0))
    mesh = sharding.make_mesh(devices=jax.devices()[:1])
    params = helpers.random_params(shapes)
    return generation.Model(config, system, params, "here", mesh)


def evaluate(dataset, split, count):
    steps = []
    bar = types.SimpleNamespace(update=steps.append)
    progress = lambda total: steps.append(-total) or contextlib.nullcontext(bar)
    told = feature_distance.evaluate(model(), dataset, split, count, 0, 4, progress)
    return *told, sum(steps)


def test_the_task_from_a_model_to_figures(eye):
    told, rows, left = evaluate("emoji_singles", "train", 6)
    assert left == 0 and told["n"] == 6 and told["dataset"] == "emoji_singles"
    assert told["split"] == "train" and "relu5_3" in told["features"]
    assert 0 < told["floor"] < told["fd"] and told["ceiling"] > 0
    assert rows.shape == (6, 2, SIZE, SIZE, 3) and rows.dtype == np.uint8
    source = datasets.DRAWN["emoji_singles"]("train", 0, SIZE)
    real = [source[labels.UNSEEN + i]["image"] for i in range(12)]
    np.testing.assert_array_equal(rows[:, 1], real[:6])
    # The others come first, in batches of four; then the samples and the real ones.
    np.testing.assert_array_equal(np.concatenate(eye.seen[:2])[:6], real[6:])
    np.testing.assert_array_equal(np.concatenate(eye.seen[2:4])[:6], rows[:, 0])
    np.testing.assert_array_equal(np.concatenate(eye.seen[4:6])[:6], real[:6])


def test_pictures_of_the_other_half_would_be_at_no_distance(eye, monkeypatch):
    source = datasets.DRAWN["emoji_singles"]("train", 0, SIZE)
    real = [source[labels.UNSEEN + i]["image"] for i in range(12)]
    monkeypatch.setattr(fidelity, "draw", lambda *_: np.stack(real[6:]))
    told, _, _ = evaluate("emoji_singles", "train", 6)
    assert told["fd"] == pytest.approx(0, abs=1e-3) and told["floor"] > 1


def test_each_data_set_has_a_split_of_its_own():
    assert set(feature_distance.HELD_OUT) <= set(datasets.DRAWN)
    assert feature_distance.split_of("emoji_lessons") == "train"
    assert feature_distance.split_of("emoji_singles") == "train"
    assert feature_distance.split_of("emoji_scenes") == "heldout"
    assert feature_distance.split_of("emoji_scenes", "train") == "train"
    with pytest.raises(ValueError, match="emoji_singles"):
        feature_distance.split_of("emoji_single")
