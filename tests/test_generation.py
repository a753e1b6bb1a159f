"""Pictures from weights: the same in any batch, kept with what made them."""

import collections
import dataclasses
import json
import re
import shutil

import commands
import helpers
import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
import pytest
import tiny_autoencoder
import tiny_text_to_image

from ldm_jax import (
    album,
    checkpoint,
    config_saved,
    exporting,
    frozen,
    generation,
    pictures,
    runs,
    sharding,
    system,
)
from ldm_jax import prompts as prompts_lib
from ldm_jax.weights import own

PROMPTS = ["a fox", "a red apple", "an owl", "a castle", "a sailboat"]


def write_run(config, workdir):
    """A checkpoint of random parameters at step 3."""
    init = runs.initial_state(config, system.build(config))
    shapes = jax.eval_shape(init, jax.random.key(0))
    state = jax.tree.map(lambda s: np.zeros(s.shape, s.dtype), shapes)
    params = helpers.random_params(shapes.params, seed=1)
    ema = helpers.random_params(shapes.ema, seed=2)
    state = jax.device_put(state.replace(params=params, ema=ema))
    manager = checkpoint.open(workdir / "checkpoints")
    checkpoint.save(manager, 3, state, runs.about(config, 3))
    manager.close()
    return state


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("generation")


@pytest.fixture(scope="module")
def config(folder):
    c = tiny_text_to_image.get_config()
    c.first_stage.weights = str(commands.first_stage(folder / "stage.safetensors"))
    return c


@pytest.fixture(scope="module")
def workdir(config, folder):
    write_run(config, folder / "run")
    return folder / "run"


@pytest.fixture(scope="module")
def model(config, workdir):
    """The run's model, on four devices."""
    return generation.load(config, workdir)


@pytest.fixture(scope="module")
def exported(config, workdir, folder):
    path = folder / "model.safetensors"
    exporting.export(config, workdir, path, "float16", 0)
    return path


def one_device(model):
    mesh = sharding.make_mesh(devices=jax.devices()[:1])
    params = jax.device_put(model.params, jax.devices()[0])
    return dataclasses.replace(model, mesh=mesh, params=params)


def draw(model, batch_size, prompts=PROMPTS, seed=0):
    """x [n, H, W, 3] of the prompts."""
    batch = prompts_lib.arrays(model, prompts)
    seeds = generation.keys(seed, np.arange(len(prompts)))
    parts = list(generation.generate(model, batch, seeds, batch_size))
    assert all(len(x) <= batch_size for x in parts)
    return np.concatenate(parts)


@pytest.fixture(scope="module")
def five(model):
    """The pictures of the prompts, four at once: the second batch has one."""
    return draw(model, 4)


def test_every_picture_comes_once_and_differs(five):
    assert five.shape == (5, 16, 16, 3) and five.dtype == np.float32
    assert np.isfinite(five).all()
    gaps = [np.abs(a - b).max() for i, a in enumerate(five) for b in five[:i]]
    assert min(gaps) > 0.1


@pytest.mark.parametrize(("devices", "batch_size"), [(1, 1), (1, 8), (4, 8)])
def test_batch_size_and_devices_leave_pictures_alone(model, five, devices, batch_size):
    model = model if devices == 4 else one_device(model)
    np.testing.assert_allclose(draw(model, batch_size), five, atol=1e-4)


def test_a_picture_depends_on_its_own_seed_place_and_prompt(model, five):
    swapped = draw(model, 4, [PROMPTS[0], *PROMPTS[:0:-1]])
    np.testing.assert_allclose(swapped[0], five[0], atol=1e-4)
    assert np.abs(swapped[1] - five[1]).max() > 0.01
    assert np.abs(draw(model, 4, seed=1) - five).max() > 0.1


def test_a_batch_that_does_not_divide_over_the_devices_is_refused(model):
    with pytest.raises(ValueError, match="batch_size 6 must be a multiple .* 4"):
        draw(model, 6)


def test_scale_eta_seed_and_prompts_do_not_compile(model):
    built, traced = model.system, collections.Counter()

    def counted(*args):
        traced["draw"] += 1
        return built.draw(*args)

    counting = dataclasses.replace(built, draw=counted)
    model = dataclasses.replace(model, system=counting)
    first = draw(model, 4)
    for key, value in {"scale": 5.0, "eta": 1.0}.items():
        c = model.config.copy_and_resolve_references()
        c.sample[key] = value
        assert (
            np.abs(draw(dataclasses.replace(model, config=c), 4) - first).max() > 0.01
        )
    draw(model, 4, PROMPTS[::-1], seed=3)
    assert traced["draw"] == 1


def test_the_next_batch_is_given_to_the_device_before_the_last_is_waited_for(
    model, monkeypatch
):
    order, develop, fetched = [], generation._develop, generation._fetched

    def begun(*args):
        order.append("begun")
        return develop(*args)

    def waited(*args):
        order.append("waited for")
        return fetched(*args)

    monkeypatch.setattr(generation, "_develop", begun)
    monkeypatch.setattr(generation, "_fetched", waited)
    draw(model, 4, PROMPTS[:3] * 3)
    assert order == ["begun", "begun", "waited for", "begun", *["waited for"] * 2]


def test_latents_may_be_decoded_in_parts(model, five):
    c = model.config.copy_and_resolve_references()
    c.sample.decode_batch = 3  # on four devices: one latent each
    few = draw(dataclasses.replace(model, config=c), 8)
    np.testing.assert_allclose(few, five, atol=1e-4)
    one = one_device(dataclasses.replace(model, config=c))
    np.testing.assert_allclose(draw(one, 5), five, atol=1e-4)


def test_other_steps_and_samplers_give_other_pictures(config, workdir, five):
    for key, value in {"steps": config.sample.steps + 1, "sampler": "ddpm"}.items():
        c = config.copy_and_resolve_references()
        c.sample[key] = value
        assert np.abs(draw(generation.load(c, workdir), 4) - five).max() > 0.01


def test_the_folder_holds_pictures_sheet_and_manifest(model, five, tmp_path):
    rows = album.draw(model, album.Wanted(PROMPTS), 4, tmp_path / "out")
    names = [f"{i:05}.png" for i in range(5)]
    found = sorted(path.name for path in (tmp_path / "out").glob("[!.]*"))
    assert found == [*names, "grid.png", "job.json", "manifest.jsonl"]
    lines = (tmp_path / "out" / "manifest.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == json.loads(json.dumps(rows))
    job = json.loads((tmp_path / "out" / "job.json").read_text())
    for i, (row, x) in enumerate(zip(rows, five, strict=True)):
        assert row["file"] == names[i] and row["prompt"] == PROMPTS[i]
        assert row["seed"] == 0 and row["index"] == i
        size = {"image_size": model.config.data.image_size}
        settings = model.config.sample.to_dict() | size
        del settings["decode_batch"]  # it changes no picture
        assert job["settings"] == json.loads(json.dumps(settings))
        assert re.fullmatch(r"[0-9a-f]{12} \(.*run step 3\)", job["weights"])
        with Image.open(tmp_path / "out" / row["file"]) as image:
            np.testing.assert_array_equal(image, pictures.to_uint8(x))
            same = {key: job[key] for key in ("settings", "weights")}
            assert json.loads(image.text["ldm_jax"]) == json.loads(lines[i]) | same


def test_keys_are_the_same_however_they_are_read():
    indices = np.arange(3, 8, dtype=np.uint32)
    lazy, places = generation.Keys(7, indices), np.array([4, 0, 4])
    assert len(lazy) == 5
    wanted = generation.keys(7, indices.astype(np.int64))[places]
    np.testing.assert_array_equal(*map(jax.random.key_data, (lazy[places], wanted)))


def test_n_pictures_of_each_prompt(model, tmp_path):
    rows = album.draw(model, album.Wanted(PROMPTS[:2], n=2), 4, tmp_path)
    assert [row["prompt"] for row in rows] == ["a fox"] * 2 + ["a red apple"] * 2
    assert [row["index"] for row in rows] == [0, 1, 2, 3]
    images = [(tmp_path / row["file"]).read_bytes() for row in rows]
    assert len(set(images)) == 4


def test_a_picture_that_is_not_finite_is_not_written(model, tmp_path):
    broken = jax.tree.map(jnp.copy, model.params)
    decoder = broken["first_stage"]["decoder"]["conv_out"]
    decoder["bias"] = jnp.full_like(decoder["bias"], jnp.nan)
    model = dataclasses.replace(model, params=broken)
    with pytest.raises(FloatingPointError, match="pictures 0, 1, 2, 3, 4 are not fin"):
        album.draw(model, album.Wanted(PROMPTS), 4, tmp_path)
    assert not list(tmp_path.glob("*.png"))


def test_unknown_words_and_cut_ends_are_told(model):
    told = []
    rows = prompts_lib.arrays(model, ["a fox", "a \N{SNOWMAN} fox"], warn=told.append)
    assert rows["tokens"].shape == (2, 24) and rows["tokens"].dtype == np.int32
    (words,) = told
    assert words.endswith("\N{SNOWMAN}") and "'a \N{SNOWMAN} fox'" in words
    told.clear()
    prompts_lib.arrays(model, ["a fox " * 20 + "owl"], warn=told.append)
    (words,) = told
    assert "41 pieces, 22 fit" in words
    assert words.endswith("owl'")


def test_the_average_is_what_is_sampled_from(config, workdir, model):
    params, step = runs.latest_params(config, workdir)
    shapes = jax.eval_shape(lambda: params)
    assert step == 3
    wanted = helpers.random_params(shapes, seed=2)
    assert helpers.largest_difference(params, wanted) == 0
    assert helpers.largest_difference(model.params["unet"], wanted["unet"]) == 0


def test_export_and_the_run_draw_alike(config, exported, five):
    model = generation.load(weights=exported)
    assert model.config == config and model.weights == own.digest(exported)
    np.testing.assert_allclose(draw(model, 4), five, atol=0.05)
    assert exported.stat().st_size < 2.5 * helpers.count(model.params)


def test_a_run_is_exported_moved_and_sampled_from(config, workdir, tmp_path):
    """By the commands; the first stage is found beside the file that was moved."""
    stage = tmp_path / "there" / "stage.safetensors"
    stage.parent.mkdir()
    shutil.copy(config.first_stage.weights, stage)
    out = tmp_path / "model.safetensors"
    flags = [f"--config={commands.CONFIG}", f"--config.first_stage.weights={stage}"]
    commands.said("ldm_jax.export", *flags, f"--workdir={workdir}", f"--out={out}")
    moved = tmp_path / "here"
    stage.parent.rename(moved)
    shutil.move(out, moved)

    flags = [f"--weights={moved / out.name}", f"--out={tmp_path / 'pictures'}"]
    asked = ["--prompt=a fox", "--prompt=an owl", "--n=2", "--steps=1"]
    printed = commands.said("ldm_jax.sample", *flags, *asked)
    assert f"{tmp_path / 'pictures' / 'grid.png'}" in printed
    lines = (tmp_path / "pictures" / "manifest.jsonl").read_text().splitlines()
    told = [json.loads(line) for line in lines]
    assert [row["prompt"] for row in told] == ["a fox"] * 2 + ["an owl"] * 2
    job = json.loads((tmp_path / "pictures" / "job.json").read_text())
    assert job["settings"]["steps"] == 1
    assert job["weights"] == own.digest(moved / out.name)


def test_flags_change_how_a_file_is_sampled_from(exported):
    model = generation.load(weights=exported, overrides={"steps": 3, "eta": None})
    assert model.config.sample.steps == 3 and model.config.sample.eta == 0.0


def test_a_config_unlike_the_trained_one_is_told(config, exported, capsys):
    other = config.copy_and_resolve_references()
    other.unet.update(heads=1, head_channels=0)
    other.loss.predicts = "v"
    other.optim.lr = 1.0
    generation.load(other, weights=exported)
    told = capsys.readouterr().err
    assert "loss.predicts is 'v'; it was trained with 'eps'" in told
    assert "unet.heads is 1; it was trained with 0" in told
    assert "optim.lr" not in told


def test_a_first_stage_is_exported_with_its_scale(config, tmp_path):
    c = tiny_autoencoder.get_config()
    state = write_run(c, tmp_path / "run")
    path = tmp_path / "stage.safetensors"
    meta = exporting.export(c, tmp_path / "run", path, "float32", 3)
    assert meta["step"] == 3 and meta["scale_pictures"] == 12
    params, saved, stored = own.load_weights(path)
    assert stored["scale"] == meta["scale"] > 0
    assert config_saved.from_dict(saved) == c
    assert params.keys() == {"first_stage"}
    average = jax.device_get(state.ema["first_stage"])
    assert helpers.largest_difference(params["first_stage"], average) == 0

    other = config.copy_and_resolve_references()
    other.first_stage.update(weights=str(path), scale=meta["scale"])
    loaded = frozen.load(other)["first_stage"]
    assert helpers.largest_difference(loaded, average) == 0
    other.first_stage.scale = 2 * meta["scale"]
    with pytest.raises(ValueError, match=f"measured to need {meta['scale']:.6g}"):
        frozen.load(other)


def test_the_scale_is_one_over_the_spread_of_all_values():
    c = tiny_autoencoder.get_config()
    built = system.build(c)
    params = helpers.random_params(jax.eval_shape(built.init, jax.random.key(0)))
    meta = exporting.measure_latents(c, built, params, 3)
    spread = np.square(meta["latent_std"]) + np.square(meta["latent_mean"])
    spread = spread.mean() - np.mean(meta["latent_mean"]) ** 2
    assert meta["scale"] == pytest.approx(1 / np.sqrt(spread))
