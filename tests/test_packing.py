"""A folder of one's own, packed and read: what is in it, and what is wrong with it."""

import collections
import dataclasses
import io
import json
import os
import pathlib
import pickle
import shutil

import helpers
import numpy as np
from PIL import Image
import pytest

from ldm_jax import inputs, packing
from ldm_jax.data import decoding, folder, packed, shards

OPTIONS = packing.Options(heldout=0.0, least=8, broken=0.0, shard=4)


class Bar:
    """A progress bar that nobody sees."""

    def __init__(self, total):
        self.total, self.done = total, 0

    def __enter__(self):
        return self

    def __exit__(self, error, *_):
        assert error or self.done == self.total

    def update(self):
        self.done += 1


def pack(source, out, **changes):
    options = dataclasses.replace(OPTIONS, **changes)
    return packing.pack(source, out, options, Bar)


def colours(number, size=(16, 24)):
    rng = np.random.default_rng(number)
    return rng.integers(0, 256, (*size, 3), np.uint8)


def save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def told(source, *rows):
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (source / folder.METADATA).write_text(lines, encoding="utf-8")


@pytest.fixture
def source(tmp_path):
    """Six pictures of two kinds, with all that can be said of them."""
    rows = []
    for i in range(6):
        name = f"{i}.png"
        save(tmp_path / "in" / name, colours(i))
        save(tmp_path / "in" / "maps" / name, np.full((16, 24), i, np.uint8))
        save(tmp_path / "in" / "holes" / name, np.eye(16, 24, dtype=np.uint8) * 255)
        fox = {"class": "fox", "box": [0, 0.25, 0.5, 1], "group": i == 4}
        tent = {"class": "a tent", "box": [0.5, 0, 1, 1]}
        rows.append(
            {
                "file_name": name,
                "text": f"a fox, number {i}: 🦊",
                "label": "odd" if i % 2 else "even",
                "boxes": [fox, tent][: i % 3],
                "segmentation": f"maps/{name}",
                "mask": f"holes/{name}",
            }
        )
    told(tmp_path / "in", *rows)
    return tmp_path / "in"


def test_what_is_said_of_a_picture_is_what_is_read(source, tmp_path):
    about, left_out = pack(source, tmp_path / "out")
    assert left_out == [] and about["splits"] == {"train": [4, 2]}
    assert about["labels"] == ["even", "odd"]
    assert about["classes"] == ["a tent", "fox"]
    assert about["maps"] == ["mask", "segmentation"] and about["captions"]
    found = packed.opened(tmp_path / "out", "train")
    assert len(found) == 6 and packed.read_about(tmp_path / "out")["skipped"] == 0
    for i in range(6):
        example = found[i]
        np.testing.assert_array_equal(example["image"], colours(i))
        assert example["caption"] == f"a fox, number {i}: 🦊"
        assert example["label"] == i % 2
        assert example["classes"].tolist() == [1, 0][: i % 3]
        wanted = [[0, 0.25, 0.5, 1], [0.5, 0, 1, 1]][: i % 3]
        assert example["boxes"].shape == (i % 3, 4)
        np.testing.assert_allclose(example["boxes"], np.reshape(wanted, (-1, 4)))
        assert example["flags"].tolist() == [int(i == 4), 0][: i % 3]
        assert (example["segmentation"] == i).all()
        np.testing.assert_array_equal(example["mask"], np.eye(16, 24, dtype=np.uint8))
    again = pickle.loads(pickle.dumps(found))
    np.testing.assert_array_equal(again[5]["image"], found[5]["image"])


def test_without_metadata_folders_are_labels(tmp_path):
    for kind in ("owl", "ant"):
        for i in range(3):
            save(tmp_path / "in" / kind / f"{i}.PNG", colours(i))
    about, _ = pack(tmp_path / "in", tmp_path / "out")
    assert about["labels"] == ["ant", "owl"] and not about["captions"]
    found = packed.opened(tmp_path / "out", "train")
    assert [int(found[i]["label"]) for i in range(6)] == [0, 0, 0, 1, 1, 1]
    save(tmp_path / "in" / "lost.png", colours(9))  # of no folder: then none is a label
    about, _ = pack(tmp_path / "in", tmp_path / "flat")
    assert about["labels"] == [] and about["splits"] == {"train": [4, 3]}
    assert packed.opened(tmp_path / "flat", "train")[0]["label"] == -1


def test_a_list_of_names_decides_the_numbers(source, tmp_path):
    (source / "labels.txt").write_text("odd\neven\n")
    (source / "classes.txt").write_text("owl\nfox\na tent\n")
    about, _ = pack(source, tmp_path / "out")
    assert about["labels"] == ["odd", "even"]
    assert about["classes"] == ["owl", "fox", "a tent"]
    example = packed.opened(tmp_path / "out", "train")[5]
    assert example["label"] == 0 and example["classes"].tolist() == [1, 2]


def test_the_name_alone_decides_who_is_held_out(tmp_path):
    for i in range(200):
        save(tmp_path / "in" / f"{i}.png", colours(i, (8, 8)))
    about, _ = pack(tmp_path / "in", tmp_path / "out", heldout=0.2, shard=1000)
    counts = {split: sum(n) for split, n in about["splits"].items()}
    assert 25 < counts["heldout"] < 55 and sum(counts.values()) == 200
    bytes_of = lambda split: {
        packed.opened(tmp_path / "out", split)[i]["image"].tobytes()
        for i in range(counts[split])
    }
    kept_out = bytes_of("heldout")
    assert not kept_out & bytes_of("train")
    for i in range(0, 200, 2):  # others go; who stays, stays where it was
        (tmp_path / "in" / f"{i}.png").unlink()
    pack(tmp_path / "in", tmp_path / "less", heldout=0.2, shard=1000)
    less = packed.opened(tmp_path / "less", "heldout")
    assert {less[i]["image"].tobytes() for i in range(len(less))} <= kept_out


def break_some(source):
    """Makes two hundred pictures of which twenty cannot be trained on."""
    good = io.BytesIO()
    Image.fromarray(colours(0, (64, 64))).save(good, "JPEG")
    page = b"<!DOCTYPE html><title>404</title>"
    for i in range(200):
        save(source / f"{i:03}.png", colours(i))
    for number, data in enumerate((b"", good.getvalue()[:-200], page, bytes(5000))):
        for i in range(4):
            (source / f"{number * 40 + i * 9:03}.png").write_bytes(data)
    for i in (199, 198):
        save(source / f"{i}.png", colours(i, (3, 50)))
    for i in (197, 196):
        (source / f"{i}.png").unlink()
        (source / f"{i}.png").symlink_to(source / "nowhere")


def test_twenty_broken_files_among_two_hundred(tmp_path):
    source = tmp_path / "in"
    source.mkdir()
    break_some(source)
    told(source, *[{"file_name": f"{i:03}.png", "text": str(i)} for i in range(200)])
    with pytest.raises(ValueError, match="of 200 pictures are unreadable") as caught:
        pack(source, tmp_path / "out", broken=0.05)
    assert "000.png: it is none of JPEG, PNG" in str(caught.value)
    assert not (tmp_path / "out").exists() and [*tmp_path.iterdir()] == [source]
    about, left_out = pack(source, tmp_path / "out", broken=0.1, shard=30)
    assert about["skipped"] == len(left_out) == 20
    found = packed.opened(tmp_path / "out", "train")
    assert len(found) == 180
    names = [line.split(":")[0][-7:] for line in left_out]
    assert names == sorted(names) and len(set(names)) == 20
    why = collections.Counter(
        next(w for w in ("none of", "truncated", "too few", "No such") if w in line)
        for line in left_out
    )
    assert why == {"none of": 12, "truncated": 4, "too few": 2, "No such": 2}
    for i in (0, 90, 179):  # who is there is who it says
        example = found[i]
        np.testing.assert_array_equal(
            example["image"], colours(int(example["caption"]))
        )


def test_where_nothing_is_readable_that_is_said(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_bytes(b"")
    with pytest.raises(ValueError, match="no picture of 1 is readable: .*a.png"):
        pack(tmp_path / "in", tmp_path / "out", broken=1.0)
    with pytest.raises(FileNotFoundError, match="there is no picture in"):
        (tmp_path / "in" / "a.png").rename(tmp_path / "in" / "a.txt")
        pack(tmp_path / "in", tmp_path / "out")
    with pytest.raises(FileNotFoundError, match="nowhere is no folder"):
        pack(tmp_path / "nowhere", tmp_path / "out")


def test_a_folder_with_something_in_it_is_left_alone(source, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("...")
    with pytest.raises(FileExistsError, match="not an empty folder"):
        pack(source, tmp_path / "out")
    assert os.listdir(tmp_path / "out") == ["thesis.tex"]


WRONG = {
    "line 1 is no JSON": "{'file_name': 'a.png'}",
    "line 1 is no JSON object": '["a.png"]',
    "unknown key 'txt'; did you mean 'text'": '{"file_name": "0.png", "txt": "fox"}',
    "line 1 has no file_name": '{"text": "fox"}',
    "text cannot be 7": '{"file_name": "0.png", "text": 7}',
    "label cannot be True": '{"file_name": "0.png", "label": true}',
    "lies outside": '{"file_name": "../secret.png"}',
    "x.png' lies outside": '{"file_name": "0\\u0000x.png"}',
    "line 1: -3 is none of 0 labels": '{"file_name": "0.png", "label": -3}',
    "line 1: 70000 is none of 65536 labels": '{"file_name": "0.png", "label": 70000}',
    "some of the labels are names, some numbers": (
        '{"file_name": "0.png", "label": "a"}\n{"file_name": "1.png", "label": 1}'
    ),
    "/etc/passwd' lies outside": '{"file_name": "/etc/passwd"}',
    "line 1, boxes, object 1: .*must be four numbers": (
        '{"file_name": "0.png", "boxes": [{"class": "a", "box": [0, 0, 20, 20]}]}'
    ),
    'line 1, boxes, object 1: "class" is missing': (
        '{"file_name": "0.png", "boxes": [{"box": [0, 0, 1, 1]}]}'
    ),
    "line 1, boxes, object 1: .*must be a name": (
        '{"file_name": "0.png", "boxes": [{"class": [1], "box": [0, 0, 1, 1]}]}'
    ),
}


@pytest.mark.parametrize("words", WRONG)
def test_mistakes_in_metadata_name_the_line(source, tmp_path, words):
    (source / folder.METADATA).write_text(WRONG[words])
    with pytest.raises(ValueError, match=words):
        pack(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_bytes_that_are_no_text_name_the_line(source, tmp_path):
    (source / folder.METADATA).write_bytes(b'{"file_name": "0.png"}\n{"text": "\xff"}')
    with pytest.raises(ValueError, match="line 2 is no JSON"):
        pack(source, tmp_path / "out")


def test_folders_that_are_numbers_are_in_their_order(tmp_path):
    for kind in ("10", "2", "1"):
        save(tmp_path / "in" / kind / "a.png", colours(1))
    about, _ = pack(tmp_path / "in", tmp_path / "out")
    assert about["labels"] == ["1", "2", "10"]


def test_equal_names_in_many_folders_are_many_pictures(tmp_path):
    for i in range(60):
        save(tmp_path / "in" / str(i) / "image.png", colours(i, (8, 8)))
    about, _ = pack(tmp_path / "in", tmp_path / "out", heldout=0.3, shard=99)
    assert 5 < about["splits"]["heldout"][0] < 35


def test_a_few_pictures_have_both_splits(tmp_path):
    for i in range(3):
        save(tmp_path / "in" / f"{i}.png", colours(i))
    for share in (0.001, 0.999):
        about, _ = pack(tmp_path / "in", tmp_path / f"out{share}", heldout=share)
        assert set(about["splits"]) == {"train", "heldout"}


def test_boxes_are_cut_to_the_picture(source, tmp_path):
    boxes = ([-0.005, 0.2, 1.0000001, 0.5], [0.3, 0.3, 0.3, 0.9], [0.1, 0.1, 0.2, 0.2])
    listed = [{"class": "fox", "box": box} for box in boxes]
    told(source, {"file_name": "0.png", "boxes": listed})
    pack(source, tmp_path / "out")
    found = packed.opened(tmp_path / "out", "train")[0]["boxes"]
    np.testing.assert_allclose(found, [[0, 0.2, 1, 0.5], [0.1, 0.1, 0.2, 0.2]])
    for box in ([-0.2, 0.2, 0.5, 0.5], [0.5, 0.2, 0.3, 0.5]):
        told(source, {"file_name": "0.png", "boxes": [{"class": "fox", "box": box}]})
        with pytest.raises(ValueError, match="line 1, boxes, object 1: box"):
            pack(source, tmp_path / "other")


def test_what_a_model_is_told_must_be_there(source, tmp_path):
    pack(source, tmp_path / "all")
    everything = ("captions", "labels", "classes", "segmentation", "mask")
    packed.check(tmp_path / "all", everything)
    told(source, {"file_name": "0.png"})
    pack(source, tmp_path / "bare")
    packed.check(tmp_path / "bare", ())
    for name in everything:
        with pytest.raises(ValueError, match=f"has no {name}, which this model"):
            packed.check(tmp_path / "bare", (name,))


@pytest.mark.parametrize("name", ["depth", "normal", "pose", "scribble"])
def test_hints_that_no_pack_can_be_asked_for_are_told(name):
    c = helpers.tiny_config().copy_and_resolve_references()
    c.data.update(name="packed", path="none")
    c.control.hints = ("canny", name)
    with pytest.raises(ValueError, match=f"{name}.* call the branch 'given'"):
        inputs.check_pack(c)


def test_what_some_pictures_lack_is_counted(source, tmp_path):
    rows = [json.loads(x) for x in (source / folder.METADATA).open(encoding="utf-8")]
    for key, row in zip(("text", "label", "segmentation"), rows, strict=False):
        del row[key]
    told(source, *rows)
    wanted = {"text": 1, "label": 1, "boxes": 2, "segmentation": 1}
    assert packing.lacking(source) == wanted
    about, _ = pack(source, tmp_path / "out")
    assert about["maps"] == ["mask"]


def test_keys_that_mean_nothing_here_can_be_passed_over(source, tmp_path):
    told(source, {"file_name": "0.png", "licence": "CC0"})
    with pytest.raises(ValueError, match="--ignore=licence passes over it"):
        pack(source, tmp_path / "out")
    about, _ = pack(source, tmp_path / "out", ignored=("licence",))
    assert about["splits"] == {"train": [1]}


def test_names_that_are_not_in_the_list_are_told(source, tmp_path):
    (source / "labels.txt").write_text("odd\n")
    with pytest.raises(ValueError, match="line 1: 'even' is none of 1 labels: .'odd'"):
        pack(source, tmp_path / "out")
    (source / "labels.txt").write_text("odd\nodd\n")
    with pytest.raises(ValueError, match=r"labels.txt needs .* each once; 'odd'"):
        pack(source, tmp_path / "out")


def test_a_map_of_another_size_leaves_its_picture_out(source, tmp_path):
    save(source / "maps" / "2.png", np.zeros((8, 8), np.uint8))
    save(source / "maps" / "4.png", colours(4))
    about, left_out = pack(source, tmp_path / "out", broken=0.5)
    assert about["splits"] == {"train": [3, 1]}
    assert "maps/2.png: it has (8, 8), the picture (16, 24, 3)" in left_out[0]
    assert "maps/4.png: it is RGB: a map has one number" in left_out[1]


def damaged(out, change):
    path = packed.shard_path(out, "train", 0)
    records = [bytes(shards.opened([path], [4], "")[i]) for i in range(4)]
    records[1] = change(records[1])
    shards.write(path, records, 4)


@pytest.mark.parametrize(
    "change",
    [
        lambda record: record[:-1],
        lambda record: record + b"x",
        lambda record: b"",
        lambda record: b"\xff\xff\xff\xff" + record[4:],
        lambda record: record.replace(b'"label"', b'"lobel"'),
        lambda record: record.replace(b'"flags": []', b'"flags": [[]'),
        lambda record: record.replace(b"IHDR", b"IHDX"),
    ],
)
def test_a_damaged_record_is_named(source, tmp_path, change):
    told(source, *[{"file_name": f"{i}.png"} for i in range(6)])
    pack(source, tmp_path / "out")
    damaged(tmp_path / "out", change)
    found = packed.opened(tmp_path / "out", "train")
    np.testing.assert_array_equal(found[2]["image"], colours(2))
    with pytest.raises(ValueError, match=r"train-00000.array_record, record 1 cannot "):
        found[1]


ABOUT = {
    "must have the keys": lambda about: about.pop("labels"),
    "captions is 1, it must be bool": lambda about: about.update(captions=1),
    "its format is 3, known is 2": lambda about: about.update(format=3),
    "splits has 'test'": lambda about: about["splits"].update(test=[1]),
    r"splits has 'train' with \[0\]": lambda about: about["splits"].update(train=[0]),
}


@pytest.mark.parametrize("words", ABOUT)
def test_a_pack_json_that_cannot_be_is_told(source, tmp_path, words):
    out = tmp_path / "out"
    pack(source, out)
    about = json.loads((out / packed.ABOUT).read_text())
    ABOUT[words](about)
    (out / packed.ABOUT).write_text(json.dumps(about))
    with pytest.raises(ValueError, match=f"pack.json is not one of .*{words}"):
        packed.opened(out, "train")


def test_what_is_not_there_is_told(source, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(FileNotFoundError, match="ldm_jax.pack .* writes such a folder"):
        packed.opened(out, "train")
    pack(source, out)
    with pytest.raises(ValueError, match="no pictures in the split 'heldout', only in"):
        packed.opened(out, "heldout")
    packed.shard_path(out, "train", 1).unlink()
    with pytest.raises(FileNotFoundError, match="1 of 2 shards are missing"):
        packed.opened(out, "train")
    (out / packed.ABOUT).write_text("[" * 100_000)
    with pytest.raises(ValueError, match="is not one of ldm_jax.pack"):
        packed.opened(out, "train")


def test_a_photograph_keeps_its_bytes_and_others_become_png(tmp_path):
    (tmp_path / "in").mkdir()
    photo = Image.fromarray(colours(0, (64, 64)))
    photo.save(tmp_path / "in" / "a.jpg")
    photo.convert("CMYK").save(tmp_path / "in" / "b.jpg")
    pack(tmp_path / "in", tmp_path / "out")
    records = shards.opened([packed.shard_path(tmp_path / "out", "train", 0)], [2], "")
    kept = (tmp_path / "in" / "a.jpg").read_bytes()
    assert bytes(records[0]).endswith(kept) and b"\x89PNG" in bytes(records[1])
    found = packed.opened(tmp_path / "out", "train")
    inked = decoding.picture((tmp_path / "in" / "b.jpg").read_bytes())
    np.testing.assert_array_equal(found[1]["image"], inked)
    shutil.rmtree(pathlib.Path(tmp_path / "in"))
    np.testing.assert_array_equal(found[0]["image"], decoding.picture(kept))
