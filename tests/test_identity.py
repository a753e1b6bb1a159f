"""Diffusion without a first stage: the latent is the picture."""

import helpers
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax import (
    config,
    frozen,
    generation,
    knobs,
    optim,
    pictures,
    reconstruction,
    system,
    train_step,
    trees,
)
from ldm_jax.exchange import transfer
from ldm_jax.weights import own, safetensors_files


@pytest.fixture(scope="module")
def c():
    c = helpers.tiny_config()
    c.first_stage.update(kind="identity", mult=(1,), attention=(0,))
    c.first_stage.update(z_channels=3, embed_channels=3)
    c.unet.update(out_channels=3, mult=(1,), depths=(1,))
    return config.check(c)


@pytest.fixture(scope="module")
def rig(c):
    """(system, params, keys, batch)."""
    built = system.build(c)
    params = helpers.random_params(jax.eval_shape(built.init, jax.random.key(0)))
    keys = jax.random.split(jax.random.key(1), 4)
    return built, params, keys, helpers.random_batch(built.batch)


def test_it_has_no_parameters_and_needs_no_file(c, rig):
    built, params, _, _ = rig
    assert params.keys() == {"unet", "cond_stage"}
    assert frozen.load(c, built) == {} and frozen.digest(c) == ""
    trained, rest = trees.split(params, c.train.trainable)
    assert trained.keys() == params.keys() and rest == {}


def test_the_latent_is_the_picture_both_ways(rig):
    built, params, keys, batch = rig
    x = pictures.to_float(batch["image"])
    np.testing.assert_array_equal(built.posterior(params, x).mean, x)
    np.testing.assert_array_equal(built.encode(params, keys, x), x)
    np.testing.assert_array_equal(built.decode(params, x), x)
    assert built.encode_indices is None and built.decode_indices is None


def test_it_trains_and_samples(c, rig):
    built, params, keys, batch = rig
    tx = optim.make(c.optim)
    step = train_step.make_train_step(
        built.grads,
        tx,
        optim.learning_rate(c.optim),
        seed=0,
        ema_decay=0,
        accumulate=1,
        after_step=built.after_step,
    )
    state = train_step.init_state(params, built.init_extra(params), tx, 0)
    after, told = jax.jit(step)(state, {}, batch)
    assert np.isfinite(float(told["loss"])) and int(told["bad_steps"]) == 0
    before, now = trees.flatten(params), trees.flatten(after.params)
    assert all(np.any(before[name] != now[name]) for name in before)

    drawn = jax.jit(built.sample)(after.params, keys, batch, knobs.of(c))
    assert drawn.shape == (4, 16, 16, 3) and drawn.dtype == jnp.float32
    assert np.all(np.isfinite(drawn)) and np.std(drawn) > 1e-2


def test_there_is_no_first_stage_to_judge(c):
    with pytest.raises(ValueError, match="'identity' loses nothing"):
        reconstruction.model(c)


def test_its_file_samples_and_converts_without_another(c, rig, tmp_path):
    path = tmp_path / "model.safetensors"
    own.save_weights(path, rig[1], c.to_dict(), {"first_stage": frozen.digest(c)})
    model = generation.from_file(generation.config_of(path), path)
    assert model.params.keys() == rig[1].keys()
    weights = transfer.read(path, say=lambda line: None)
    assert {name.split("/")[0] for name in weights.held} == {"unet", "cond_stage"}
    transfer.to_ours(weights, tmp_path / "ours", None)
    again = generation.config_of(tmp_path / "ours" / transfer.DIFFUSION)
    assert again.first_stage.weights == ""
    transfer.to_original(weights, tmp_path / "original.safetensors", None)
    names = safetensors_files.open_safetensors(tmp_path / "original.safetensors")
    assert not [name for name in names.tensors if name.startswith("first_stage")]


def test_pixels_may_be_cut_to_their_range(c, rig):
    """By a high scale they leave it; what is cut decides how the next step begins."""
    _, params, keys, batch = rig
    told = {"tokens": batch["tokens"]}

    def drawn(**sample):
        changed = c.copy_and_resolve_references()
        changed.sample.update(steps=3, grid="trailing", scale=30.0, **sample)
        changed = config.check(changed)
        run = jax.jit(system.build(changed).sample)
        return run(params, keys, told, knobs.of(changed))

    plain, cut, all_cut = drawn(), drawn(threshold=0.9), drawn(threshold=1.0)
    assert np.abs(plain).max() > 1.5
    assert np.abs(cut).max() <= 1 + 1e-5 and np.abs(all_cut).max() <= 1 + 1e-5
    assert np.abs(cut - all_cut).max() > 1e-3
