"""The command `evaluate` on the embedded weights, with the real judge."""

import json
import re

import commands
import helpers
import jax
import numpy as np
from PIL import Image
import pytest
import tiny_autoencoder

from ldm_jax import checkpoint, config, paths, runs, system
from ldm_jax.weights import own


@pytest.mark.fetched
def test_text_is_one_line_of_figures(tmp_path):
    flags = ["--names=3", "--seeds=1", "--steps=2", "--scale=2", f"--out={tmp_path}"]
    told = json.loads(commands.said("ldm_jax.evaluate", "--task=text", *flags))
    assert told["task"] == "text" and told["n"] == 3 and told["steps"] == 2
    for part in (told, told["ceiling"], told["shuffled"]):
        assert 0 <= part["own_nearest"] <= part["own_in_5"] <= 1
        assert 0 <= part["colour"] <= 1
    assert told["ceiling"]["own_in_5"] == 1
    assert told["weights"] == own.digest(
        paths.resolve("demo:text_to_image.safetensors")
    )
    with Image.open(tmp_path / "text.png") as image:
        assert np.asarray(image).std() > 0


@pytest.mark.fetched
def test_reconstruction_is_one_line_of_figures(tmp_path):
    flags = ["--task=reconstruction", "--n=4", f"--out={tmp_path}"]
    told = json.loads(commands.said("ldm_jax.evaluate", *flags))
    assert told["task"] == "reconstruction" and told["n"] == 4 and told["factor"] == 4
    assert told["lpips_net"] == "vgg16" and told["trained_on"] == "alexnet"
    rival = told["down_up"]
    assert told["psnr"] > rival["psnr"] > 15
    assert told["ssim"] > rival["ssim"] > 0.5
    assert 0 < told["lpips"] < rival["lpips"]
    assert 0 < told["rfd"] < rival["rfd"]
    assert 1 > told["gradient_energy"] > rival["gradient_energy"] > 0
    assert len(told["latent_mean"]) == len(told["latent_std"]) == 4
    assert told["scale"] == pytest.approx(0.948, rel=0.3)  # that of training pictures
    with Image.open(tmp_path / "reconstruction.png") as image:
        assert np.asarray(image).std() > 0


@pytest.mark.fetched
def test_reconstruction_by_another_judge_without_the_rival():
    flags = ["--task=reconstruction", "--n=2", "--judge=alexnet", "--norival"]
    told = json.loads(commands.said("ldm_jax.evaluate", *flags))
    assert told["lpips_net"] == told["trained_on"] == "alexnet"
    assert 0 < told["lpips"] < 0.5 and "down_up" not in told


@pytest.mark.fetched
def test_features_are_one_line_of_figures(tmp_path):
    flags = ["--task=features", "--n=8", "--steps=2", "--sampler=ddpm", "--grid=ldm"]
    flags += [f"--out={tmp_path}", "--dataset=emoji_scenes"]
    told = json.loads(commands.said("ldm_jax.evaluate", *flags))
    assert told["task"] == "features" and told["n"] == 8 and told["seed"] == 0
    assert 0 < told["floor"] < told["fd"] and 0 < told["ceiling"] < told["fd"]
    assert told["dataset"] == "emoji_scenes" and told["split"] == "heldout"
    assert told["sampler"] == "ddpm" and told["grid"] == "ldm" and told["steps"] == 2
    assert len(told["features_file"]) == len(told["weights"]) == 12
    with Image.open(tmp_path / "features.png") as image:
        assert np.asarray(image).std() > 0


@pytest.mark.fetched
def test_the_step_that_is_asked_for_is_judged_and_told(tmp_path):
    c = tiny_autoencoder.get_config()
    init = jax.jit(runs.initial_state(c, system.build(c)))
    manager = checkpoint.open(tmp_path / "checkpoints")
    for step in (5, 9):
        state = init(jax.random.key(step))
        checkpoint.save(manager, step, state, runs.about(c, step))
    manager.close()
    flags = ["--task=reconstruction", "--n=2", "--norival", f"--workdir={tmp_path}"]
    flags += [f"--config={tiny_autoencoder.__file__}"]
    newest, asked, same = (
        json.loads(commands.said("ldm_jax.evaluate", *flags, *step))
        for step in ([], ["--step=5"], ["--step=9"])
    )
    assert "step" not in newest and asked["step"] == 5 and same["step"] == 9
    assert asked["psnr"] != newest["psnr"] == same["psnr"]


def random_judge(path):
    """Writes a judge of random weights for pictures of 64 pixels."""
    c = config.judge()
    c.data.update(name="emoji_scenes", image_size=64)
    c.unet.update(channels=8, mult=(1,), blocks=1, groups=4, depths=(0,), mid_depth=0)
    c.unet.update(heads=1, head_channels=0)
    shapes = jax.eval_shape(system.build(config.check(c)).init, jax.random.key(0))
    own.save_weights(path, helpers.random_params(shapes), c.to_dict(), {})
    return path


def test_scenes_are_one_line_of_figures(tmp_path):
    """By a judge that knows nothing: the numbers are any, and all of them are there."""
    judge = random_judge(tmp_path / "judge.safetensors")
    flags = ["--task=scenes", "--n=3", "--steps=2", f"--judge_weights={judge}"]
    told = json.loads(commands.said("ldm_jax.evaluate", *flags, f"--out={tmp_path}"))
    assert told["task"] == "scenes" and told["n"] == 3 and told["least"] >= 1
    for part in (told, told["real"], told["ceiling"], told["shuffled"]):
        assert 0 <= part["found"] <= 1 and 0 <= part["pair_found"] <= 1
        assert part["extra"] >= 0 and set(part["found_by_count"]) <= set("2345")
    assert set(told["half_way"]) == {"found", "pair_found", "relations"}
    assert told["judge"] == own.digest(judge) and told["steps"] == 2
    with Image.open(tmp_path / "scenes.png") as image:
        assert np.asarray(image).std() > 0


MISTAKES = {
    "--step is of a run: name its --workdir": ["--task=features", "--step=3"],
    "'scene' is not one of .* did you mean 'scenes'": ["--task=scene"],
    "'emoji' is not one of emoji_singles": ["--task=features", "--dataset=emoji"],
    "'dimm' is not one of ddim, ddpm": ["--task=text", "--sampler=dimm"],
    "no 300 steps of 1000": ["--task=text", "--grid=ldm", "--steps=300"],
    "there is no judge in .*nowhere": ["--task=scenes", "--judge_weights=nowhere"],
    "task 'autoencoder' does not sample.*": [
        *("--task=text", "--steps=3", "--config=configs/demo_autoencoder.py"),
    ],
    "task 'autoencoder' does not sample; latent_diffusion does": [
        *("--task=control", "--control=demo:canny.safetensors"),
        "--config=configs/demo_autoencoder.py",
    ],
    "--task=reconstruction does not read --scale, which is of text, scenes": [
        *("--task=reconstruction", "--scale=3"),
    ],
    "--task=text does not read --n, which is of scenes": ["--task=text", "--n=3"],
    "--task=scenes does not read --rival": ["--task=scenes", "--norival"],
    "task 'judge': it has no first stage": [
        *("--task=reconstruction", "--config=configs/demo_judge.py"),
    ],
    "--task=scenes needs the config of a model that takes prompts": [
        *("--task=scenes", "--config=configs/demo_autoencoder.py"),
    ],
}


def test_mistakes_are_told_before_anything_is_drawn():
    cases = json.dumps([*MISTAKES.values()])
    told = json.loads(commands.said("mistakes", "ldm_jax.evaluate", cases))
    for words, (code, said) in zip(MISTAKES, told, strict=True):
        assert code == 2 and re.search(words, said), said
