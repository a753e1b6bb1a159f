"""The reconstruction task on tiny first stages and a judge, all of random weights."""

import contextlib
import functools
import types

import helpers
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax import config as config_lib
from ldm_jax import (
    evaluation,
    frozen,
    generation,
    pictures,
    reconstruction,
    sharding,
)
from ldm_jax import system as system_lib
from ldm_jax.models import perceptual
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


@functools.cache
def random_judge(net):
    params = helpers.random_params(perceptual.shapes(net))
    return params | {"heads": jax.tree.map(jnp.abs, params["heads"])}


@pytest.fixture
def judges(monkeypatch):
    """The nets that were asked for; they have random weights, and heads above zero."""
    asked = []

    def load(net):
        asked.append(net)
        return random_judge(net)

    monkeypatch.setattr(frozen, "perceptual", load)
    return asked


def evaluate(model, net="vgg16", count=5, rival=True):
    steps = []
    bar = types.SimpleNamespace(update=steps.append)
    make = lambda total: steps.append(-total) or contextlib.nullcontext(bar)
    told = reconstruction.evaluate(
        model, net, "emoji_singles", count, 0, 4, rival, make
    )
    assert sum(steps) == 0
    return told


def originals(model, count):
    source = reconstruction.held_out(model.config, "emoji_singles")
    return np.stack([source[i]["image"] for i in range(count)])


def test_the_figures_of_a_task(model, judges):
    told, rows = evaluate(model)
    assert told["n"] == 5 and told["factor"] == 2
    assert judges == ["vgg16"]
    assert rows.shape == (5, 3, 32, 32, 3)
    x = originals(model, 5)
    x_hat = reconstruction.through(model, x, generation.keys(0, np.arange(5)), 4, BAR)
    rival = reconstruction.down_up(x, 2)
    np.testing.assert_array_equal(rows, np.stack([x, x_hat, rival], axis=1))
    # Random weights make noise; halving keeps most of a picture.
    assert told["down_up"]["psnr"] > 20 > told["psnr"]
    assert told["down_up"]["ssim"] > 0.8 > told["ssim"]
    assert 0 < told["down_up"]["lpips"] < told["lpips"]
    assert 0 < told["down_up"]["rfd"] < told["rfd"]
    assert told["down_up"]["gradient_energy"] < 1
    assert "codes" not in told


@pytest.mark.parametrize("net", ["alexnet", "vgg16"])
def test_figures_are_those_of_the_whole_set_at_once(model, judges, net):
    told, rows = evaluate(model, net, rival=False)
    x, x_hat = rows[:, 0], rows[:, 1]
    assert rows.shape[1] == 2 and "down_up" not in told
    assert set(judges) == {net, "vgg16"}
    params = frozen.perceptual(net)
    floats = pictures.to_float(x), pictures.to_float(x_hat)
    expected = float(np.mean(perceptual.lpips(params, *floats, net)))
    assert told["lpips"] == pytest.approx(expected, rel=1e-4)
    vgg = frozen.perceptual("vgg16")
    seen = [perceptual.features(vgg, part, "vgg16") for part in floats]
    means = [
        np.concatenate([h[tap].mean((1, 2)) for tap in reconstruction.TAPS], axis=-1)
        for h in seen
    ]
    assert means[0].shape == (5, 1280)
    assert told["rfd"] == pytest.approx(evaluation.frechet(*means), rel=1e-3)
    energy = [evaluation.gradient_energy(part).mean() for part in (x, x_hat)]
    assert told["gradient_energy"] == pytest.approx(energy[1] / energy[0])
    assert told["psnr"] == pytest.approx(evaluation.psnr(x, x_hat).mean())


def test_latents_are_measured_before_they_are_scaled(file, judges, tmp_path):
    params, saved, _ = own.load_weights(file)
    path = tmp_path / "stage.safetensors"
    own.save_weights(path, params, saved, {"scale": 2.5})
    c = helpers.tiny_config()
    c.data.image_size = 32
    c.first_stage.update(weights=str(path), scale=2.5)
    scaled = reconstruction.model(c)
    x = pictures.to_float(originals(scaled, 5))
    keys = generation.keys(0, np.arange(5))
    z = np.asarray(scaled.system.encode(scaled.params, keys, x)) / 2.5
    told, _ = evaluate(scaled, rival=False)
    assert scaled.weights == own.digest(path)
    assert told["scale"] == pytest.approx(1 / np.std(z), rel=1e-4)
    np.testing.assert_allclose(told["latent_mean"], z.mean((0, 1, 2)), atol=1e-4)
    np.testing.assert_allclose(told["latent_std"], z.std((0, 1, 2)), rtol=1e-4)


def with_codebook(codes):
    """A VQ model of random weights."""
    c = helpers.tiny_autoencoder_config()
    c.first_stage.update(kind="vq", codes=codes)
    system = system_lib.build(config_lib.check(c))
    shapes = jax.eval_shape(system.init, jax.random.key(0))
    params = {"first_stage": helpers.random_params(shapes["first_stage"])}
    return generation.Model(c, system, params, "here", sharding.make_mesh())


def test_a_codebook_is_told_by_the_use_of_its_codes(judges):
    model = with_codebook(24)
    told, rows = evaluate(model, rival=False)
    x = pictures.to_float(rows[:, 0])
    indices = np.asarray(model.system.encode_indices(model.params, x))
    x_hat = model.system.decode(
        model.params, model.system.posterior(model.params, x).mean
    )
    np.testing.assert_allclose(
        rows[:, 1].astype(int), np.asarray(pictures.to_uint8(x_hat), int), atol=1
    )
    share = np.bincount(indices.ravel()) / indices.size
    share = share[share > 0]
    assert told["codes"] == 24 and 1 < len(share) < 24
    assert told["usage"] == len(share) / 24
    assert told["perplexity"] == pytest.approx(np.exp(-np.sum(share * np.log(share))))


def test_what_a_diverged_first_stage_gives_is_no_figure(model, judges):
    params = jax.tree.map(lambda x: x * np.nan, model.params)
    broken = generation.Model(model.config, model.system, params, "", model.mesh)
    with pytest.raises(FloatingPointError, match="pictures that are not finite"):
        evaluate(broken)


def test_the_net_of_the_training_does_not_judge(config, file, tmp_path):
    assert reconstruction.trained_on(config, weights=file) == "alexnet"
    assert reconstruction.judge_of("alexnet") == "vgg16"
    assert reconstruction.judge_of("vgg16") == "alexnet"
    assert reconstruction.judge_of(None) == "vgg16"
    other = helpers.tiny_autoencoder_config()
    other.loss.perceptual = "vgg16"
    # The file's config counts; of a run the one it was trained with.
    assert reconstruction.trained_on(other, weights=file) == "alexnet"
    diffusion = helpers.tiny_config()
    diffusion.first_stage.weights = str(file)
    assert reconstruction.trained_on(diffusion, weights="not/read") == "alexnet"
    path = tmp_path / "converted.safetensors"
    params, _, meta = own.load_weights(file)
    own.save_weights(path, params, diffusion.to_dict(), meta)
    assert reconstruction.trained_on(config, weights=path) is None
    own.save_weights(path, params, {"task": "none"}, meta)
    with pytest.raises(ValueError, match="converted.safetensors has a config that is"):
        reconstruction.trained_on(config, weights=path)


def test_pictures_as_their_own_latents_are_not_judged():
    c = helpers.tiny_config()
    c.first_stage.update(kind="identity")
    with pytest.raises(ValueError, match="there is no first stage to judge"):
        reconstruction.model(c)


def test_shrinking_keeps_flat_pictures_and_loses_detail():
    flat = np.full((1, 16, 16, 3), 77, np.uint8)
    np.testing.assert_array_equal(reconstruction.down_up(flat, 4), flat)
    checks = np.indices((16, 16)).sum(0) % 2 * np.uint8(200)
    checks = np.repeat(checks[None, ..., None], 3, axis=-1).astype(np.uint8)
    assert np.all(reconstruction.down_up(checks, 2) == 100)
