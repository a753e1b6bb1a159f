"""The command that samples, by the embedded weights: what it does and refuses."""

import json
import re

import commands
import numpy as np
from PIL import Image
import pytest

from ldm_jax import jobs

FOX = "--prompt=a fox on a teal background"
FEW = "--steps=2"


def calls(arguments):
    """[(exit code, what was printed)] of each list of flags, all in one process."""
    given = json.dumps([list(map(str, flags)) for flags in arguments])
    code, printed = commands.run("mistakes", "ldm_jax.sample", given)
    assert code == 0, printed
    return [tuple(pair) for pair in json.loads(printed.splitlines()[-1])]


@pytest.fixture
def files(tmp_path):
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(tmp_path / "a.png")
    Image.fromarray(np.zeros((32, 32), np.uint8)).save(tmp_path / "small.png")
    (tmp_path / "empty.txt").write_text("\n \n")
    (tmp_path / "one.txt").write_text("a fox on a teal background\n")
    (tmp_path / "scale.jsonl").write_text('{"prompt": "a fox", "scale": 7}')
    (tmp_path / "file").write_text("")
    return tmp_path


def test_mistakes_are_told_and_nothing_is_written(files):
    out = f"--out={files / 'out'}"
    long = "--prompt=" + "a fox and " * 40
    guide = "--set=guide=demo:text_to_image.safetensors"
    wrong = {
        (f"--prompts={files / 'empty.txt'}",): "empty.txt has no prompts",
        (f"--prompts={files / 'none.txt'}",): "no file of prompts",
        (f"--prompts={files / 'one.txt'}", FOX): "--prompts excludes --prompt",
        (long,): "pieces, 78 fit; cut: .*--cut_prompts",
        (FOX, f"--out={files / 'file' / 'x'}"): "file is a file, not a folder",
        (FOX, "--n=0"): "n=0: .*positive integer",
        (FOX, f"--image={files / 'a.png'}", f"--mask={files / 'small.png'}"): (
            r"is \(64, 64\), --mask .*small.png is \(32, 32\)"
        ),
        (FOX, f"--image={files / 'a.png'}"): "nothing says what is to change",
        (FOX, "--strength=0.5"): "--strength=0.5 changes a picture",
        (FOX, f"--image={files / 'a.png'}", "--outpaint=1,2"): "must be four numbers",
        (FOX, "--sampler=unipec"): "did you mean 'unipc'",
        (FOX, "--set=resale=0.7"): "did you mean 'rescale'",
        (FOX, "--set=rescale"): "--set=rescale must be KEY=VALUE",
        (FOX, "--set=interval=(0.8,0.2)"): "0 <= low < high <= 1",
        (FOX, "--set=guide=none.safetensors"): "none.safetensors",
        (FOX, "--variation=0.5"): "--variation and --variation_seed need each other",
        (FOX, "--processes=2"): "--processes and --process need each other",
        (FOX, "--processes=2", "--process=2"): "--process=2 is none of --processes=2",
        (FOX, "--interactive", "--shard=3"): "--interactive excludes --shard",
        (FOX, "--set=guide=demo:first_stage.safetensors"): "cannot join this model",
        (FOX, guide, "--negative_prompt=a"): "does nothing where sample.guide",
        (f"--prompts={files / 'scale.jsonl'}", "--set=guidance=cfg_pp", "--scale=1"): (
            r"a scale in \[0, 1\] \(not 7.0\)"
        ),
        (FOX, f"--image={files / 'a.png'}", f"--mask={files / 'a.png'}"): (
            "leaves nothing to paint"
        ),
    }
    told = calls([(out, *flags) for flags in wrong])
    for (code, printed), (flags, words) in zip(told, wrong.items(), strict=True):
        assert code in (1, 2), flags
        assert "Traceback" not in printed, printed
        assert re.search(words, printed), (words, printed)
    assert not (files / "out").exists()


def test_what_was_asked_for_is_drawn(files):
    prompts = files / "prompts.jsonl"
    rows = [{"prompt": "a fox on a teal background", "seed": 3}]
    rows += [{"prompt": "an owl on a purple background", "scale": 1.0}]
    prompts.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    many = (f"--prompts={prompts}", "--n=3", FEW, f"--out={files / 'many'}")
    guide = "--set=guide=demo:text_to_image.safetensors"
    good = [
        many,
        many,
        (*many, "--seed=1"),
        (FOX, FEW, "--sampler=unipc", "--set=rescale=0.7", f"--out={files / 'unipc'}"),
        (FOX, FEW, guide, "--scale=2", f"--out={files / 'guided'}"),
        (FOX, FEW, "--scale=1", f"--out={files / 'plain'}"),
    ]
    told = calls(good)
    assert [code for code, _ in told] == [None, None, 2, None, None, None]
    assert "another job: seed 0, not 1" in told[2][1]
    found = jobs.rows(files / "many")
    assert [found[i]["seed"] for i in range(6)] == [3, 3, 3, 0, 0, 0]
    assert [found[i].get("scale") for i in range(6)] == [None] * 3 + [1.0] * 3
    guided, plain = (
        np.asarray(Image.open(files / name / "00000.png"), int)
        for name in ("guided", "plain")
    )
    assert np.abs(guided - plain).max() <= 1  # it is led away from itself
