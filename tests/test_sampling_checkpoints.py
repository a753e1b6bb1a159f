"""Released files as users meet them: converted, sampled from, trained on, refused."""

import json
import shutil

import commands
import helpers
import jax
import numpy as np
from PIL import Image
import pytest
import safetensors.numpy
import tiny_stable_diffusion

from ldm_jax import config as config_lib
from ldm_jax import exporting, runs, system, trees
from ldm_jax.exchange import released, transfer
from ldm_jax.weights import own

CONFIG = commands.TESTS / "tiny_stable_diffusion.py"
PROMPT = "--prompt=a (red:1.3) fox"


def config(variant):
    return tiny_stable_diffusion.get_config(variant)


def weights(c):
    """Random ones of a config."""
    params = trees.flatten(helpers.random_params(released.parameter_shapes(c)))
    held = {path: own.held(np.asarray(x)) for path, x in params.items()}
    return transfer.Weights(c, held, "a test")


def save(folder, variant):
    """A file of random weights with the original names."""
    out = folder / f"{variant}.safetensors"
    transfer.to_original(weights(config(variant)), out, None)
    return out


def save_branch(folder, variant):
    """A released ControlNet of random weights, converted: its file."""
    c = config(variant)
    c.control.update(hints=("canny",), channels=(16, 32))
    shapes = jax.eval_shape(system.init_control(c), jax.random.key(0))
    params = trees.flatten({"control": helpers.random_params(shapes, seed=4)})
    held = {path: own.held(np.asarray(x)) for path, x in params.items()}
    released_file = folder / "controlnet.safetensors"
    transfer.to_original(transfer.Weights(c, held, "a test"), released_file, None)
    found = transfer.read(released_file, c, say=lambda message: None)
    transfer.to_ours(found, folder / "branch", None)
    return folder / "branch" / transfer.CONTROL


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """{variant: file}, and "corrupt": one that was cut off."""
    folder = tmp_path_factory.mktemp("files")
    found = {name: save(folder, name) for name in ("xl-base", "v1-inpainting", "v2-v")}
    found["corrupt"] = folder / "corrupt.safetensors"
    found["corrupt"].write_bytes(found["v2-v"].read_bytes()[:9000])
    return found


def calls(command, cases):
    """[(exit code, what is printed)] of several calls of a command in one process."""
    given = json.dumps([[str(flag) for flag in case] for case in cases])
    code, printed = commands.run("mistakes", command, given)
    assert code == 0, printed
    return json.loads(printed.splitlines()[-1])


def assert_refused(cases, told):
    """cases: {flags: words}."""
    assert len(cases) == len(told)
    for (flags, words), (code, printed) in zip(cases.items(), told, strict=True):
        assert code == 2, (flags, printed)
        assert words in printed, (flags, printed)
        assert "Traceback" not in printed


@pytest.fixture(scope="module")
def converted(files, tmp_path_factory):
    """The folder of our own that `ldm_jax.convert` makes of the SDXL file."""
    out = tmp_path_factory.mktemp("converted") / "xl"
    there, new = out.parent / "there", out.parent / "new"
    there.mkdir()
    xl, told = f"--from={files['xl-base']}", f"--config={CONFIG}:xl-base"
    wrong = {
        (f"--from={files['v2-v']}", f"--to={new}"): "stable_diffusion.py:v2 or :v2-v",
        (f"--from={files['corrupt']}", f"--to={new}"): str(files["corrupt"]),
        (xl, f"--to={there}", told, "--layout=diffusers"): f"{there} exists",
        (xl, f"--to={there}", told, "--layout=original"): "one .safetensors file",
        (xl, f"--to={new}", told, "--average"): "does not hold the averaged weights",
        (xl, f"--to={new}", f"--config={CONFIG}:v1"): "Stable Diffusion XL, base",
        (f"--from={there}", f"--to={new}"): "no diffusers folder",
        (
            f"--from={out}.ckpt",
            f"--to={new}",
        ): f"no file or folder {out}.ckpt; nothing is",
    }
    good = (xl, f"--to={out}", told)
    (code, printed), *others = calls("ldm_jax.convert", [good, *wrong])
    assert code is None, printed
    assert "Stable Diffusion XL, base" in printed
    assert f"wrote {out}" in printed and "UNKNOWN" not in printed
    assert_refused(wrong, others)
    assert not list(there.iterdir())
    return out


def test_what_is_converted_is_what_was_read(files, converted):
    found = transfer.read(converted, say=lambda message: None)
    want = transfer.read(files["xl-base"], config("xl-base"), say=lambda message: None)
    assert found.held.keys() == want.held.keys()
    for path, tensor in want.held.items():
        np.testing.assert_array_equal(found.held[path].read(), tensor.read())
    assert (
        str(files["xl-base"])
        in own.open_weights(converted / transfer.DIFFUSION)[2]["from"]
    )


def pictures(folder):
    names = sorted(path.name for path in folder.glob("0*.png"))
    return np.stack([np.asarray(Image.open(folder / name)) for name in names])


def test_a_file_and_its_converted_folder_draw_the_same(files, converted, tmp_path):
    xl = f"--config={CONFIG}:xl-base"
    asked = [PROMPT, "--prompt=an owl", "--negative_prompt=blurry", "--steps=2"]
    file = f"--checkpoint={files['xl-base']}"
    names = ("file", "folder", "hole", "plain", "hinted", "hinted_folder")
    out = [tmp_path / name for name in names]
    code, printed = commands.run("ldm_jax.sample", file, xl, *asked, f"--out={out[0]}")
    assert code == 0, printed
    assert "Stable Diffusion XL, base" in printed

    stage = f"--config.first_stage.weights={converted / transfer.FIRST_STAGE}"
    weights = f"--weights={converted / transfer.DIFFUSION}"
    hole, image = tmp_path / "hole.png", tmp_path / "image.png"
    Image.fromarray(np.tri(16, dtype=np.uint8) * 255).save(hole)
    Image.fromarray(np.full((16, 16, 3), 90, np.uint8)).save(image)
    branch = save_branch(tmp_path, "xl-base")
    heard = (f"--control=canny={branch}", f"--hint={image}")
    v1 = (f"--checkpoint={files['v1-inpainting']}", f"--config={CONFIG}:v1-inpainting")
    good = [
        (weights, xl, stage, *asked, f"--out={out[1]}"),
        (*v1, PROMPT, f"--image={image}", f"--mask={hole}", f"--out={out[2]}"),
        (file, xl, *asked[:2], "--steps=2", f"--out={out[3]}"),
        (file, xl, *asked, *heard, f"--out={out[4]}"),
        (f"--weights={converted}", *asked, *heard, f"--out={out[5]}"),
    ]
    wrong = {
        (file, weights, PROMPT): "--checkpoint excludes --workdir and --weights",
        (file, xl): "say what to draw",
        (
            file,
            xl,
            PROMPT,
            f"--image={image}",
        ): "nothing says what is to change of --image",
        (*v1, PROMPT): "name --image=FILE and --mask=FILE",
        (file, xl, PROMPT, "--embedding=word"): "say it as WORD=FILE",
        (file, xl, PROMPT, "--length=100"): "cond_stage.length 100 must be a multiple",
        (f"--checkpoint={files['v2-v']}", PROMPT): "py:v2 or :v2-v",
        (f"--checkpoint={files['corrupt']}", PROMPT): str(files["corrupt"]),
        ("--average", PROMPT): "--average and --variant are of a released --checkpoint",
    }
    told = calls("ldm_jax.sample", [*good, *wrong])
    for code, printed in told[: len(good)]:
        assert code is None, printed
    assert_refused(wrong, told[len(good) :])

    found = pictures(out[0])
    assert found.shape == (2, 16, 16, 3) and np.any(found[0] != found[1])
    np.testing.assert_array_equal(pictures(out[1]), found)
    assert np.any(pictures(out[3]) != found)  # without the negative prompt
    assert np.any(pictures(out[4]) != found)  # a released branch over a released file
    np.testing.assert_array_equal(pictures(out[5]), pictures(out[4]))
    assert pictures(out[2]).shape == (1, 16, 16, 3)
    rows = [
        json.loads((folder / "manifest.jsonl").read_text().splitlines()[0])
        for folder in out[:2]
    ]
    assert rows[0]["negative_prompt"] == "blurry"
    told = [json.loads((folder / "job.json").read_text()) for folder in out[:2]]
    assert str(files["xl-base"]) in told[0]["weights"]
    assert told[1]["weights"] == own.digest(converted / transfer.DIFFUSION)


CONFIG_FILE = """
import tiny_stable_diffusion

def get_config():
    c = tiny_stable_diffusion.get_config("xl-base").copy_and_resolve_references()
    c.unet.update(mult=(1,), depths=(1,), mid_depth=1)
    c.train.init, c.first_stage.weights = {init!r}, {stage!r}
    c.train.steps = {steps}
    return c
"""


def small():
    """One level of SDXL's UNet: half of what training compiles."""
    c = config("xl-base").copy_and_resolve_references()
    c.unet.update(mult=(1,), depths=(1,), mid_depth=1)
    return config_lib.check(c)


def changed(start, folder):
    """Files like that of the UNet: with another number, and without an encoder."""
    params, saved, meta = own.load_weights(start)
    params["unet"]["conv_out"]["bias"] += 1
    own.save_weights(folder / "moved.safetensors", params, saved, meta)
    del params["cond_stage"]["clip_tiny"]
    own.save_weights(folder / "less.safetensors", params, saved, meta)
    return folder / "moved.safetensors", folder / "less.safetensors"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """(config, workdir) of a run of two steps, resumed after the first."""
    folder = tmp_path_factory.mktemp("training") / "folder"
    transfer.to_ours(weights(small()), folder, None)
    start, stage = (
        str(folder / name) for name in (transfer.DIFFUSION, transfer.FIRST_STAGE)
    )
    moved, less = changed(start, folder)

    def flags(number, run, init, stage=stage, steps=2):
        path, told = folder / f"config_{number}.py", dict(stage=stage, steps=steps)
        path.write_text(CONFIG_FILE.format(init=str(init), **told))
        return f"--config={path}", f"--workdir={folder / run}"

    by_flags = (
        f"--config.train.init={start}",
        f"--config.first_stage.weights={stage}",
    )
    first = (*flags(0, "run", "", "", steps=1), *by_flags)
    wrong = {
        flags(1, "run", moved): f"began with train.init {own.digest(start)}; {moved}",
        flags(3, "new", less): "only in the config's model",
        flags(4, "new", folder / "none"): f"no weights file {folder / 'none'}",
        flags(5, "new", start, ""): "first_stage.weights is empty",
    }
    told = calls("ldm_jax.train", [first, flags(7, "run", start), *wrong])
    for code, printed in told[:2]:
        assert code == 0, printed
    assert "restored" not in told[0][1] and "restored step 1" in told[1][1]
    assert_refused(wrong, told[2:])
    assert not (folder / "new").exists()
    c = small().copy_and_resolve_references()
    c.first_stage.weights, c.train.init = stage, start
    return config_lib.check(c), folder / "run"


def test_training_begins_with_the_file_and_moves_the_unet_alone(trained, tmp_path):
    c, workdir = trained
    began, _, _ = own.load_weights(c.train.init)
    c = c.copy_and_resolve_references()  # the file is told by what it holds
    c.train.init = shutil.copy(c.train.init, str(tmp_path / "elsewhere.safetensors"))
    rows = commands.rows(workdir)
    assert [r["step"] for r in rows if r["kind"] == "train"] == [1, 2]
    assert all(np.isfinite(row["loss"]) for row in rows if "loss" in row)
    params, step = runs.latest_params(c, workdir)
    assert step == 2 and params.keys() == {"unet", "cond_stage"}
    assert helpers.largest_difference(params["cond_stage"], began["cond_stage"]) == 0
    moved = jax.tree.map(np.subtract, params["unet"], began["unet"])
    gaps = [np.abs(x).max() for x in jax.tree.leaves(moved)]
    assert 0 < max(gaps) < 4 * c.optim.lr  # two steps of Adam, from the file's numbers
    assert np.mean([gap > 0 for gap in gaps]) > 0.9


def test_an_export_has_the_text_encoder_and_goes_back(trained, tmp_path):
    c, workdir = trained
    out = tmp_path / "model.safetensors"
    exporting.export(c, workdir, out, "float32", 0)
    params, _, meta = own.load_weights(out)
    assert params.keys() == {"unet", "cond_stage"} and meta["step"] == 2
    assert set(params["cond_stage"]) == set(c.cond_stage.encoders)
    again = tmp_path / "again.safetensors"
    transfer.to_original(transfer.read(out, say=lambda _: None), again, None)
    found = safetensors.numpy.load_file(again)
    transfer.to_original(weights(small()), tmp_path / "first.safetensors", None)
    began = safetensors.numpy.load_file(tmp_path / "first.safetensors")
    assert found.keys() == began.keys()
    same = {name for name in began if np.array_equal(found[name], began[name])}
    assert {n for n in began if n.startswith(("conditioner.", "first_stage"))} <= same
    unet = {n for n in began if n.startswith("model.diffusion_model.")}
    assert len(unet - same) > 0.9 * len(unet)
