"""The command `reconstruct`, as users run it, on a random first stage."""

import json

import commands
import numpy as np
from PIL import Image
import pytest

from ldm_jax import evaluation
from ldm_jax.weights import own


@pytest.fixture(scope="module")
def stage(tmp_path_factory):
    return commands.first_stage(tmp_path_factory.mktemp("stage") / "stage.safetensors")


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    """23 x 37 pixels: an odd size in both directions."""
    path = tmp_path_factory.mktemp("photo") / "photo.png"
    gen = np.random.default_rng(0)
    Image.fromarray(gen.integers(0, 256, (23, 37, 3)).astype(np.uint8)).save(path)
    return path


def flags(stage, photo, out, *more):
    config = commands.TESTS / "tiny_autoencoder.py"
    named = [f"--image={photo}", f"--out={out}", f"--weights={stage}"]
    return [*named, f"--config={config}", *more]


def pixels(path):
    with Image.open(path) as image:
        return np.asarray(image)


def test_three_ways_are_one_line_of_figures_each(stage, photo, tmp_path):
    modes = {
        "whole": [],
        "exact": [],
        "patch": ["--patch=16", "--stride=8"],
    }
    told, restored, original = {}, {}, pixels(photo)
    for mode, more in modes.items():
        out = tmp_path / f"{mode}.png"
        given = flags(stage, photo, out, f"--mode={mode}", *more)
        told[mode] = json.loads(commands.said("ldm_jax.reconstruct", *given))
        restored[mode] = pixels(out)
        assert told[mode]["mode"] == mode and told[mode]["factor"] == 2
        assert (told[mode]["height"], told[mode]["width"]) == (23, 37)
        pair = restored[mode][None], original[None]
        assert told[mode]["psnr"] == pytest.approx(evaluation.psnr(*pair)[0], 1e-5)
        assert told[mode]["ssim"] == pytest.approx(evaluation.ssim(*pair)[0], 1e-4)
        assert told[mode]["weights"] == own.digest(stage)
        assert told[mode]["seconds"] > 0
    assert told["patch"]["seams"] > 0 and told["patch"]["patch"] == 16
    assert not {"seams", "patch", "stride"} & told["exact"].keys()
    gaps = {m: np.abs(restored[m].astype(int) - restored["whole"]) for m in modes}
    assert gaps["exact"].max() <= 1 < gaps["patch"].max()


def test_mistakes_are_told(stage, photo, tmp_path):
    out, text = tmp_path / "out.png", tmp_path / "text.png"
    text.write_text("no picture")
    short = tmp_path / "short.png"
    short.write_bytes(photo.read_bytes()[:500])
    given = lambda *more, image=photo, out=out: flags(stage, image, out, *more)
    cases = [
        (given(image=text), f"{text} is no picture that can be read"),
        (given(image=short), f"{short} is no picture that can be read"),
        (given(image=tmp_path / "none.png"), "no picture "),
        (given(out=tmp_path / "out.jpg"), "out.jpg must end in .png"),
        (given(out=tmp_path / "none" / "out.png"), "its folder does not exist"),
        (given("--mode=exakt"), "'exakt' is not one of whole, patch, exact"),
        (given("--patch=8"), "--patch, --stride, --tie_breaker are of"),
        (given("--mode=patch", "--patch=64"), "a patch of 64 pixels does not fit into"),
        (given("--mode=patch", "--patch=8", "--stride=10"), "at most the patch, 8"),
        (given("--mode=patch", "--patch=9", "--stride=3"), "must be multiples of 2"),
        (given("--mode=patch", "--patch=0"), "patch"),
        (given(f"--workdir={tmp_path}"), "--workdir and --weights exclude"),
        ([f"--image={photo}"], "--out"),
        (given()[:-1] + ["--weights=demo:judge.safetensors"], "it has no first stage"),
    ]
    arguments = json.dumps([case for case, _ in cases])
    code, printed = commands.run("mistakes", "ldm_jax.reconstruct", arguments)
    assert code == 0, printed
    told = json.loads(printed.splitlines()[-1])
    for (case, words), (code, printed) in zip(cases, told, strict=True):
        assert code == 2, (case, printed)
        assert words in printed, (case, printed)
        assert "Traceback" not in printed, case
    assert not out.exists()
