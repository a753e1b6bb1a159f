"""The scripts in launch/: they parse, keep what the user set, and repeat safely."""

import os
import pathlib
import re
import shutil
import stat
import subprocess
import sys

import pytest

from ldm_jax import paths
from ldm_jax.data import captions, sprites, tokenize

ROOT = pathlib.Path(__file__).resolve().parent.parent
SCRIPTS = sorted([*ROOT.glob("launch/*.sh"), ROOT / ".ci" / "run"])
YNN = "--xla_cpu_experimental_ynn_fusion_type=reduce,dot"


@pytest.fixture
def clone(tmp_path):
    """A folder with launch/ alone, whose environment is the Python of this test."""
    shutil.copytree(ROOT / "launch", tmp_path / "launch")
    return tmp_path


def bash(folder, command, **environ):
    """Runs a line of bash in an environment that holds only what is named."""
    path = f"{pathlib.Path(sys.executable).parent}:/usr/bin:/bin"
    return subprocess.run(
        ["bash", "-c", f"set -euo pipefail; {command}"],
        cwd=folder,
        env={"PATH": path, "HOME": str(folder), **environ},
        text=True,
        capture_output=True,
        check=False,
    )


def source(folder, command, **environ):
    """Sources env.sh, then runs a line; returns what both printed."""
    done = bash(folder, f"source launch/env.sh; {command}", **environ)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip(), done.stderr


def fake_python(folder, body):
    """A `python` that answers at once; returns the folder to put first on PATH."""
    bin_folder = folder / "bin"
    bin_folder.mkdir()
    (bin_folder / "python").write_text(f"#!/bin/bash\n{body}\n")
    (bin_folder / "python").chmod(0o755)
    return f"{bin_folder}:/usr/bin:/bin"


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_script_parses(script):
    done = subprocess.run(["bash", "-n", script], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("own", ["", "glibc.malloc.check=0"])
def test_huge_pages_are_asked_for_unless_the_user_tuned_glibc(clone, own):
    said, _ = source(clone, "echo $GLIBC_TUNABLES", GLIBC_TUNABLES=own)
    assert said == (own or "glibc.malloc.hugetlb=1")


def test_a_flag_is_tried_before_it_is_set(clone):
    add = "XLA_FLAGS=; ldm_jax_add_xla_flag"
    known = "--xla_force_host_platform_device_count=2"
    assert source(clone, f'{add} {known}; echo "$XLA_FLAGS"')[0] == known
    out, err = source(clone, f'{add} --xla_no_such_flag=1; echo "$XLA_FLAGS"')
    assert out == ""
    assert "left --xla_no_such_flag=1 out" in err


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", YNN),
        ("--xla_a=1", f"--xla_a=1 {YNN}"),
        (f"{YNN}DOT", f"{YNN}DOT"),
        (f"--xla_a=1 {YNN}DOT --xla_b", f"--xla_a=1 {YNN}DOT --xla_b"),
        ("flags.txt", "flags.txt"),
    ],
)
def test_the_users_flags_stay(clone, before, after):
    path = fake_python(clone, "exit 0")
    out, _ = source(clone, 'echo "$XLA_FLAGS"', PATH=path, XLA_FLAGS=before)
    assert out == after


def test_a_second_time_changes_nothing(clone):
    path = fake_python(clone, "echo tried >> tries")
    out, _ = source(clone, "env > a; source launch/env.sh; env > b", PATH=path)
    assert out == ""
    assert (clone / "a").read_text() == (clone / "b").read_text()
    assert (clone / "tries").read_text() == "tried\n"


def test_no_cpu_no_flag(clone):
    path = fake_python(clone, "exit 0")
    out, _ = source(clone, 'echo "[${XLA_FLAGS:-}]"', PATH=path, JAX_PLATFORMS="cuda")
    assert out == "[]"


def test_the_cache_is_private(clone):
    path = fake_python(clone, "exit 0")
    show = 'echo "$JAX_COMPILATION_CACHE_DIR"'
    folder = pathlib.Path(source(clone, show, PATH=path)[0])
    assert folder == clone / ".cache" / "ldm_jax" / "jax"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    mine = {"PATH": path, "JAX_COMPILATION_CACHE_DIR": "/mine"}
    assert source(clone, show, **mine)[0] == "/mine"


def test_the_environment_of_the_checkout_comes_first(clone):
    (clone / ".venv" / "bin").mkdir(parents=True)
    os.symlink("/bin/true", clone / ".venv" / "bin" / "python")
    out, _ = source(clone, "command -v python")
    assert out == f"{clone}/.venv/bin/python"


def test_setup_installs_what_is_new_and_only_that(clone):
    (clone / "requirements.txt").write_text("# nothing yet\n")
    (clone / "requirements-extra.txt").write_text("# nothing yet\n")
    setup = f"PYTHON={sys.executable} bash launch/setup.sh"

    first = bash(clone, setup)
    assert first.returncode == 0, first.stderr
    assert "making .venv" in first.stdout
    assert "installing requirements.txt" in first.stdout

    (clone / "requirements-extra.txt").write_text("# more\n")
    second = bash(clone, f"{setup} requirements-extra.txt")
    assert second.returncode == 0, second.stderr
    assert second.stdout.splitlines() == [
        "setup: requirements.txt is installed",
        "setup: installing requirements-extra.txt into .venv",
    ]


def test_setup_says_that_there_is_no_python(clone):
    path = fake_python(clone, "exit 1")  # as an older Python answers
    for tool in ("bash", "dirname"):
        os.symlink(shutil.which(tool), clone / "bin" / tool)
    done = bash(clone, "bash launch/setup.sh", PATH=path.split(":")[0])
    assert done.returncode == 1
    assert "found no Python of version 3.11 or newer" in done.stderr


def test_quickstart_draws_and_says_how_to_go_on(clone):
    (clone / "launch" / "setup.sh").write_text("echo set up\n")
    path = fake_python(clone, 'echo "$# arguments, the last is ${@: -1}"')
    done = bash(clone, "bash launch/quickstart.sh there", PATH=path)
    assert done.returncode == 0, done.stderr
    ready, drawing, ran, more, again, times, *_, last = done.stdout.splitlines()
    assert (ready, drawing) == ("set up", "quickstart: drawing 16 pictures")
    assert ran == f"22 arguments, the last is --out={clone}/there"
    assert more == "quickstart: drawing 8 more by the edges of one of them"
    assert again == f"13 arguments, the last is --out={clone}/there/control"
    said = f"installed in [0-9]+ s, sampled in [0-9]+ s; look at {clone}/there/grid.png"
    said += f" and {clone}/there/control/grid.png"
    assert re.fullmatch(f"quickstart: {said}", times)
    assert last.strip() == "python -m ldm_jax.sample --interactive"


def test_quickstart_asks_for_what_the_captions_say():
    script = (ROOT / "launch" / "quickstart.sh").read_text()
    prompts = re.findall(r'^  "(an? .*)"$', script, re.MULTILINE)
    loaded = sprites.load()
    names = {loaded.names[i] for i in loaded.scene_indices}
    singles = {captions.single_caption(n, c) for n in names for c in captions.COLOURS}
    assert len(prompts) == 20 and set(prompts[:8]) <= singles
    words = tokenize.load_tokenizer(paths.resolve("demo:vocab.txt"), 64)
    words(prompts)  # raises where one is too long
    assert [word for prompt in prompts for word in words.unknown(prompt)] == []
    relation = rf"the ([\w ]+) (?:{'|'.join(captions.RELATIONS)}) the ([\w ]+)"
    ground, sky = "|".join(captions.GROUNDS), "|".join(captions.SKIES)
    for prompt in prompts[16:]:  # by edges: what is where is not said
        assert re.search(rf"\b({ground}) under a ({sky}) sky", prompt)
    for prompt in prompts[8:16]:
        place, said = prompt.split(", ")
        assert re.search(rf"\b({ground})\b.* under a ({sky}) sky", place)
        pair = re.fullmatch(relation, said).groups()
        assert all(name in {*names, "person"} and name in place for name in pair)
        assert not captions.held_out(*pair)
