"""`python -m ldm_jax.hints`: all that it makes, and what it says to broken input."""

import json
import re
import subprocess
import sys

import commands
import cv2
import numpy as np
from PIL import Image
import pytest

from ldm_jax.data import hints, palettes, skeletons

# Many command lines in one process, each with flags of its own: starting one takes
# seconds. Prints for each what was wrong, or null.
DRIVER = """
import json, sys
from absl import flags
from absl.testing import flagsaver
from ldm_jax import cli, hints
told = []
for argv in json.load(sys.stdin):
    with flagsaver.flagsaver():
        try:
            hints.main(flags.FLAGS(["hints", *argv]))
            told.append(None)
        except (flags.Error, *cli.MISTAKES) as error:
            told.append(f"{type(error).__name__}: {error}")
print(json.dumps(told))
"""


def drive(command_lines):
    """What each of the command lines said was wrong: str, or None for nothing."""
    done = subprocess.run(
        [sys.executable, "-c", DRIVER],
        input=json.dumps([[str(part) for part in line] for line in command_lines]),
        capture_output=True,
        text=True,
        env=commands.environment(1),
        timeout=commands.PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def read(path):
    return np.asarray(Image.open(path))


def photo(height=90, width=120, seed=0):
    noise = np.random.default_rng(seed).integers(0, 256, (9, 12, 3))
    return cv2.resize(noise.astype(np.uint8), (width, height))


def person():
    joints = np.random.default_rng(2).uniform(20, 100, (18, 3))
    return {"pose_keypoints_2d": joints.ravel().tolist()}


def pose_json(**changes):
    told = {"people": [person()], "canvas_width": 120, "canvas_height": 160}
    return json.dumps(told | changes)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with inputs and all that the command made of them, in one process."""
    root = tmp_path_factory.mktemp("hints")
    (root / "photos" / "inside").mkdir(parents=True)
    Image.fromarray(photo()).save(root / "photos" / "a.png")
    Image.fromarray(photo(seed=1)).save(root / "photos" / "b.JPG")
    Image.fromarray(photo()).save(root / "photos" / "inside" / "c.png")
    (root / "photos" / "about.txt").write_text("no picture")
    (root / "photos" / ".hidden.png").write_text("no picture")
    classes = np.random.default_rng(1).integers(0, 151, (30, 40))
    classes[classes == 150] = 255
    Image.fromarray(np.uint8(classes)).save(root / "classes.png")
    far = np.add.outer(np.arange(40), 300 * np.arange(50)).astype(np.uint16)
    Image.fromarray(far).save(root / "far16.png")
    Image.fromarray(np.repeat(np.uint8(far / 60)[..., None], 3, -1)).save(
        root / "far8.png"
    )
    # The same grays by a palette whose places are others.
    gray = Image.fromarray(255 - np.uint8(far / 60), "P")
    gray.putpalette(np.arange(255, -1, -1).repeat(3).astype(np.uint8).tobytes())
    gray.save(root / "palette.png")
    Image.fromarray(np.uint8(classes % 14)).save(root / "classes14.png")
    (root / "pose.json").write_text(pose_json())
    kinds = ("canny", "hough", "scribble")
    lines = [
        (f"--kind={k}", root / "photos" / "a.png", root / f"{k}.png") for k in kinds
    ]
    lines += [
        ("--kind=canny", root / "photos", root / "new" / "edges"),
        ("--kind=canny", "--resolution=64", root / "photos" / "a.png", root / "64.png"),
        (
            *("--kind=canny", "--low=10", "--high=20"),
            *(root / "photos" / "a.png", root / "more.png"),
        ),
        ("--kind=segmentation", root / "classes.png", root / "segmentation.png"),
        (
            *("--kind=segmentation", "--resolution=128"),
            *(root / "classes.png", root / "segmentation_128.png"),
        ),
        ("--kind=depth", root / "far16.png", root / "depth.png"),
        ("--kind=depth", "--near_is_white", root / "far16.png", root / "near.png"),
        ("--kind=depth", root / "far8.png", root / "depth8.png"),
        ("--kind=depth", root / "palette.png", root / "depth_palette.png"),
        ("--kind=segments", root / "classes14.png", root / "segments.png"),
        ("--kind=normal", root / "far16.png", root / "normal.png"),
        ("--kind=pose", root / "pose.json", root / "pose.png"),
        ("--kind=pose", "--resolution=64", root / "pose.json", root / "pose_64.png"),
    ]
    assert drive(lines) == [None] * len(lines)
    return root


@pytest.mark.parametrize("kind", ["canny", "hough", "scribble"])
def test_a_picture_gets_its_hint(made, kind):
    told = getattr(hints, kind)(photo())
    np.testing.assert_array_equal(read(made / f"{kind}.png"), told)
    assert told.any()


def test_a_folder_keeps_its_names(made):
    found = sorted(p.name for p in (made / "new" / "edges").iterdir())
    assert found == ["a.png", "b.png"]
    np.testing.assert_array_equal(
        read(made / "new" / "edges" / "a.png"), read(made / "canny.png")
    )


def test_flags_change_what_is_made(made):
    told = hints.canny(hints.resized(photo(), 64, 64))  # 90 x 120: 85.3 is 1.33 of 64
    np.testing.assert_array_equal(read(made / "64.png"), told)
    np.testing.assert_array_equal(read(made / "more.png"), hints.canny(photo(), 10, 20))


def test_classes_get_their_colours(made):
    classes = read(made / "classes.png")
    told = palettes.colours(classes)
    np.testing.assert_array_equal(read(made / "segmentation.png"), told)
    large = read(made / "segmentation_128.png")
    assert large.shape == (128, 192, 3)
    colours = {tuple(c) for c in palettes.ADE20K.tolist()} | {(0, 0, 0)}
    assert {tuple(c) for c in large.reshape(-1, 3).tolist()} <= colours


def test_depths_keep_16_bits(made):
    far = read(made / "far16.png").astype(float)
    np.testing.assert_array_equal(read(made / "depth.png"), hints.depth(far))
    np.testing.assert_array_equal(read(made / "near.png"), hints.depth(-far))
    np.testing.assert_array_equal(read(made / "normal.png"), hints.normal(far))
    assert read(made / "depth.png")[0, 0, 0] == 255
    coarse = read(made / "depth8.png").astype(int) - read(made / "depth.png")
    assert 0 < np.abs(coarse).max() <= 2


def test_a_gray_palette_is_read_by_its_grays(made):
    same = read(made / "depth_palette.png")
    np.testing.assert_array_equal(same, read(made / "depth8.png"))


def test_the_classes_of_drawn_scenes_have_their_own_numbers(made):
    told = palettes.SEGMENTS[read(made / "classes14.png")]
    np.testing.assert_array_equal(read(made / "segments.png"), told)


def test_a_pose_is_as_large_as_its_canvas(made):
    people = skeletons.keypoints(pose_json())
    for name, size in (("pose", (160, 120)), ("pose_64", (64, 64))):
        drawing = skeletons.pose(people, *size)
        np.testing.assert_array_equal(read(made / f"{name}.png"), drawing)


@pytest.fixture(scope="module")
def broken(tmp_path_factory):
    """(root, {name: (command line, words of the error)}) of what cannot be."""
    root = tmp_path_factory.mktemp("broken")
    good = root / "good.png"
    Image.fromarray(photo()).save(good)
    (root / "cut.png").write_bytes(good.read_bytes()[:2000])
    (root / "empty.png").write_bytes(b"")
    (root / "text.png").write_text("not a picture")
    (root / "folder.png").mkdir()
    (root / "nothing").mkdir()
    (root / "twice").mkdir()
    for name in ("a.png", "a.jpg"):
        Image.fromarray(photo()).save(root / "twice" / name)
    Image.fromarray(np.full((4, 4), 200, np.uint8)).save(root / "200.png")
    poses = {
        "nan": pose_json(people=[{"pose_keypoints_2d": [float("nan")] * 54}]),
        "body25": pose_json(people=[{"pose_keypoints_2d": [0] * 75}]),
        "uncanvassed": json.dumps({"people": [person()]}),
        "huge": pose_json(canvas_width=1e8, canvas_height=1e8),
        "deep": "[" * 100_000,
    }
    for name, text in poses.items():
        (root / f"{name}.json").write_text(text)
    to = root / "out.png"
    canny = lambda *argv: ("--kind=canny", *argv)
    pose = lambda name: ("--kind=pose", root / f"{name}.json", to)
    lines = {
        "kind": (("--kind=cany", good, to), "did you mean 'canny'"),
        "no kind": ((good, to), "--kind"),
        "one file": (canny(good), "two files or folders"),
        "missing": (canny(root / "none.png", to), "no file or folder .*none.png"),
        "cut": (canny(root / "cut.png", to), "cut.png: OSError"),
        "empty": (canny(root / "empty.png", to), "empty.png: it is empty"),
        "text": (canny(root / "text.png", to), "text.png: it is none of JPEG, PNG"),
        "suffix": (canny(good, root / "out.jpg"), "out.jpg must end in .png"),
        "a folder": (canny(good, root / "folder.png"), "folder.png is a folder"),
        "no folder": (canny(good, good / "out.png"), "good.png is no folder"),
        "itself": (canny(good, good), "good.png would overwrite what is read"),
        "none": (canny(root / "nothing", root / "new"), "nothing has no file .jpg"),
        "twice": (canny(root / "twice", root / "new"), "a.jpg and .*a.png would both"),
        "in place": (canny(root / "twice", root / "twice"), "would"),
        "thresholds": (canny("--low=300", good, to), "good.png: low 300 and high 200"),
        "not canny's": (("--kind=hough", "--low=3", good, to), "are of --kind=canny"),
        "not a depth's": (canny("--near_is_white", good, to), "--kind=depth and"),
        "small": (canny("--resolution=32", good, to), "good.png: .* from 64"),
        "large": (canny("--resolution=60000", good, to), "good.png: .* are more than"),
        "class": (
            ("--kind=segmentation", root / "200.png", to),
            "200.png: class 200 is none of 0 to 149",
        ),
        "colours": (("--kind=segmentation", good, to), "good.png: it is RGB"),
        "depth": (("--kind=depth", good, to), "good.png: it has colours"),
        "nan": (pose("nan"), "nan.json: .* of person 0 is nan"),
        "body25": (pose("body25"), "body25.json: person 0 has 75 numbers"),
        "uncanvassed": (pose("uncanvassed"), "uncanvassed.json: canvas_width"),
        "huge": (pose("huge"), "huge.json: .* are more than"),
        "deep": (pose("deep"), "deep.json: "),
        "no json": (("--kind=pose", good, to), "good.png: "),
    }
    before = {path for path in root.rglob("*")}
    said = drive([line for line, _ in lines.values()])
    after = {path for path in root.rglob("*")}
    assert after == before  # nothing, not even in part
    return {name: (lines[name][1], s) for name, s in zip(lines, said, strict=True)}


def test_what_is_wrong_is_told(broken):
    """Each names the file or flag, and nothing was written."""
    for name, (words, said) in broken.items():
        assert said is not None, name
        assert re.search(words, said), (name, said)


def test_a_mistake_is_one_line_and_code_2(tmp_path):
    missing = tmp_path / "none.png"
    code, said = commands.run("ldm_jax.hints", "--kind=canny", missing, "out.png")
    assert code == 2
    assert f"error: no file or folder {missing}" in said
    assert "Traceback" not in said


def test_what_fails_midway_leaves_what_was_whole(tmp_path):
    Image.fromarray(photo()).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"broken")
    out = tmp_path / "out"
    (said,) = drive([("--kind=canny", tmp_path, out)])
    assert "b.png: it is none of" in said
    assert [p.name for p in out.iterdir()] == ["a.png"]


@pytest.mark.fetched
def test_edges_by_a_network(tmp_path):
    square = np.zeros((64, 96, 3), np.uint8)
    square[16:48, 24:72] = (200, 120, 40)
    Image.fromarray(square).save(tmp_path / "square.png")
    kinds = ("hed", "fake_scribble")
    files = [tmp_path / f"{kind}.png" for kind in kinds]
    lines = [
        (f"--kind={kind}", tmp_path / "square.png", out)
        for kind, out in zip(kinds, files, strict=True)
    ]
    assert drive(lines) == [None, None]
    soft, drawn = map(read, files)
    assert soft.shape == drawn.shape == (64, 96, 3)
    assert soft[16, 48, 0] > 2 * soft[32, 48, 0]
    np.testing.assert_array_equal(drawn, hints.fake_scribble(soft[..., 0]))
