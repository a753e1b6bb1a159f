"""What a file says of itself is followed, or told where a config contradicts it."""

import json
import pathlib

import helpers
import jax
import numpy as np
import pytest
import released_configs
import tiny_stable_diffusion

from ldm_jax import config as config_lib
from ldm_jax import frozen, runs, system, trees
from ldm_jax.exchange import detection, folder_json, opening, released, transfer
from ldm_jax.weights import own, streaming, tensors

BLOCK = "model.diffusion_model.input_blocks.0.0.weight"


def weights(variant="v1"):
    c = tiny_stable_diffusion.get_config(variant)
    shapes = jax.eval_shape(system.build(c).init, jax.random.key(0))
    params = trees.flatten(helpers.random_params(shapes))
    held = {path: own.held(np.asarray(x)) for path, x in params.items()}
    return transfer.Weights(c, held, "random")


@pytest.fixture(scope="module")
def made():
    return weights()


@pytest.fixture
def folder(made, tmp_path):
    transfer.to_diffusers(made, tmp_path / "folder", None)
    return tmp_path / "folder"


def told(folder, file, **changes):
    path = folder / file
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return opening.open_path(folder)


@pytest.mark.parametrize(
    ("file", "changes", "words"),
    [
        ("scheduler/scheduler_config.json", dict(prediction_type="v_prediction"), "v'"),
        ("scheduler/scheduler_config.json", dict(beta_end=0.02), "schedule.beta_end"),
        ("vae/config.json", dict(scaling_factor=0.5), "first_stage.scale is 0.5"),
        ("unet/config.json", dict(attention_head_dim=4), "attention_head_dim is 4"),
    ],
)
def test_json_that_contradicts_the_config_is_named(made, folder, file, changes, words):
    opening.config_of(opening.open_path(folder), made.config)  # as it was
    with pytest.raises(ValueError, match=words):
        opening.config_of(told(folder, file, **changes), made.config)


def shapes_of(width, **configs):
    unet = {"cross_attention_dim": width, "in_channels": 4}
    return {"unet": unet, "text_encoder": {"num_hidden_layers": 23}} | configs


@pytest.mark.parametrize(
    ("scheduler", "vae", "words"),
    [
        (dict(beta_schedule="linear"), {}, "beta_schedule 'linear'"),
        (dict(prediction_type="flow"), {}, "prediction_type 'flow'"),
        ({}, dict(latents_mean=[0.1]), "latents that are shifted"),
    ],
)
def test_what_no_config_says_is_not_read(scheduler, vae, words):
    found = detection.of_folder(shapes_of(768, scheduler=scheduler, vae=vae), False)
    assert found.config == "" and words in found.hint


def test_what_a_folder_predicts_is_followed():
    v = {"prediction_type": "v_prediction"}
    for width, config in ((768, "stable_diffusion.py:v1"), (2048, "sdxl.py:base")):
        found = detection.of_folder(shapes_of(width, scheduler=v), False)
        assert (found.config, found.changes["loss.predicts"]) == (config, "v")
    found = detection.of_folder(shapes_of(1024, scheduler=v), False)
    assert found.config == "stable_diffusion.py:v2-v"
    assert found.changes["cond_stage.encoders"] == ("openclip_h_23",)
    assert "or :v2-v" in detection.of_folder(shapes_of(1024), False).hint


def test_a_zero_terminal_schedule_is_followed_and_written():
    ended = {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction"}
    changes = detection.of_folder(shapes_of(2048, scheduler=ended), False).changes
    assert changes["schedule.zero_terminal"] and changes["sample.grid"] == "trailing"
    c = released_configs.shipped("sdxl", "base")
    assert "rescale_betas_zero_snr" not in folder_json.scheduler(c)
    c.update_from_flattened_dict(changes)
    told = folder_json.scheduler(config_lib.check(c))
    assert ended.items() <= told.items() and told["timestep_spacing"] == "trailing"


@pytest.mark.parametrize("layout", ["original", "diffusers"])
def test_a_unet_that_no_released_file_has_is_not_written(layout):
    c = tiny_stable_diffusion.get_config("v1")
    assert list(released.rows(c, layout))
    c.unet.positions = True
    with pytest.raises(ValueError, match="unet.positions"):
        list(released.rows(c, layout))


def single(made, path, **more):
    """The single file of `made` with more arrays in it."""
    rows = released.rows(made.config, "original")
    (arrays,) = transfer.plans.outgoing(rows, made.held).values()
    extra = {name: own.held(np.asarray(x, np.float32)) for name, x in more.items()}
    streaming.write(path, arrays | extra, {})
    return opening.open_path(path)


def test_a_measured_scale_in_the_file_is_compared(made, tmp_path):
    scale = made.config.first_stage.scale
    opened = single(made, tmp_path / "a.safetensors", scale_factor=scale)
    opening.config_of(opened, made.config)
    opened = single(made, tmp_path / "b.safetensors", scale_factor=0.5)
    with pytest.raises(ValueError, match="first_stage.scale is 0.5, the config 0.18"):
        opening.config_of(opened, made.config)


def test_an_array_that_a_network_has_no_place_for_is_refused(made, tmp_path):
    name = "model.diffusion_model.extra.weight"
    opened = single(made, tmp_path / "a.safetensors", **{name: np.zeros(3)})
    with pytest.raises(ValueError, match=f"another model: 1 arrays .* {name}"):
        opening.plan(opened, made.config)
    opened = single(made, tmp_path / "b.safetensors", elsewhere=np.zeros(3))
    said = []
    opening.tell(opened, opening.plan(opened, made.config), said.append)
    assert "UNKNOWN to this model (1): elsewhere" in said[-1]


def test_a_folder_without_a_network_is_told(made, folder):
    (folder / "model_index.json").unlink()
    for file in (folder / "text_encoder").iterdir():
        file.unlink()
    with pytest.raises(ValueError, match="it has no text_encoder/"):
        opening.plan(opening.open_path(folder), made.config)


def test_other_parts_of_a_folder_are_told(made, folder):
    (folder / "safety_checker").mkdir()
    (folder / "safety_checker" / "config.json").write_text("{}")
    opened, said = opening.open_path(folder), []
    opening.tell(opened, opening.plan(opened, made.config), said.append)
    assert any("other parts of the folder: safety_checker" in line for line in said)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("unet.down_blocks.0.lora_A.weight", "it is a LoRA"),
        ("model.diffusion_model.joint_blocks.0.x", "SD3"),
        ("string_to_param.*", "--embedding=WORD=FILE"),
        ("down_blocks.0.resnets.0.norm1.weight", "name its folder"),
        ("something", "none of the networks known here"),
    ],
)
def test_other_files_are_told_apart(name, words):
    tensor = tensors.Tensor((3, 4), np.dtype("float32"), lambda: None)
    with pytest.raises(ValueError, match=words):
        detection.of_file({name: tensor}, {})


def test_a_damaged_shape_is_named():
    tensor = tensors.Tensor((3,), np.dtype("float32"), lambda: None)
    with pytest.raises(ValueError, match="has the shape .3,.: the file is damaged"):
        detection.of_file({BLOCK: tensor}, {})


def test_a_first_stage_is_found_by_its_hash(made, tmp_path):
    for name, number in (("cwd", 1.0), ("beside", 2.0)):
        (tmp_path / name).mkdir()
        file = tmp_path / name / "first_stage.safetensors"
        own.save_weights(file, {"first_stage": {"a": np.full(2, number)}}, {}, {})
    named, beside = (tmp_path / n / file.name for n in ("cwd", "beside"))
    for path in (named, beside):
        found = frozen.located(str(named), tmp_path / "beside", own.digest(path))
        assert found == path


def test_two_trees_with_one_leaf_are_not_merged():
    with pytest.raises(ValueError, match="two trees hold the parameters .'a/b'"):
        trees.merge({"a": {"b": 1}}, {"a": {"b": 2}})


@pytest.fixture(scope="module")
def started(made, tmp_path_factory):
    """The config of a run that begins with `made`, and its workdir."""
    folder = tmp_path_factory.mktemp("start") / "ours"
    transfer.to_ours(made, folder, None)
    c = made.config.copy_and_resolve_references()
    c.train.init = str(folder / transfer.DIFFUSION)
    c.first_stage.weights = str(folder / transfer.FIRST_STAGE)
    c.data.batch_size = 4
    return c, folder.parent / "run"


def changed(c, **values):
    c = c.copy_and_resolve_references()
    c.update_from_flattened_dict({k.replace("__", "."): x for k, x in values.items()})
    return c


def test_a_text_encoder_that_was_trained_is_not_replaced(started):
    """Also when the command that reads the run does not say that it was trained."""
    c, workdir = started
    run = runs.prepare(changed(c, train__trainable=("unet", "cond_stage")), workdir)
    path = "clip_tiny/norm_out/bias"
    moved = trees.flatten(run.state.params["cond_stage"])
    moved[path] = moved[path] + 1
    params = {**run.state.params, "cond_stage": trees.nested(moved)}
    run.state = run.state.replace(params=params, ema=params)
    runs.save(run, 0)
    run.manager.close()
    found, _ = runs.latest_params(c, workdir)
    np.testing.assert_array_equal(trees.flatten(found["cond_stage"])[path], moved[path])


def test_weights_of_another_kind_do_not_start_a_run(started, made):
    c, _ = started
    with pytest.raises(ValueError, match="predicts 'eps', loss.predicts is 'v'"):
        frozen.start(changed(c, loss__predicts="v"), system.build(c))
    other = made.held | {"first_stage/quant_conv/bias": own.held(np.ones(8, "f4"))}
    folder = pathlib.Path(c.train.init).parent.parent / "other"
    transfer.to_ours(transfer.Weights(c, other, "other"), folder, None)
    stage = str(folder / transfer.FIRST_STAGE)
    with pytest.raises(ValueError, match="was trained on the latents of first stage"):
        frozen.start(changed(c, first_stage__weights=stage), system.build(c))


def test_betas_in_the_file_are_followed_and_must_be_betas(made, tmp_path):
    betas = np.linspace(0.03, 0.1, 1000) ** 2
    opened = single(made, tmp_path / "a.safetensors", betas=betas)
    with pytest.raises(ValueError, match="schedule.beta_end is 0.0099.*, the config"):
        opening.config_of(opened, made.config)
    said = []
    opening.tell(opened, opening.plan(opened, made.config), said.append)
    assert any("it says of itself: schedule.beta_start 0.0008" in line for line in said)
    opened = single(made, tmp_path / "b.safetensors", betas=-betas)
    with pytest.raises(ValueError, match="must be between 0 and 1|the config"):
        opening.config_of(opened, made.config)


@pytest.mark.parametrize("name", ["betas", "scale_factor"])
@pytest.mark.parametrize(
    ("numbers", "words"),
    [(np.zeros(0), "holds 0 numbers"), (np.full(2, np.nan), "2 of 2 numbers that are")],
)
def test_damaged_numbers_beside_the_networks_are_named(
    made, tmp_path, name, numbers, words
):
    with pytest.raises(ValueError, match=f"a.safetensors: {name} .*{words}"):
        single(made, tmp_path / "a.safetensors", **{name: numbers})
