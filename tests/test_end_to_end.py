"""Whole runs of `python -m ldm_jax.train`: cut off, resumed, spread, broken."""

import commands
import jax
import numpy as np
import pytest
import tiny_text_to_image

from ldm_jax import checkpoint, runs, system

STEPS = 12
KINDS = ("train", "validation")


def flags(workdir, stage, *more):
    return [
        *("ldm_jax.train", f"--config={commands.CONFIG}", f"--workdir={workdir}"),
        *(f"--config.first_stage.weights={stage}", f"--config.train.steps={STEPS}"),
        *("--config.train.validate_every=4", "--config.train.checkpoint_every=3"),
        *("--config.train.picture_every=100", *more),
    ]


@pytest.fixture(scope="module")
def stage(tmp_path_factory):
    return commands.first_stage(tmp_path_factory.mktemp("stage") / "stage.safetensors")


@pytest.fixture(scope="module")
def straight(tmp_path_factory, stage):
    """The rows of a run that nothing cut off."""
    workdir = tmp_path_factory.mktemp("straight")
    code, printed = commands.run(*flags(workdir, stage))
    assert code == 0, printed
    return commands.rows(workdir)


def test_every_row_is_there_and_finite(straight):
    steps = {kind: [r["step"] for r in straight if r["kind"] == kind] for kind in KINDS}
    assert steps == {"train": [*range(1, STEPS + 1)], "validation": [4, 8, 12]}
    assert all(np.isfinite(row["loss"]) for row in straight if "loss" in row)
    assert straight[0]["loss"] != straight[1]["loss"]


def test_the_power_average_is_what_is_validated(straight, stage, tmp_path):
    """It trains as the other does, and its average is another."""
    power = "--config.train.ema_decay=0.0", "--config.train.ema_std=0.1"
    code, printed = commands.run(*flags(tmp_path, stage, *power))
    assert code == 0, printed
    for row, wanted in zip(commands.rows(tmp_path), straight, strict=True):
        same = row == wanted
        assert same if row["kind"] == "train" else not same


def test_a_killed_run_goes_on_to_the_same_numbers(straight, stage, tmp_path):
    # Before the first checkpoint, while one is being written, and in between.
    killed_at = [("row", 2, 0), ("save", 6, 1), ("row", 11, 3)]
    for place, step, workers in killed_at:
        run = flags(tmp_path, stage, f"--config.data.workers={workers}")
        code, printed = commands.run("interrupted", "SIGKILL", place, step, *run)
        assert code == -9, printed
        assert commands.rows(tmp_path)[-1]["step"] == step
    code, printed = commands.run(*flags(tmp_path, stage))
    assert code == 0, printed
    assert commands.rows(tmp_path) == straight


def test_sigterm_saves_the_step_it_stops_at(straight, stage, tmp_path):
    run = flags(tmp_path, stage)
    code, printed = commands.run("interrupted", "SIGTERM", "row", 4, *run)
    assert code == 75, printed
    saved = int(saved_state(tmp_path).step)
    assert commands.rows(tmp_path)[-1]["step"] == saved < STEPS
    # Again before the first step: there is nothing new to save.
    code, printed = commands.run("interrupted", "SIGTERM", "restore", saved, *run)
    assert code == 75, printed
    code, printed = commands.run(*run)
    assert code == 0, printed
    assert f"restored step {saved}" in printed
    assert commands.rows(tmp_path) == straight


def test_four_devices_compute_what_one_does(straight, stage, tmp_path):
    run = flags(tmp_path, stage, "--config.parallel.fsdp=2")
    code, printed = commands.run(*run, devices=4)
    assert code == 0, printed
    spread = commands.rows(tmp_path)
    assert len(spread) == len(straight)
    for row, want in zip(spread, straight, strict=True):
        assert row.keys() == want.keys()
        for name in ("loss", "grad_norm", "loss_simple", "loss_vlb"):
            if name in want:
                assert row[name] == pytest.approx(want[name], rel=1e-5)


def test_steps_that_are_not_finite_end_the_run(stage, tmp_path):
    bad = ["--config.optim.lr=1e30", "--config.train.max_bad_steps=2"]
    bad += ["--config.train.checkpoint_every=1"]
    code, printed = commands.run(*flags(tmp_path, stage, *bad))
    assert code == 2, printed
    assert "2 steps in a row" in printed
    assert "Lower optim.lr" in printed
    assert "Traceback" not in printed
    state = saved_state(tmp_path)
    # The first update is too large already: nothing was ever changed.
    assert state.step == 1 and state.extra["bad_steps"] == 1
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(state))


def stage_flags(workdir):
    return [
        *("ldm_jax.train", f"--config={commands.TESTS / 'tiny_autoencoder.py'}"),
        *(f"--workdir={workdir}", "--config.train.steps=6"),
        *("--config.train.validate_every=3", "--config.train.checkpoint_every=2"),
        *("--config.train.picture_every=3", "--config.loss.disc_start=3"),
    ]


def test_a_first_stage_goes_on_to_the_same_numbers_too(tmp_path):
    """Two optimizers, and batch statistics that are restored with them."""
    code, printed = commands.run(*stage_flags(tmp_path / "straight"))
    assert code == 0, printed
    straight = commands.rows(tmp_path / "straight")
    train = [row for row in straight if row["kind"] == "train"]
    assert [row["disc_loss"] > 0 for row in train] == [False] * 3 + [True] * 3
    assert [row["gan_weight"] > 0 for row in train] == [False] * 3 + [True] * 3
    checked = [row for row in straight if row["kind"] == "validation"]
    assert [row["step"] for row in checked] == [3, 6]
    assert all(np.isfinite(row["psnr"]) for row in checked)
    sheets = sorted((tmp_path / "straight" / "pictures").iterdir())
    assert [path.name for path in sheets] == ["0000003.png", "0000006.png"]

    run = stage_flags(tmp_path / "killed")
    code, printed = commands.run("interrupted", "SIGKILL", "row", 5, *run)
    assert code == -9, printed
    code, printed = commands.run(*run)
    assert code == 0, printed
    assert "restored step" in printed  # 4, or 2 if that was still being written
    assert commands.rows(tmp_path / "killed") == straight


def saved_state(workdir):
    """The newest checkpoint of a tiny run."""
    c = tiny_text_to_image.get_config()
    shapes = jax.eval_shape(runs.initial_state(c, system.build(c)), jax.random.key(0))
    manager = checkpoint.open(workdir / "checkpoints", read_only=True)
    state, _ = checkpoint.restore(manager, checkpoint.latest(manager), shapes)
    manager.close()
    return state
