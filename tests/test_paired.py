"""ControlNet's folders of pictures with hints: read, split, cut to squares, packed."""

import contextlib
import itertools
import json
import pathlib
import pickle

import fill
import numpy as np
from PIL import Image
import pytest

from ldm_jax import packing
from ldm_jax.data import (
    datasets,
    decoding,
    folder,
    packed,
    paired,
    pipeline,
    transforms,
)

N = 60
SPLITS = ("train", "heldout")
WHOLE = packing.Options(heldout=paired.HELDOUT, least=8, broken=0.0, shard=50)


@pytest.fixture(scope="module")
def circles(tmp_path_factory):
    """A folder that no test may change."""
    return fill.write(tmp_path_factory.mktemp("circles"), N)


@pytest.fixture
def few(tmp_path):
    """One of six pairs, to be broken."""
    return fill.write(tmp_path / "few", 6)


def prompts(path, split):
    source = paired.opened(path, split)
    return [source[i]["caption"] for i in range(len(source))]


def found(path, i):
    """The source that has pair i, and where."""
    for split in SPLITS:
        source = paired.opened(path, split)
        for place, row in enumerate(source.rows):
            if row.name == f"target/{i}.png":
                return source, place


def told(path, *lines):
    text = "".join(x if isinstance(x, str) else json.dumps(x) + "\n" for x in lines)
    (path / folder.PROMPTS).write_text(text, encoding="utf-8")


def said(i, **changes):
    line = {"source": f"source/{i}.png", "target": f"target/{i}.png", "prompt": "a"}
    return line | changes


def pack(source, out, **changes):
    bar = lambda total: contextlib.nullcontext(Bar)
    return packing.pack(source, out, packing.Options(**vars(WHOLE) | changes), bar)


class Bar:
    update = staticmethod(lambda: None)


def test_what_was_drawn_is_what_is_read(circles):
    for i in range(N):
        source, place = found(circles, i)
        target, hint, prompt = fill.example(i)
        example = source[place]
        assert example.keys() == {"image", "hint", "caption"}
        np.testing.assert_array_equal(example["image"], target)
        np.testing.assert_array_equal(example["hint"], hint)
        assert example["caption"] == prompt
        assert prompt.split(" circle with ")[0] in fill.COLOURS


def test_the_circle_and_its_outline_lie_on_each_other():
    target, source, _ = fill.example(3)
    edge = source.any(-1)
    assert 20 < edge.sum() < 300 and set(source[edge].ravel()) == {255}
    assert len(np.unique(target[edge], axis=0)) == 1
    assert len(np.unique(target[~edge], axis=0)) == 2


def test_no_target_is_in_both_splits_and_who_stays_keeps_its_split(circles, tmp_path):
    counts = [len(paired.opened(circles, split)) for split in SPLITS]
    assert sum(counts) == N and 0 < counts[1] < 6
    large, small = tmp_path / "large", tmp_path / "small"
    for path, numbers in ((large, range(2000)), (small, range(0, 2000, 2))):
        fill.write(path, 1, size=16)
        for kind, i in itertools.product(("source", "target"), numbers):
            (path / kind / f"{i}.png").touch()
        told(path, *[said(i, prompt=str(i)) for i in numbers])
    texts = {
        path: [{row.text for row in paired.opened(path, s).rows} for s in SPLITS]
        for path in (large, small)
    }
    train, heldout = texts[large]
    assert 20 < len(heldout) < 60 and len(train | heldout) == 2000
    assert not train & heldout
    assert texts[small][0] < train and texts[small][1] < heldout


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_of_two_one_is_held_out(few, order):
    told(few, *[said(i, prompt=str(i)) for i in order])
    both = [prompts(few, split) for split in SPLITS]
    assert sorted(map(len, both)) == [1, 1] and both[0] != both[1]


def test_of_one_target_nothing_is_held_out_and_that_is_told(few):
    """However often it is told, and however its name is written."""
    lines = [said(2), said(2, source="source/3.png"), said(2, target="./target/2.png")]
    for some in (lines[:1], lines):
        told(few, *some)
        assert len(paired.opened(few, "train")) == len(some)
        with pytest.raises(
            ValueError, match=r"few has no .* 'heldout': .*target/2.png"
        ):
            paired.opened(few, "heldout")


def absent(kind):
    return lambda path: (path / kind / "4.png").unlink()


def lines(*some):
    return lambda path: told(path, said(0), *some)


# What is wrong -> (the words that tell it, what does it to a folder).
BROKEN = {
    "not JSON": (r"line 2 is no JSON: Expecting", lines("{'source': 'a.png'}")),
    "cut off": (r"line 2 is no JSON: ", lines(json.dumps(said(1))[:-9])),
    "a list": (r"line 2 is no JSON object", lines('["source/0.png"]')),
    "no prompt": (r"line 2 has no prompt", lines('{"source": "a", "target": "b"}')),
    "null": (r"line 2 has no source", lines(said(1, source=None))),
    "misspelt": (
        r"line 2: unknown key 'promt'; did you mean 'prompt'\? Known are source",
        lines(said(1, promt="a")),
    ),
    "a key more": (
        r"line 2: unknown key 'licence'; .*ldm_jax.pack --ignore=licence",
        lines(said(1, licence="CC0")),
    ),
    "numbers": (r"line 2: prompt cannot be 7", lines(said(1, prompt=7))),
    "outside": (
        r"line 2: '\.\./a\.png' lies outside",
        lines(said(1, target="../a.png")),
    ),
    "from the root": (
        r"line 3: '/etc/passwd' lies outside",
        lines("\n", said(1, source="/etc/passwd")),
    ),
    "no source": (
        r"line 5: .*source.4\.png does not exist: 1 of 12 files are missing",
        absent("source"),
    ),
    "no target": (r"line 5: .*target.4\.png does not exist", absent("target")),
    "a folder": (r"line 2: .*source does not exist", lines(said(1, source="source"))),
    "nowhere": (r"line 2: .*b.a\.png does not exist", lines(said(1, source="b/a.png"))),
    "empty": (r"there is no picture in .*prompt\.json", lambda path: told(path, "\n")),
    "no prompt.json": (
        r"prompt\.json does not exist: .* 'paired' has a line in it like \{",
        lambda path: (path / "prompt.json").unlink(),
    ),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_folder_is_told_before_training(few, what):
    words, change = BROKEN[what]
    change(few)
    for split in SPLITS:
        with pytest.raises((ValueError, FileNotFoundError), match=words) as caught:
            datasets.READ["paired"](few, split)
        assert str(few) in str(caught.value)


@pytest.mark.parametrize("kind", ["source", "target"])
def test_a_broken_picture_is_named_when_it_is_read(few, kind):
    source, place = found(few, 4)
    other, sound = found(few, 3)
    path, words = few / kind / "4.png", rf"line 5: .*{kind}.4\.png cannot be read: "
    for data in (b"", path.read_bytes()[:-60], b"<!DOCTYPE html>"):
        path.write_bytes(data)
        with pytest.raises(ValueError, match=words):
            source[place]
    path.unlink()
    with pytest.raises(ValueError, match=words + ".*No such file"):
        source[place]
    assert other[sound]["image"].shape == (64, 64, 3)


def test_a_hint_of_another_size_is_fitted_and_one_of_another_ratio_refused(few):
    hint = few / "source" / "4.png"
    source, place = found(few, 4)
    halves = np.zeros((32, 32, 3), np.uint8)
    halves[:, 16:] = 200, 10, 0
    Image.fromarray(halves).save(hint)
    whole = halves.repeat(2, 0).repeat(2, 1)
    np.testing.assert_array_equal(source[place]["hint"], whole)
    Image.fromarray(whole.repeat(3, 0).repeat(3, 1)).save(hint)
    np.testing.assert_array_equal(source[place]["hint"], whole)
    Image.fromarray(halves[:31]).save(hint)
    with pytest.raises(
        ValueError, match=r"4\.png .*32 x 31 pixels, its picture 64 x 64"
    ):
        source[place]


@pytest.mark.parametrize(
    ("hint", "image", "fits"),
    [
        ((170, 256), (341, 512), True),  # of 170.5, rounded
        ((341, 512), (170, 256), True),
        ((1, 1), (64, 64), True),
        ((511, 512), (512, 512), False),
        ((256, 512), (512, 256), False),
        ((512, 512), (384, 512), False),
    ],
)
def test_ratios_are_equal_but_for_rounding(hint, image, fits):
    hint, image = (np.zeros((*size, 3), np.uint8) for size in (hint, image))
    wanted = pytest.raises(decoding.Unreadable, match="another ratio")
    with contextlib.nullcontext() if fits else wanted:
        assert transforms.fitted_hint(hint, image).shape == image.shape


def test_gray_hints_have_three_channels(few):
    for i in range(6):
        Image.fromarray(np.full((64, 64), i, np.uint8)).save(few / f"source/{i}.png")
    assert paired.opened(few, "train")[0]["hint"].shape == (64, 64, 3)


def test_the_content_of_folders_tells_them_apart(circles, tmp_path):
    again = fill.write(tmp_path / "again", N)
    content = lambda path: datasets.content("paired", path)
    assert content(circles) == content(again)
    picture = again / "target" / "0.png"
    data = picture.read_bytes()
    for change in (data + b"x", data[:-1] + b"x"):  # another size, and the same one
        picture.write_bytes(change)
        assert content(again) != content(circles)
    picture.write_bytes(data)
    assert content(circles) == content(again)
    first, *rest = (again / "prompt.json").read_text().splitlines(keepends=True)
    told(again, first.replace("circle", "square"), *rest)
    assert content(again) != content(circles)
    assert content(fill.write(tmp_path / "other", N, seed=1)) != content(circles)


def batches(path, count, start=0, workers=0, size=48):
    """What training takes: pictures in another order each epoch, crops and flips."""
    source = pipeline.shuffled(paired.opened(path, "train"), seed=7)
    geometry = transforms.Geometry(size, "half_or_larger", flip=True)
    keys = ("image", "hint", "crop")
    found = pipeline.batches(source, keys, geometry, 4, start, 0, 1, workers, seed=7)
    with contextlib.closing(found):
        return list(itertools.islice(found, count))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_goes_on_where_it_was_on_any_number_of_workers(circles, workers):
    whole = batches(circles, 20)  # more than one epoch
    rest = batches(circles, 5, start=15, workers=workers)
    for a, b in zip(whole[15:], rest, strict=True):
        assert a["hint"].shape == a["image"].shape == (4, 48, 48, 3)
        for key in a:
            np.testing.assert_array_equal(a[key], b[key])
    assert len({row.tobytes() for batch in whole for row in batch["crop"]}) > 60


def test_workers_can_be_sent_it(circles):
    source = pickle.loads(pickle.dumps(paired.opened(circles, "heldout")))
    assert source[0]["caption"] == paired.opened(circles, "heldout")[0]["caption"]


@pytest.mark.parametrize("crop", transforms.CROPS)
def test_a_hint_is_cut_and_flipped_as_its_picture(crop):
    """The picture says where each pixel is from, and so does the hint."""
    rows, columns = np.indices((40, 60), np.uint8)
    places = np.stack([rows, columns, rows], -1)
    flips = set()
    for seed in range(20):
        geometry = transforms.Geometry(40, crop, "area", flip=True)
        example = {"image": places, "hint": places, "caption": "a"}
        found = geometry(example, np.random.default_rng(seed))
        corner = np.rint(found["crop"] * [60, 40, 60, 40]).astype(int)
        if corner[3] - corner[1] == 40:  # nothing is resized
            np.testing.assert_array_equal(found["hint"], found["image"])
        right, left = (0, -1) if found["flip"] else (-1, 0)
        assert abs(int(found["hint"][0, left, 1]) - corner[0]) <= 1
        assert abs(int(found["hint"][-1, right, 1]) - corner[2] + 1) <= 1
        assert abs(int(found["hint"][-1, 0, 0]) - corner[3] + 1) <= 1
        flips.add(bool(found["flip"]))
    assert flips == {True, False}
    assert "hint" not in geometry({"image": places}, np.random.default_rng(0))


def test_lines_are_left_of_a_hint_that_shrinks_and_colours_of_one_that_grows():
    line = np.zeros((512, 512, 3), np.uint8)
    line[:, 101] = line[301] = 255
    shrunk = transforms.resized_hint(line, (64, 64))
    assert (shrunk[:, 12] > 25).all() and (shrunk[37] > 25).all()
    assert not transforms.nearest(line, (64, 64)).any()  # and so it is not taken
    two = np.array([[[9, 0, 0], [0, 200, 0]]] * 2, np.uint8)
    grown = transforms.resized_hint(two, (7, 7))
    assert {tuple(x) for x in grown.reshape(-1, 3)} == {(9, 0, 0), (0, 200, 0)}


def test_packed_it_is_what_it_is_unpacked(circles, tmp_path):
    about, left_out = pack(circles, tmp_path / "out")
    assert left_out == [] and about["maps"] == ["hint"] and about["captions"]
    packed.check(tmp_path / "out", ("captions", "hint"))
    for split in SPLITS:
        have, want = (
            packed.opened(tmp_path / "out", split),
            paired.opened(circles, split),
        )
        assert len(have) == len(want)
        for i in range(len(want)):
            for key, value in want[i].items():
                np.testing.assert_array_equal(have[i][key], value)


def test_hints_of_metadata_are_packed_and_those_that_do_not_fit_left_out(few, tmp_path):
    (few / folder.PROMPTS).unlink()
    rows = [{"file_name": f"target/{i}.png"} for i in range(6)]
    for i in range(5):
        rows[i]["hint"] = f"source/{i}.png"
    (few / folder.METADATA).write_text("\n".join(map(json.dumps, rows)))
    assert packing.lacking(few) == {"hint": 1}
    about, _ = pack(few, tmp_path / "some", heldout=0.0)
    assert about["maps"] == []
    with pytest.raises(ValueError, match="some has no hint, which this model"):
        packed.check(tmp_path / "some", ("hint",))
    source = packed.opened(tmp_path / "some", "train")
    np.testing.assert_array_equal(source[2]["hint"], fill.example(2)[1])
    assert "hint" not in source[5] and "hint" in source[4]
    Image.new("RGB", (64, 32)).save(few / "source" / "1.png")
    Image.new("RGB", (32, 32)).save(few / "source" / "3.png")
    (few / "source" / "4.png").write_bytes(b"")
    about, left_out = pack(few, tmp_path / "less", heldout=0.0, broken=0.5)
    assert about["skipped"] == 2 and "1.png: it has 64 x 32 pixels" in left_out[0]
    assert "4.png: it is none of JPEG" in left_out[1]
    fitted = packed.opened(tmp_path / "less", "train")[2]["hint"]
    assert fitted.shape == (64, 64, 3) and not fitted.any()


def test_keys_that_mean_nothing_here_can_be_passed_over(few, tmp_path):
    told(few, *[said(i, licence="CC0") for i in range(6)])
    about, _ = pack(few, tmp_path / "out", heldout=0.0, ignored=("licence",))
    assert about["splits"] == {"train": [6]}
    assert not pathlib.Path(few / folder.METADATA).exists()
