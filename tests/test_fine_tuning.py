"""A first stage that goes on from a file, in part: trained, exported, fine-tuned."""

import types

import helpers
import jax
import numpy as np
import pytest

from ldm_jax import (
    config,
    exporting,
    frozen,
    inputs,
    reconstruction,
    runs,
    sharding,
    train,
    trees,
)
from ldm_jax.weights import own

DECODER = ("first_stage/decoder", "first_stage/post_quant_conv")
TABLE = "first_stage/codebook/codes/embedding"


def config_of(kind):
    """Quick to compile; codes restart, and an average is kept."""
    c = helpers.tiny_autoencoder_config()
    c.data.image_size = 16
    c.first_stage.mid_attention = False
    c.discriminator.update(channels=4, depth=1)
    c.loss.update(perceptual_weight=0.0, disc_start=0)
    c.train.ema_decay = 0.9
    if kind == "vq":
        c.first_stage.update(kind="vq", codes=32)
        c.loss.restart_after = 1
    return config.check(c)


def tuned_config(kind, file):
    c = config_of(kind)
    c.loss.restart_after = 0
    c.train.update(init=str(file), trainable=(*DECODER, "discriminator"))
    return config.check(c)


def trained(c, workdir, steps=2):
    """The last state of a run, as numpy: it is in a checkpoint too."""
    run = runs.prepare(c, workdir)
    step = train.compile_step(run)
    with inputs.batches(c, tuple(run.system.batch)) as batches:
        for _ in range(steps):
            batch = sharding.put_batch(next(batches), run.mesh)
            run.state, told = step(run.state, run.frozen, batch)
    assert int(told["bad_steps"]) == 0
    runs.save(run, steps)
    run.manager.wait_until_finished()
    run.manager.close()
    return jax.device_get(run.state)


@pytest.fixture(scope="module")
def chain(tmp_path_factory):
    """Two runs, the second of a decoder: configs, folders, states, files, headers."""
    folder = tmp_path_factory.mktemp("chain")
    found = types.SimpleNamespace(folder=folder)
    for count, name in enumerate(("first", "tuned"), 1):
        c = config_of("vq")
        if name == "tuned":
            c = tuned_config("vq", folder / "first.safetensors")
        state = trained(c, folder / name)
        file = folder / f"{name}.safetensors"
        meta = exporting.export(c, folder / name, file, "float32", count)
        params = trees.flatten(own.load_weights(file)[0])
        about = dict(config=c, state=state, file=file, meta=meta, params=params)
        setattr(found, name, types.SimpleNamespace(**about))
    return found


def test_an_export_holds_the_average(chain):
    """Not the last parameters, and without the adversary."""
    state, found = chain.first.state, chain.first.params
    assert {name.split("/")[0] for name in found} == {"first_stage"}
    averages, last = trees.flatten(state.ema), trees.flatten(state.params)
    for name, value in found.items():
        np.testing.assert_array_equal(value, averages[name])
    assert [k for k in found if np.array_equal(found[k], last[k]) and k != TABLE] == []


def test_a_restarted_code_is_the_same_in_the_average(chain):
    state = chain.first.state
    table, average = (trees.flatten(t)[TABLE] for t in (state.params, state.ema))
    new = np.all(table == state.extra["codes"]["spare"], axis=-1)
    assert 0 < new.sum() < len(new)
    np.testing.assert_array_equal(average[new], table[new])
    assert not np.any(np.all(average[~new] == table[~new], axis=-1))


def test_only_the_decoder_moves(chain):
    before, after = chain.first.params, chain.tuned.params
    assert before.keys() == after.keys()
    moves = lambda name: name.startswith(DECODER)
    assert {"encoder", "quant_conv"} <= {n.split("/")[1] for n in after if not moves(n)}
    for name in before:
        same = np.array_equal(before[name], after[name])
        assert same != moves(name), name
    parts = {name.split("/")[1] for name in trees.flatten(chain.tuned.state.params)}
    assert {"decoder", "post_quant_conv"} <= parts
    assert not parts & {"encoder", "quant_conv", "codebook"}


def test_the_latents_and_so_the_scale_stay(chain):
    """Whatever the second export would have measured: diffusion goes on with both."""
    first, tuned = chain.first.meta, chain.tuned.meta
    assert first["scale"] == tuned["scale"] > 0
    assert first["parameters"] == tuned["parameters"]
    same = own.digest(chain.first.file)
    assert "latents" not in first and tuned["latents"] == same
    assert own.digest(chain.tuned.file) != same
    for file in (chain.first.file, chain.tuned.file):
        assert frozen.latents_of(file) == same
    nearer = frozen.located("", chain.folder, same)  # no first_stage.safetensors there
    assert nearer == chain.folder / "first_stage.safetensors"
    assert frozen.located(str(chain.tuned.file), chain.folder, same).name == (
        "tuned.safetensors"
    )


def test_a_file_of_other_groups_is_refused(chain, tmp_path):
    """The same shapes, another function."""
    c = tuned_config("vq", chain.first.file)
    c.first_stage.groups = 2
    with pytest.raises(ValueError, match=r"groups is 2, but .* was made with 4"):
        runs.prepare(c, tmp_path)
    with pytest.raises(ValueError, match=r"groups is 2, but .* was made with 4"):
        reconstruction.model(c, weights=str(chain.first.file))


def test_a_run_is_judged_as_it_was_trained(chain):
    """Knobs of the loss need not be named again."""
    c = config_of("vq")
    c.loss.update(restart_after=0, lecam_weight=0.5, perceptual_weight=1.0)
    model = reconstruction.model(c, workdir=chain.folder / "first")
    assert helpers.count(model.params) == chain.first.meta["parameters"]
    assert reconstruction.trained_on(c, chain.folder / "first") is None


def test_a_fine_tuned_file_is_a_first_stage(chain):
    """As any: by its file and by its run."""
    file = reconstruction.model(chain.tuned.config, weights=str(chain.tuned.file))
    run = reconstruction.model(chain.tuned.config, workdir=chain.folder / "tuned")
    assert helpers.largest_difference(file.params, run.params) == 0
    x = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3)).astype(np.uint8)
    keys = jax.random.split(jax.random.key(0), 4)
    told = reconstruction.restorer(file)(file.params, keys, x)
    assert told["image"].shape == x.shape and bool(told["finite"].all())
    assert "indices" in told


def test_a_run_goes_on_from_the_file_it_began_with(chain):
    """The same file must lie there, and what it began with is what is frozen."""
    run = runs.prepare(chain.tuned.config, chain.folder / "tuned")
    run.manager.close()
    assert int(run.state.step) == run.start == 2
    wanted = {k: v for k, v in chain.first.params.items() if not k.startswith(DECODER)}
    frozen = trees.flatten(run.frozen)
    assert frozen.keys() == wanted.keys()
    for name, value in wanted.items():
        np.testing.assert_array_equal(frozen[name], value)
    other = chain.tuned.config.copy_and_resolve_references()
    other.train.init = str(chain.tuned.file)
    with pytest.raises(ValueError, match=r"tuned began with train.init .* is "):
        runs.prepare(other, chain.folder / "tuned")


def test_a_file_of_another_architecture_is_refused_with_its_shapes(chain, tmp_path):
    c = tuned_config("vq", chain.first.file)
    c.first_stage.channels = 12
    with pytest.raises(ValueError) as caught:
        runs.prepare(c, tmp_path)
    words = str(caught.value)
    assert str(chain.first.file) in words
    assert (
        "first_stage/decoder/mid_res_1/conv_in/bias saved (16,) wanted (24,)" in words
    )


def test_a_file_without_a_codebook_is_none_of_vq(chain, tmp_path):
    with pytest.raises(ValueError, match="first_stage/codebook/codes/embedding"):
        runs.prepare(tuned_config("kl", chain.first.file), tmp_path)


def test_a_header_that_is_no_config_is_refused(chain):
    with pytest.raises(ValueError, match="x has a config whose first_stage is 3"):
        frozen.check_shape(chain.first.config.first_stage, {"first_stage": 3}, "x")
