"""The command `evaluate` on the embedded weights, with the real judge."""

import json

import commands
import numpy as np
from PIL import Image
import pytest

from ldm_jax import paths
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
