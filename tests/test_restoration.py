"""Rivals of super-resolution and in-painting by hand, and the command on both."""

import json

import commands
import numpy as np
from PIL import Image
import pytest
import test_condition_fidelity

from ldm_jax import config, evaluation, restoration
from ldm_jax.data import masks


def test_the_mean_of_what_is_around_fills_a_hole():
    images = np.zeros((2, 4, 4, 3), np.uint8)
    images[0, :2], images[0, 2:] = 100, 201
    images[1] = 7
    hole = np.zeros((2, 4, 4), np.uint8)
    hole[0, 2:, :2] = 1  # a quarter: around it are 8 of 100 and 4 of 201
    hole[1, 0, 0] = 1
    filled = restoration.mean_fill(images, hole)
    assert (filled[0, 2:, :2] == 134).all() and (filled[1] == 7).all()
    assert (filled[hole == 0] == images[hole == 0]).all()
    assert (images[0, 2:] == 201).all()  # the given ones stay as they are


def test_telea_goes_on_with_what_is_around():
    """Across a hole in two flat halves, each goes on on its own side."""
    image = np.full((1, 32, 32, 3), (200, 30, 90), np.uint8)
    image[:, :, 16:] = 20, 180, 240
    hole = np.zeros((1, 32, 32), np.uint8)
    hole[:, 10:22, 4:28] = 1
    given = np.where(hole[..., None] > 0, np.uint8(0), image)
    filled = restoration.telea(given, hole)
    assert (filled[hole == 0] == image[hole == 0]).all()
    error = np.abs(filled.astype(int) - image)
    assert error[:, :, [5, 26]].max() <= 2
    assert error.mean() < 0.3 * np.abs(given.astype(int) - image).mean()


def test_bicubic_enlarges_flat_colours_and_steps():
    low = np.zeros((2, 4, 4, 3), np.uint8)
    low[0], low[1, :, 2:] = 77, 200
    large = restoration.enlarged(low, 16)
    assert large.shape == (2, 16, 16, 3) and (large[0] == 77).all()
    assert (large[1, :, :4] < 10).all() and (large[1, :, 12:] > 190).all()


def tiny(task):
    c = config.demo(steps=101)
    c.data.update(name="emoji_scenes", batch_size=2)
    c.unet.update(channels=8, mult=(1, 1), depths=(0, 0), groups=4, head_channels=8)
    c.unet.update(attention="plain", positions=False)
    c.train.pictures = c.sample.steps = 2
    if task == "low_res":
        c.cond_stage.update(kind="low_res", stages=2)
    else:
        c.data.holes = "lama"
        c.cond_stage.inpaint = "ldm"
    return config.check(c)


RIVALS = {"low_res": {"bicubic"}, "inpaint": {"mean", "telea"}}


@pytest.mark.fetched
@pytest.mark.parametrize("task", RIVALS)
def test_the_command_says_one_line_of_figures(task, tmp_path):
    path = tmp_path / "weights.safetensors"
    test_condition_fidelity.weights(path, tiny(task))
    flags = ["--task=restoration", "--n=3", f"--weights={path}", f"--out={tmp_path}"]
    told = json.loads(commands.said("ldm_jax.evaluate", *flags))
    sides = {name: told[name] for name in RIVALS[task] | {"ceiling"}}
    assert told["task"] == "restoration" and told["n"] == 3 and told["steps"] == 2
    assert told["lpips_net"] == "vgg16"  # the first stage was trained on the other
    for name, side in sides.items():
        assert 0 < side["lpips"] < 1 and side["gradient_energy"] > 0
        # Random weights draw noise.
        assert side["psnr"] > told["psnr"] or name == "mean", name
    assert sides["ceiling"]["lpips"] == min(side["lpips"] for side in sides.values())
    with Image.open(tmp_path / "restoration.png") as image:
        columns = 2 + 1 + len(RIVALS[task])
        assert np.asarray(image).std() > 0 and image.width == 2 + 66 * 3 * columns


def test_holes_leave_what_is_around_them():
    """The pictures that the figures are of differ in the hole alone."""
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 256, (2, 32, 32, 3)).astype(np.uint8)
    examples = [{"mask": masks.free(rng, 32, "box")} for _ in truth]
    given, sides, where = restoration._of_holes(examples, truth)
    for images in (given, *sides.values()):
        assert (images[where == 0] == truth[where == 0]).all()
        assert (images[where > 0] != truth[where > 0]).any()
    assert np.isfinite(evaluation.psnr(truth, sides["telea"])).all()


@pytest.mark.parametrize(("much", "value"), [("all", 1), ("none", 0)])
def test_a_hole_that_leaves_nothing_to_do_is_refused(much, value):
    truth = np.zeros((2, 32, 32, 3), np.uint8)
    half = np.zeros((32, 32), np.uint8)
    half[:16] = 1
    examples = [{"mask": half}, {"mask": np.full((32, 32), value, np.uint8)}]
    with pytest.raises(ValueError, match=f"held-out picture 1 is {much} of it"):
        restoration._of_holes(examples, truth)
