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
def test_reconstruction_is_one_line_of_figures():
    told = json.loads(
        commands.said("ldm_jax.evaluate", "--task=reconstruction", "--n=4")
    )
    assert told["task"] == "reconstruction" and told["n"] == 4 and told["factor"] == 4
    assert told["psnr"] > told["down_up"]["psnr"] > 15
    assert told["ssim"] > told["down_up"]["ssim"] > 0.5
    assert 0 < told["lpips"] < told["down_up"]["lpips"]
