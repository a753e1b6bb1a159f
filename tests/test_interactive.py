"""A session: prompts drawn as they come, settings that compile nothing, its ends."""

import dataclasses
import io
import json
import re
import subprocess
import sys

import commands
import helpers
import jax
import numpy as np
from PIL import Image
import pytest
import tiny_text_to_image

from ldm_jax import (
    album,
    frozen,
    generation,
    interactive,
    jobs,
    pictures,
    sharding,
    system,
)
from ldm_jax.weights import own

COMPILED = []  # one entry for every program that XLA is given


@pytest.fixture(scope="module")
def counter():
    """A list that grows with every program."""

    def listen(name, seconds, **more):
        if name.endswith("backend_compile_duration"):
            COMPILED.append(name)

    jax.monitoring.register_event_duration_secs_listener(listen)
    return COMPILED


@pytest.fixture(scope="module")
def model():
    """Random weights on one device."""
    config = tiny_text_to_image.get_config()
    built = system.build(config)
    params = helpers.random_params(jax.eval_shape(built.init, jax.random.key(0)))
    mesh = sharding.make_mesh(devices=jax.devices()[:1])
    return generation.Model(
        config, built, jax.device_put(params, jax.devices()[0]), "random", mesh
    )


@pytest.fixture
def start(model, tmp_path):
    """The Session before the first line, two pictures at once."""
    return interactive.Session(model, album.Wanted(n=2), 2, tmp_path / "out")


def talk(session, *lines):
    """(the last Session, what was said)."""
    said = []
    return interactive.run(session, lines, said.append), said[1:]


def manifest(session):
    text = (session.out / jobs.MANIFEST).read_text()
    return [json.loads(line) for line in text.splitlines()]


def image(session, number):
    return np.asarray(Image.open(session.out / f"{number:05}.png"))


def test_prompts_are_numbered_on_and_the_manifest_grows(start):
    last, said = talk(start, "a fox", "", "  an owl ")
    assert said[-1].startswith("2 pictures in ")
    assert said[-1].endswith(f" s: {start.out}/00002.png to 00003.png")
    rows = manifest(start)
    assert [row["prompt"] for row in rows] == ["a fox"] * 2 + ["an owl"] * 2
    assert [row["index"] for row in rows] == [0, 1, 2, 3]
    assert [row["file"] for row in rows] == [f"{i:05}.png" for i in range(4)]
    grid = np.asarray(Image.open(start.out / "grid.png"))
    newest = np.stack([image(start, 2), image(start, 3)])
    np.testing.assert_array_equal(grid, pictures.grid(newest))
    talk(dataclasses.replace(last, wanted=start.wanted), "a castle")  # another session
    assert [row["index"] for row in manifest(start)] == [0, 1, 2, 3, 0, 1]
    assert (start.out / "00005.png").exists()


def announced(said):
    """What was said of programs to compile."""
    return [x for x in said if x.startswith(("compiling", "the next prompt compiles"))]


def test_only_steps_compile(start, counter):
    session, said = talk(start, "a fox")
    assert said[0].startswith("compiling for 2 steps")
    before = len(counter)
    lines = ["/scale 5", "/seed 7", "/negative blurry", "/n 3", "/index 9"]
    session, said = talk(session, *lines, "an owl", "/n 1", "/eta 0.5", "a castle")
    assert len(manifest(start)) == 6 and not announced(said)
    assert len(counter) == before
    session, said = talk(session, "/steps 3", "a fox", "/steps 2", "/steps 3")
    assert len(counter) > before
    assert announced(said) == [said[1], said[2]]
    (row,) = manifest(start)[6:]
    settings = {"scale": 5.0, "eta": 0.5, "steps": 3}
    assert row["settings"].items() >= settings.items()
    assert (row["seed"], row["index"], row["negative_prompt"]) == (7, 13, "blurry")


def test_a_picture_is_drawn_again_from_its_row(start, tmp_path):
    lines = ["a fox", "a fox", "/seed 0", "a fox", "/index 2", "a fox", "/seed 1"]
    talk(start, *lines, "a fox")
    drawn = [image(start, i) for i in range(10)]
    for i in range(4):
        np.testing.assert_array_equal(drawn[i], drawn[i + 4])
        assert all(np.any(drawn[i] != drawn[j]) for j in (*range(i), 8, 9))
    row = manifest(start)[3]
    wanted = album.Wanted((row["prompt"],), seed=row["seed"], index=row["index"])
    (again,) = album.draw(start.model, wanted, 2, tmp_path / "again")
    job = json.loads((tmp_path / "again" / jobs.JOB).read_text())
    assert (
        again
        | {"file": row["file"], "number": 3, "settings": job["settings"]}
        | {"weights": job["weights"]}
        == row
    )
    found = np.asarray(Image.open(tmp_path / "again" / again["file"]))
    np.testing.assert_array_equal(found, drawn[3])


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("/sede 7", "'/sede' is not one of /scale, .* did you mean '/seed'"),
        ("/", "'/' is not one of"),
        ("/scale", "say it as /scale NUMBER; it is 2.0"),
        ("/scale inf", "inf is not finite"),
        ("/seed -1", "-1 is not in 0 .. 2147483647"),
        ("/n 2 3", "say it as /n COUNT; it is 2"),
        ("/n 0", "0 is not in 1 .. 10000"),
        ("/steps 0", "0 is not in 1"),
        ("/steps 1001", "1001"),
    ],
)
def test_a_mistake_is_told_and_changes_nothing(start, line, words):
    session, said = talk(start, line)
    (told,) = said
    assert told.startswith("error: ")
    assert re.search(words, told)
    assert session == start


def test_words_that_do_not_fit_are_told_and_drawn(start):
    long = "a fox " * 20 + "owl"
    _, said = talk(start, "a \N{SNOWMAN} fox", long, "/negative \N{SNOWMAN}", "a fox")
    told = [x for x in said if "does not know" in x]
    assert len(told) == 2 and all("\N{SNOWMAN}" in x for x in told)
    assert [x for x in said if "41 pieces, 22 fit" in x]
    assert len(manifest(start)) == 6


def test_a_negative_prompt_without_guidance_is_told(start):
    session, said = talk(start, "/scale 1", "/negative blurry", "/negative")
    assert [x for x in said if "does nothing where the scale is 1" in x] == [said[2]]
    assert session.wanted.negative == ""


def test_help_names_every_command_and_what_holds(start):
    _, said = talk(start, "/seed 42", "/help")
    for name in interactive.COMMANDS:
        assert [x for x in said[1:] if x.startswith(name)]
    assert [x for x in said if x.startswith("/seed") and x.endswith("now 42")]


def test_quit_ends_before_the_next_line(start):
    talk(start, "/quit", "a fox")
    assert not start.out.exists()


def test_what_is_interrupted_has_its_whole_pictures_in_the_manifest(start, monkeypatch):
    save, saved = pictures.save_png, []

    def interrupted(path, *more):
        saved.append(path.name)
        if len(saved) == 2:
            raise KeyboardInterrupt
        save(path, *more)

    monkeypatch.setattr(pictures, "save_png", interrupted)
    _, said = talk(start, "a fox", "an owl")
    assert said[-1] == "interrupted"
    files = {path.name for path in start.out.glob("0*.png")}
    assert {row["file"] for row in manifest(start)} == files == {"00000.png"}


def test_a_picture_that_is_not_finite_does_not_end_the_session(start):
    broken = jax.tree.map(lambda x: x * np.nan, start.model.params)
    model = dataclasses.replace(start.model, params=broken)
    session, said = talk(dataclasses.replace(start, model=model), "a fox", "/n 5")
    assert said[-2].startswith("error: picture 0 is not finite")
    assert session.wanted.n == 5 and session.wanted.index == 0


def test_lines_of_a_pipe_that_are_no_text_are_read(monkeypatch):
    pipe = io.TextIOWrapper(io.BytesIO(b"a f\xffx\nan owl"), encoding="utf-8")
    monkeypatch.setattr(sys, "stdin", pipe)
    assert list(interactive.typed()) == ["a f\N{REPLACEMENT CHARACTER}x\n", "an owl"]


def test_the_command_draws_what_comes_through_a_pipe(model, tmp_path):
    stage = commands.first_stage(tmp_path / "stage.safetensors")
    config = model.config.copy_and_resolve_references()
    config.first_stage.weights = str(stage)
    params = {k: x for k, x in model.params.items() if k != "first_stage"}
    weights = tmp_path / "model.safetensors"
    meta = {"first_stage": frozen.digest(config)}
    own.save_weights(weights, params, config.to_dict(), meta)
    flags = [f"--weights={weights}", f"--out={tmp_path / 'out'}", "--index=4"]
    done = subprocess.run(
        [sys.executable, "-m", "ldm_jax.sample", "--interactive", *flags],
        cwd=commands.TESTS.parent,
        env=commands.environment(1),
        input="a fox\n/steps x\nan owl",
        capture_output=True,
        timeout=commands.PATIENCE,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "error: say it as /steps COUNT" in done.stdout
    assert f"{tmp_path / 'out' / '00001.png'}\n" in done.stdout
    text = (tmp_path / "out" / jobs.MANIFEST).read_text()
    assert [json.loads(line)["index"] for line in text.splitlines()] == [4, 5]
