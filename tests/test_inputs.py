"""From pictures in files to batches: what the model of each task is told."""

import dataclasses
import json

import helpers
import numpy as np
from PIL import Image
import pytest

from ldm_jax import config as config_lib
from ldm_jax import config_rules, inputs, inspection, packing, system, tokenizers
from ldm_jax.data import datasets, degrade, folder, layout, masks, packed, transforms

N, SIZE = 24, 16
BOX = [0.25, 0.0, 0.6, 1.0]


class Bar:
    def __init__(self, total):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def update(self):
        pass


def picture(i):
    """Of one colour, which tells the pictures apart, and wider than high."""
    return np.full((20, 30, 3), i * 10, np.uint8)


@pytest.fixture(scope="module")
def packs(tmp_path_factory):
    """A packed folder with all that can be said of a picture."""
    where = tmp_path_factory.mktemp("packs")
    source, rows = where / "in", []
    for kind in ("maps", "holes"):
        (source / kind).mkdir(parents=True)
    for i in range(N):
        name = f"{i}.png"
        Image.fromarray(picture(i)).save(source / name)
        left = np.zeros((20, 30), np.uint8)
        left[:, :15] = i % 5
        Image.fromarray(left).save(source / "maps" / name)
        Image.fromarray(np.full((20, 30), 255, np.uint8)).save(source / "holes" / name)
        boxes = [{"class": k, "box": BOX, "group": i == 4} for k in range(i % 3)]
        maps = {"segmentation": f"maps/{name}", "mask": f"holes/{name}"}
        rows.append({"file_name": name, "text": "a red fox", "label": i % 4, **maps})
        rows[-1]["boxes"] = boxes
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (source / folder.METADATA).write_text(lines)
    options = packing.Options(heldout=0.3, least=1, broken=0.0, shard=5)
    packing.pack(source, where / "out", options, Bar)
    return where / "out"


def config_of(packs, cond=(), guided=True, **data):
    c = helpers.tiny_config().copy_and_resolve_references()
    c.data.update(name="packed", path=str(packs), batch_size=4, **data)
    c.cond_stage.update(dict(cond))
    if not guided or c.cond_stage.kind in ("none", "segmentation", "low_res"):
        c.cond_stage.drop, c.sample.scale = 0.0, 1.0
    return config_lib.check(c)


def taken(c, count, keys=("image",), start=0, split="train"):
    with inputs.batches(c, keys, split, start) as batches:
        found = [next(batches) for _ in range(count)]
    return {key: np.concatenate([batch[key] for batch in found]) for key in keys}


def numbers(images):
    return (images[:, 0, 0, 0] // 10).tolist()


def test_maps_of_drawn_scenes_are_not_of_ade20k():
    c = helpers.tiny_config().copy_and_resolve_references()
    c.control.hints = ("segmentation",)
    with pytest.raises(ValueError, match="those of drawn scenes: call .* 'segments'"):
        inputs.prepare(c)


def test_every_picture_is_seen_once_an_epoch_and_in_another_order(packs):
    count = len(packed.opened(packs, "train"))
    assert 10 < count < N
    c = config_of(packs)
    seen = numbers(taken(c, count)["image"])  # four epochs
    epochs = [seen[k * count : (k + 1) * count] for k in range(4)]
    assert all(sorted(epoch) == sorted(epochs[0]) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4
    kept_out = set(numbers(taken(c, 10, split="heldout")["image"]))
    assert not kept_out & set(seen) and len(kept_out | set(seen)) == N


@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_goes_on_where_it_was_on_any_number_of_workers(packs, workers):
    """The crops, flips, holes and orders too, which are drawn anew each time."""
    told = dict(crop="any_size", flip=True, holes="thick")
    cond = dict(kind="layout", classes=3, vocab=201, length=11, inpaint="ldm")
    keys = ("image", "tokens", "mask")
    whole = taken(config_of(packs, cond, **told), 12, keys)
    c = config_of(packs, cond, **told, workers=workers)
    rest = taken(c, 7, keys, start=5)
    for key in keys:
        np.testing.assert_array_equal(rest[key], whole[key][20:])
    rows = [row.tobytes() for row in whole["mask"]]
    assert len(set(rows)) > 40  # not one hole for a picture: it changes by epoch


def test_validation_sees_the_middle_and_no_flip(packs):
    c = config_of(packs, crop="random", flip=True)
    sides = taken(c, 20, ("crop", "flip"))
    assert len(set(sides["crop"][:, 0].tolist())) > 3 and 20 < sides["flip"].sum() < 60
    sides = taken(c, 3, ("crop", "flip"), split="heldout")
    np.testing.assert_allclose(sides["crop"], [[1 / 6, 0, 5 / 6, 1]] * 12, atol=1e-6)
    assert not sides["flip"].any()


def test_a_layout_knows_crop_and_flip(packs):
    cond = dict(kind="layout", classes=3, vocab=201, length=11)
    c = config_of(packs, cond, crop="random", flip=True)
    found = taken(c, 10, ("tokens", "flip", "crop", "image"))
    corner = lambda x: np.rint(np.array(x, np.float64) * 13) / 13
    flips = set()
    for tokens, flip, part, image in zip(*found.values(), strict=True):
        i = int(image[0, 0, 0]) // 10
        kinds, boxes, flags, crop = layout.objects_of(tokens, 201, 3)
        assert sorted(kinds) == [*range(i % 3)] and flags.any() == (i == 4)
        sides = (lambda a, b: (1 - b, 1 - a)) if flip else (lambda a, b: (a, b))
        np.testing.assert_allclose(crop[[0, 2]], corner(sides(part[0], part[2])))
        wanted = np.tile(corner(sides(BOX[0], BOX[2])), (i % 3, 1))
        np.testing.assert_allclose(boxes[:, [0, 2]], wanted, atol=1e-6)
        flips.add(bool(flip))
    assert flips == {True, False}


def test_groups_reach_the_tokens(packs):
    example = {
        "classes": np.array([1]),
        "boxes": np.array([BOX]),
        "flags": np.array([layout.GROUP]),
        "caption": "",
    }
    cond = dict(kind="layout", classes=3, vocab=201, length=11)
    c = config_of(packs, cond)
    told = inputs.TOLD["layout"](c, example, None)["tokens"]
    assert told[0] == 1 + 3 and told.shape == (11,)


def test_long_captions_of_others_are_cut(packs):
    """Of data sets that are drawn they are an error: a mistake of this project."""
    long = {"caption": "a red fox " * 50}
    c, rng = config_of(packs), np.random.default_rng(0)
    with pytest.warns(UserWarning, match="are cut, this is said once"):
        found = inputs.prepare(c)({**long, "image": picture(0)}, rng)
    assert found["tokens"].shape == (24,)
    with pytest.raises(ValueError, match="pieces"):
        inputs.prepare(helpers.tiny_config())(long)


def test_what_is_missing_is_told_before_the_first_step(packs, tmp_path):
    source = tmp_path / "in"
    source.mkdir()
    for i in range(4):
        Image.fromarray(picture(i)).save(source / f"{i}.png")
    options = packing.Options(heldout=0.0, least=1, broken=0.0, shard=5)
    packing.pack(source, tmp_path / "all-train", options, Bar)
    with pytest.raises(ValueError, match="no pictures in the split 'heldout'"):
        inputs.check(config_of(tmp_path / "all-train"))
    options = dataclasses.replace(options, heldout=0.3)
    packing.pack(source, tmp_path / "bare", options, Bar)
    inputs.check(config_of(tmp_path / "bare", dict(kind="none")))
    for kind, missing in (
        (dict(), "captions"),
        (dict(kind="layout", classes=3, vocab=201, length=11), "classes"),
        (dict(kind="label", classes=5), "labels"),
        (dict(kind="segmentation", classes=5, width=4, stages=1), "segmentation"),
        (dict(kind="none", inpaint="ldm"), "mask"),
    ):
        inputs.check(config_of(packs, kind))
        with pytest.raises(ValueError, match=f"bare has no {missing}, which"):
            inputs.check(config_of(tmp_path / "bare", kind))
    free = config_of(tmp_path / "bare", dict(kind="none", inpaint="ldm"), holes="box")
    inputs.check(free)


@pytest.mark.parametrize("kind", ["layout", "low_res", "text"])
def test_what_a_model_is_given_can_be_drawn(packs, kind):
    cond = {
        "layout": dict(kind="layout", classes=3, vocab=201, length=11),
        "low_res": dict(kind="low_res", stages=1),
        "text": {},
    }[kind]
    c = config_of(packs, cond, crop="random", flip=True)
    keys = ("image", *system.build(c).batch)
    batch = inspection.first_batch(c, keys, 4)
    sheet = inspection.sheet(batch, inspection.reader(c))
    assert sheet.dtype == np.uint8 and sheet.std() > 0
    if kind == "layout":
        said = [inspection.reader(c)(tokens) for tokens in batch["tokens"]]
        assert all("crop " in text for text in said)
        # A box of 0.25 to 0.6, or flipped, on a grid of 14 places.
        assert any("23 0 62 100" in t or "38 0 77 100" in t for t in said), said


def test_pictures_are_degraded_as_they_are_asked(packs):
    cond = dict(kind="low_res", stages=1)
    for name in ("pil_bicubic", "cv_area"):
        c = config_of(packs, cond, degradation=name)
        found = taken(c, 2, ("image", "low_res"))
        for image, low_res in zip(*found.values(), strict=True):
            wanted = degrade.DEGRADATIONS[name](image, None, 2)
            np.testing.assert_array_equal(low_res, wanted)


def test_labels_and_maps_must_be_in_range(packs):
    c = config_of(packs, dict(kind="label", classes=5))
    found = taken(c, 6, ("label", "image"))
    np.testing.assert_array_equal(found["label"], np.array(numbers(found["image"])) % 4)
    with pytest.raises(ValueError, match="label 3, .*room for 0 to 2 and the null"):
        taken(config_of(packs, dict(kind="label", classes=4)), 6, ("label",))
    full = config_of(packs, dict(kind="label", classes=4, drop=0.0), guided=False)
    # Without dropout there is no null.
    assert set(taken(full, 6, ("label",))["label"]) == {0, 1, 2, 3}
    cond = dict(kind="segmentation", classes=5, width=4, stages=1)
    found = taken(config_of(packs, cond), 6, ("segmentation", "image"))
    for plane, i in zip(found["segmentation"], numbers(found["image"]), strict=True):
        assert plane.dtype == np.uint8 and plane.shape == (SIZE, SIZE)
        assert (plane[:, :7] == i % 5).all() and (plane[:, 9:] == 0).all()
    cond["classes"] = 4
    with pytest.raises(ValueError, match="map has numbers from 0 to 4, .*0 to 3"):
        taken(config_of(packs, cond), 6, ("segmentation",))


def test_holes_are_the_data_sets_or_drawn(packs):
    c = config_of(packs, dict(inpaint="ldm"))
    assert (taken(c, 2, ("mask",))["mask"] == 1).all()
    drawn = taken(config_of(packs, dict(inpaint="ldm"), holes="box"), 6, ("mask",))
    shares = drawn["mask"].mean((1, 2))
    assert shares.min() > 0 and shares.max() < 1 and len(set(shares)) > 4


def test_captions_are_tokens(packs):
    c = config_of(packs)
    found = taken(c, 1, ("tokens",))["tokens"]
    words = tokenizers.load(c.cond_stage)
    np.testing.assert_array_equal(found, words(["a red fox"] * 4))


def test_the_rules_name_the_data_sets_that_are_read():
    assert set(config_rules.READ) == set(datasets.READ)


WRONG = {
    "data.path '/x' does nothing where data.name is 'emoji_singles'": dict(path="/x"),
    "data.crop 'random' does nothing": dict(crop="random"),
    "data.resize 'area' does nothing": dict(resize="area"),
    "data.flip True does nothing": dict(flip=True),
    "data.degradation 'bsr' does nothing where cond_stage.kind is 'text'": dict(
        degradation="bsr"
    ),
    "data.holes 'box' does nothing where cond_stage.inpaint is ''": dict(holes="box"),
}


def test_a_first_stage_has_no_holes_and_no_degradation():
    for data in (dict(holes="box"), dict(degradation="bsr")):
        c = helpers.tiny_autoencoder_config().copy_and_resolve_references()
        c.data.update(data)
        with pytest.raises(ValueError, match="must be 'pil_bicubic' and ''"):
            config_lib.check(c)


@pytest.mark.parametrize("words", WRONG)
def test_what_would_do_nothing_is_refused(words):
    c = helpers.tiny_config().copy_and_resolve_references()
    c.data.update(WRONG[words])
    with pytest.raises(ValueError, match=words):
        config_lib.check(c)


@pytest.mark.parametrize(
    ("data", "cond", "table"),
    [
        (dict(crop="centre"), {}, transforms.CROPS),
        (dict(resize="cubic"), {}, transforms.RESIZES),
        (dict(degradation="bsr-light"), dict(kind="low_res", stages=1), None),
        (dict(holes="boxes"), dict(inpaint="ldm"), masks.FREE),
    ],
)
def test_misspelt_names_are_told_before_anything_is_read(packs, data, cond, table):
    c = config_of(packs, cond, **data)
    value = next(iter(data.values()))
    nearest = "bsr_light" if table is None else "|".join(table)
    with pytest.raises(ValueError, match=f"'{value}' is not one of .*({nearest})"):
        inputs.check(c)


def test_where_no_data_are_that_is_told(tmp_path):
    for name, words in (("packed", "ldm_jax.pack"), ("tfds", "TensorFlow Datasets")):
        c = config_of(tmp_path / "nowhere")
        c.data.name = name
        with pytest.raises((FileNotFoundError, ValueError), match=f"nowhere.*{words}"):
            inputs.check(c)
        c.data.path = ""
        with pytest.raises(ValueError, match="data.path is empty: name the folder"):
            inputs.check(c)


def test_no_picture_is_held_out_twice(packs):
    c = config_of(packs)
    there = len(inputs.drawn_source(c, "heldout"))
    found = inputs.held_out(c, there, seed=0)
    assert len({example["image"].tobytes() for example in found}) == there
    again = inputs.held_out(c, there, seed=0)
    np.testing.assert_array_equal(found[0]["image"], again[0]["image"])
    with pytest.raises(ValueError, match=f"{there + 1} pictures .*take --n={there} or"):
        inputs.held_out(c, there + 1, seed=0)
