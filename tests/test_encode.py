"""Latents that are kept once and trained from: the same losses as from pictures."""

import io
import re

import commands
import helpers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_text_to_image
import tqdm

from ldm_jax import config as config_lib
from ldm_jax import (
    config_saved,
    encoding,
    first_stage,
    frozen,
    inputs,
    inspection,
    pictures,
    runs,
    sharding,
    system,
    train_step,
    validation,
)
from ldm_jax.data import latents
from ldm_jax.weights import own

N, SHARD, BATCH = 12, 5, 4


def progress(total):
    return tqdm.tqdm(total=total, disable=True)


def encode(c, folder, **changes):
    told = dict(n=N, split="train", shard=SHARD, dtype="float32", batch_size=BATCH)
    return encoding.encode(c, folder, **(told | {"progress": progress} | changes))


@pytest.fixture(scope="module")
def stage(tmp_path_factory):
    return commands.first_stage(tmp_path_factory.mktemp("stage") / "stage.safetensors")


@pytest.fixture
def c(stage):
    return commands.config_on(stage)


@pytest.fixture(scope="module")
def folder(stage, tmp_path_factory):
    """Twelve pictures' latents in float32, in shards of 5, 5 and 2."""
    c = commands.config_on(stage)
    folder = tmp_path_factory.mktemp("kept")
    told = encode(c, folder)
    size = sum(path.stat().st_size for path in folder.glob("*.array_record"))
    assert told | {"seconds": 0} == {
        **dict(pictures=N, written=N, files=3, bytes=size, seconds=0)
    }
    return folder


def from_latents(c, folder):
    c = c.copy_and_resolve_references()
    c.data.latents = str(folder)
    return config_lib.check(c)


def shards(folder):
    return {path.name: path.read_bytes() for path in folder.glob("*.array_record")}


def first_batch(c):
    """The first four examples of a config's data, as its system is given them."""
    source = inputs.drawn_source(c, "train")
    if c.data.latents:
        source = latents.open_kept(c.data.latents, inputs.made_from(c, "train"))
    made = [inputs.prepare(c)(source[i]) for i in range(4)]
    return {
        key: jnp.stack([example[key] for example in made])
        for key in system.build(c).batch
    }


def loss_of(c):
    """A function from a batch to a config's training loss on it."""
    built, keys = system.build(c), jax.random.split(jax.random.key(1), 4)
    shapes = jax.eval_shape(built.init, jax.random.key(0))
    params = helpers.random_params(shapes) | frozen.load(c)
    told = {}, {}, jnp.int32(0), keys
    return jax.jit(lambda batch: built.grads(params, *told, batch)[2]["loss"])


def test_the_loss_is_that_of_the_pictures(c, folder, tmp_path):
    """Same noise, same dropped captions; float16 changes it a little."""
    wanted = float(loss_of(c)(first_batch(c)))
    kept = from_latents(c, folder)
    loss = loss_of(kept)
    assert float(loss(first_batch(kept))) == pytest.approx(wanted, rel=1e-5)

    encode(c, tmp_path, n=4, dtype="float16")
    half = float(loss(first_batch(from_latents(c, tmp_path))))
    assert half == pytest.approx(wanted, rel=1e-3) and half != wanted


def test_of_a_codebooks_encoder_the_latent_itself_is_kept(tmp_path):
    c = tiny_text_to_image.get_config()
    c.first_stage.update(kind="vq", codes=8, weights=str(tmp_path / "vq.safetensors"))
    built = system.build(c)
    shapes = jax.eval_shape(built.init, jax.random.key(0))
    params = {"first_stage": helpers.random_params(shapes["first_stage"])}
    meta = {"scale": 1.0}
    own.save_weights(c.first_stage.weights, params, c.to_dict(), meta)
    encode(c, tmp_path / "kept", n=4)
    names = [field.name for field in latents.read_about(tmp_path / "kept")["fields"]]
    assert [name for name in names if first_stage.is_kept(name)] == ["latent_mean"]
    kept = from_latents(c, tmp_path / "kept")
    batch, keys = first_batch(kept), jax.random.split(jax.random.key(1), 4)
    params = frozen.load(c)

    @jax.jit
    def both(image, batch):
        z_0 = built.encode(params, keys, pictures.to_float(image))
        return z_0, built.latent(keys, first_stage.posterior_of(batch))

    np.testing.assert_allclose(*both(first_batch(c)["image"], batch), atol=1e-5)
    assert "image" not in batch


def test_what_is_no_picture_is_kept_with_them(c, folder):
    kept, drawn = latents.open_kept(folder, {}), inputs.drawn_source(c, "train")
    for i in (0, 5, N - 1):  # a first, an inner and a last row of batches and shards
        example, wanted = kept[i], drawn[i]
        maps = {"image", "segmentation", "instances", "depth", "mask"}
        moments = {"latent_mean", "latent_logvar"}
        assert example.keys() - moments == wanted.keys() - maps
        for key in example.keys() - moments:
            np.testing.assert_array_equal(example[key], wanted[key])


def test_a_cut_off_encoding_goes_on_to_the_same_bytes(c, folder, tmp_path):
    whole = shards(folder)

    class Cut(tqdm.tqdm):
        def update(self, n=1):
            super().update(n)
            if self.n == 7:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        encode(c, tmp_path, progress=lambda total: Cut(total=total, file=io.StringIO()))
    names = sorted(whole)
    assert shards(tmp_path) == {names[0]: whole[names[0]]}
    with pytest.raises(FileNotFoundError, match="2 of 3 shards are missing"):
        inputs.check(from_latents(c, tmp_path))
    told = encode(c, tmp_path)
    assert (told["written"], told["files"]) == (7, 2)
    assert shards(tmp_path) == whole

    (tmp_path / names[1]).unlink()
    assert encode(c, tmp_path)["written"] == 5
    assert shards(tmp_path) == whole
    assert encode(c, tmp_path)["written"] == 0
    (tmp_path / names[1]).write_bytes(whole[names[1]][:-9])
    with pytest.raises(ValueError, match=f"{names[1]} is cut off or damaged"):
        encode(c, tmp_path)


def test_hosts_take_turns(c, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    for host, count in ((1, 1), (0, 2)):
        monkeypatch.setattr(jax, "process_index", lambda host=host: host)
        assert encode(c, tmp_path)["files"] == count
    assert shards(tmp_path) == shards(folder)


@pytest.mark.parametrize(
    ("key", "change"),
    [("n", 9), ("shard", 6), ("dtype", "float16"), ("split", "heldout")],
)
def test_a_rerun_with_another_setting_is_refused(c, folder, key, change):
    before = shards(folder)
    with pytest.raises(ValueError, match=f"made with {key} .*, now it is {change!r}"):
        encode(c, folder, **{key: change})
    assert shards(folder) == before


@pytest.mark.parametrize(
    ("key", "value"),
    [("data.name", "emoji_scenes"), ("data.image_size", 32), ("seed", 5)],
)
def test_training_on_other_pictures_is_refused(c, folder, tmp_path, key, value):
    c.update_from_flattened_dict({key: value})
    with pytest.raises(ValueError, match=f"made with {key} .*, now it is {value!r}"):
        runs.prepare(from_latents(c, folder), tmp_path)
    assert not list(tmp_path.iterdir())


def test_training_on_another_first_stage_is_refused(c, folder, tmp_path):
    config = c.to_dict()
    params = own.load_weights(c.first_stage.weights)[0]
    params["first_stage"]["quant_conv"]["bias"] += 1
    c.first_stage.weights = str(tmp_path / "other.safetensors")
    own.save_weights(c.first_stage.weights, params, config, {"scale": 1.0})
    with pytest.raises(
        ValueError, match="made with first_stage.weights '[0-9a-f]{12}'"
    ):
        inputs.check(from_latents(c, folder))
    with pytest.raises(
        ValueError, match="made with first_stage.weights '[0-9a-f]{12}'"
    ):
        encode(c, folder)


def test_a_heldout_split_is_kept_but_not_trained_on(c, tmp_path):
    encode(c, tmp_path, n=2, split="heldout", shard=2)
    kept = latents.open_kept(tmp_path, {"split": "heldout"})
    assert kept[1]["caption"] == inputs.source(c, "heldout")[1]["caption"]
    with pytest.raises(
        ValueError, match="made with split 'heldout', now it is 'train'"
    ):
        inputs.check(from_latents(c, tmp_path))


def taken(c, count, start=0):
    names = tuple(system.build(c).batch)
    with inputs.batches(c, names, start=start) as batches:
        return [next(batches) for _ in range(count)]


def test_batches_are_those_of_the_system_and_resume(c, folder):
    kept = from_latents(c, folder)
    batches = taken(kept, 6)
    shapes = system.build(kept).batch
    assert shapes.keys() == {"latent_mean", "latent_logvar", "tokens"}
    for name, shape in shapes.items():
        assert batches[0][name].shape == shape.shape
        assert batches[0][name].dtype == shape.dtype
    again = taken(kept, 2, start=4)
    assert helpers.largest_difference(again, batches[4:]) == 0
    drawn = inputs.drawn_source(c, "train")
    tokens = {inputs.prepare(c)(drawn[i])["tokens"].tobytes() for i in range(N)}
    seen = {row.tobytes() for batch in batches for row in batch["tokens"]}
    assert seen <= tokens


def test_validation_sees_pictures(c, folder):
    c.train.validation_batches = 2
    state = None
    numbers = []
    for config in (c, from_latents(c, folder)):
        built = system.build(config)
        mesh = sharding.make_mesh()
        loaded = frozen.load(config, built)
        if state is None:
            shapes = jax.eval_shape(built.init, jax.random.key(0))
            state = runs.state_of(config, built, helpers.random_params(shapes) | loaded)
        found = validation.Validator(config, built, mesh, loaded)
        assert set(found._fixed()[0][1]) == {"image", "tokens"}
        numbers.append(found.numbers(state))
    assert numbers[0] == numbers[1]


def test_steps_take_them_in_parts_and_on_several_devices(c, folder, tmp_path):
    """Traced, not compiled: that is the same program as of pictures."""
    c.data.latents = str(folder)
    c.data.batch_size = 8
    c.train.accumulate = 2
    run = runs.prepare(config_lib.check(c), tmp_path)
    batch = sharding.put_batch(taken(c, 1)[0], run.mesh)
    assert run.mesh.size == 4
    for array in batch.values():
        assert len(array) == 8 and len(array.addressable_shards[0].data) == 2
    tx, rate = runs.optimizer(c)
    step = train_step.make_train_step(
        run.system.grads, tx, rate, seed=0, ema_decay=0.9, accumulate=2
    )
    state, numbers = jax.eval_shape(step, run.state, run.frozen, batch)
    assert jax.tree.map(np.shape, state) == jax.tree.map(np.shape, run.state)
    assert numbers["loss"].shape == ()
    run.manager.close()


RULES = {
    "first_stage.kind 'identity' has nothing to keep": dict(
        first_stage=dict(
            **dict(kind="identity", mult=(1,), attention=(0,), weights=""),
            **dict(z_channels=3, embed_channels=3),
        ),
        unet=dict(out_channels=3),
    ),
    "cond_stage.inpaint 'sd' needs the pictures": dict(cond_stage=dict(inpaint="sd")),
    "cond_stage.kind 'segmentation' reads maps": dict(
        cond_stage=dict(kind="segmentation", classes=14, stages=1, drop=0.0),
        sample=dict(scale=1.0),
    ),
    "cond_stage.kind 'low_res' reads maps": dict(
        cond_stage=dict(kind="low_res", stages=1, drop=0.0), sample=dict(scale=1.0)
    ),
}


@pytest.mark.parametrize("words", RULES)
def test_what_needs_pictures_refuses_latents(c, tmp_path, words):
    for section, changes in RULES[words].items():
        c[section].update(changes)
    config_lib.check(c)
    words = f"data.latents '.*' must be '': {re.escape(words)}"
    with pytest.raises(ValueError, match=words):
        encode(c, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("task", ["autoencoder", "judge"])
def test_other_tasks_refuse_latents(task, tmp_path):
    c = config_lib.BASES[task]()
    with pytest.raises(ValueError, match=f"does nothing where task is '{task}'"):
        encode(c, tmp_path)
    c.data.latents = "kept"
    with pytest.raises(ValueError, match=f"does nothing where task is '{task}'"):
        config_lib.check(c)


def test_numbers_that_do_not_fit_are_refused():
    numbers = np.array([1.0, -7e4], np.float32)
    with pytest.raises(ValueError, match="m reaches 7e.04, more than float16 can hold"):
        encoding.narrowed("m", numbers, "float16")
    assert encoding.narrowed("m", numbers, "float32")[1] == numbers[1]
    with pytest.raises(ValueError, match="m is not finite"):
        encoding.narrowed("m", np.array([np.nan]), "float16")


def test_latents_are_not_drawn_as_pictures(c, folder):
    with pytest.raises(ValueError, match="has no pictures to draw: --config.data.lat"):
        inspection.first_batch(from_latents(c, folder), ("tokens",), 2)


def test_the_command(c, folder, tmp_path):
    flags = [
        *("ldm_jax.encode", f"--config={commands.CONFIG}", f"--out={tmp_path}"),
        f"--config.first_stage.weights={c.first_stage.weights}",
        *(f"--n={N}", f"--shard={SHARD}", f"--batch_size={BATCH}", "--dtype=float32"),
    ]
    code, printed = commands.run(*flags)
    assert code == 0, printed
    size = sum(map(len, shards(folder).values()))
    assert re.search(rf"{N} pictures in [\d.]+ s: 3 files of {size} bytes", printed)
    assert "100%" in printed and "picture/s" in printed
    kept, wanted = (latents.open_kept(path, {}) for path in (tmp_path, folder))
    for i in range(N):
        for key, value in wanted[i].items():
            if isinstance(value, str):
                assert kept[i][key] == value
            else:
                np.testing.assert_allclose(kept[i][key], value, atol=1e-5)


def test_a_text_model_that_was_trained_on_them_needs_them_no_more(c, tmp_path):
    """Its config names a folder; building, sampling and older files do not look."""
    c.data.latents = "no/such/folder"
    built = system.build(config_lib.check(c))
    shapes = jax.eval_shape(built.init, jax.random.key(0))
    assert set(shapes) == {"first_stage", "cond_stage", "unet"}
    with pytest.raises(FileNotFoundError, match="no/such/folder/latents.json"):
        runs.prepare(c, tmp_path)
    older = c.to_dict()
    del older["data"]["latents"]
    assert config_saved.from_dict(older).data.latents == ""
