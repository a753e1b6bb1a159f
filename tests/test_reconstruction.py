"""The reconstruction task on a tiny first stage with random weights."""

import contextlib
import types

import helpers
import jax
import numpy as np
import pytest

from ldm_jax import generation, pictures, reconstruction
from ldm_jax import system as system_lib
from ldm_jax.weights import own

BAR = types.SimpleNamespace(update=lambda count: None)


@pytest.fixture(scope="module")
def config():
    return helpers.tiny_autoencoder_config()


@pytest.fixture(scope="module")
def file(config, tmp_path_factory):
    """A weights file of the first stage."""
    shapes = jax.eval_shape(system_lib.build(config).init, jax.random.key(0))
    params = {"first_stage": helpers.random_params(shapes["first_stage"])}
    path = tmp_path_factory.mktemp("weights") / "stage.safetensors"
    own.save_weights(path, params, config.to_dict(), {})
    return path


@pytest.fixture(scope="module")
def model(config, file):
    return reconstruction.model(config, weights=str(file))


def test_a_first_stage_comes_from_its_file(model, file):
    assert model.weights == own.digest(file)
    wanted, _, _ = own.load_weights(file)
    jax.tree.map(np.testing.assert_array_equal, model.params, wanted)


def test_pictures_go_through_in_batches_of_one_size(model):
    x = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3)).astype(np.uint8)
    keys = generation.keys(0, np.arange(6))

    @jax.jit
    def restore(params):
        z_0 = model.system.encode(params, keys, pictures.to_float(x))
        return pictures.to_uint8(model.system.decode(params, z_0))

    expected = np.asarray(restore(model.params), int)
    found = reconstruction.through(model, x, keys, 4, BAR)
    assert found.dtype == np.uint8
    np.testing.assert_allclose(found.astype(int), expected, atol=1)
    with pytest.raises(ValueError, match="multiple of the number of devices"):
        reconstruction.through(model, x, keys, 3, BAR)


def test_the_figures_of_a_task(model, monkeypatch):
    zero = lambda x, y, bar: np.zeros(len(x))
    monkeypatch.setattr(reconstruction, "distances", zero)
    monkeypatch.setattr(reconstruction.cache, "path", lambda name: name)
    make = lambda total: contextlib.nullcontext(BAR)
    told, rows = reconstruction.evaluate(model, "emoji_singles", 5, 0, 4, make)
    assert told["n"] == 5 and told["factor"] == 2
    assert rows.shape == (5, 3, 32, 32, 3)
    held = reconstruction.held_out(model.config, "emoji_singles", 5)
    np.testing.assert_array_equal(rows[:, 0], held)
    # Random weights make noise; halving keeps most of a picture.
    assert told["down_up"]["psnr"] > 20 > told["psnr"]
    assert told["down_up"]["ssim"] > 0.8 > told["ssim"]


def test_shrinking_keeps_flat_pictures_and_loses_detail():
    flat = np.full((1, 16, 16, 3), 77, np.uint8)
    np.testing.assert_array_equal(reconstruction.down_up(flat, 4), flat)
    checks = np.indices((16, 16)).sum(0) % 2 * np.uint8(200)
    checks = np.repeat(checks[None, ..., None], 3, axis=-1).astype(np.uint8)
    assert np.all(reconstruction.down_up(checks, 2) == 100)
