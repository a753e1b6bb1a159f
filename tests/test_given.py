"""What models of the other tasks are given from files, and the names of classes."""

import json

import helpers
import numpy as np
from PIL import Image
import pytest
import test_inputs

from ldm_jax import album, class_names, given, inputs
from ldm_jax import config as config_lib
from ldm_jax import prompts as prompts_lib
from ldm_jax.data import labels

NOTHING = dict.fromkeys(("image", "mask", "layout", "segmentation"))
packs = test_inputs.packs


def config_of(kind, name="emoji_scenes", **cond):
    c = helpers.tiny_config().copy_and_resolve_references()
    c.data.name = name
    c.cond_stage.update(kind=kind, **cond)
    if kind in ("none", "segmentation", "low_res"):
        c.cond_stage.drop, c.sample.scale = 0.0, 1.0
    return config_lib.check(c)


def read(c, **files):
    return given.read(c, NOTHING | {k: str(v) for k, v in files.items()})


def test_a_layout_is_the_tokens_of_training(tmp_path):
    c = config_of("layout", classes=7, vocab=8192, length=17)
    box = [0.1, 0.2, 0.5, 0.9]
    objects = [{"class": labels.CLASSES[2], "box": box}, {"class": 6, "box": box}]
    path = tmp_path / "layout.json"
    path.write_text(json.dumps({"objects": objects}))
    found = read(c, layout=path)["tokens"]
    example = {"classes": np.array([2, 6]), "boxes": np.array([box, box], np.float32)}
    np.testing.assert_array_equal(
        found, inputs.TOLD["layout"](c, example, None)["tokens"]
    )
    objects[0]["class"] = "anymal"
    path.write_text(json.dumps({"objects": objects}))
    with pytest.raises(
        ValueError, match="layout.json: object 1: .*did you mean 'anima"
    ):
        read(c, layout=path)
    path.write_text(json.dumps({"objects": [objects[1]] * 6}))
    with pytest.raises(ValueError, match="6 objects are too many: keep 5"):
        read(c, layout=path)


def test_a_map_is_cut_to_its_middle_and_its_nearest_pixels(tmp_path):
    c = config_of("segmentation", classes=len(labels.SEGMENTS), width=4, stages=1)
    wide = np.zeros((32, 64), np.uint8)
    wide[:, 16:32], wide[:, 32:48], wide[:, :16] = 3, 5, 13
    Image.fromarray(wide).save(tmp_path / "map.png")
    found = read(c, segmentation=tmp_path / "map.png")["segmentation"]
    assert found.shape == (16, 16) and found.dtype == np.uint8
    assert (found[:, :8] == 3).all() and (found[:, 8:] == 5).all()
    wide[0, 0] = 99
    Image.fromarray(wide).save(tmp_path / "map.png")
    with pytest.raises(ValueError, match=r"number 99; .* 0 to 13: backdrop, sky"):
        read(c, segmentation=tmp_path / "map.png")
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(tmp_path / "rgb.png")
    with pytest.raises(ValueError, match="rgb.png: it is RGB: a map has one number"):
        read(c, segmentation=tmp_path / "rgb.png")


def test_a_small_picture_is_taken_pixel_by_pixel(tmp_path):
    c = config_of("low_res", stages=1)
    shown = np.random.default_rng(0).integers(0, 256, (8, 12, 3), np.uint8)
    Image.fromarray(shown).save(tmp_path / "small.png")
    found = read(c, image=tmp_path / "small.png")
    assert set(found) == {"low_res"}
    np.testing.assert_array_equal(found["low_res"], shown[:, 2:10])
    Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(tmp_path / "large.png")
    with pytest.raises(ValueError, match="side of 20 pixels.* --image_size=40 takes"):
        read(c, image=tmp_path / "large.png")


def test_what_is_missing_or_for_another_model_is_told(tmp_path):
    c = config_of("layout", classes=7, vocab=8192, length=17)
    with pytest.raises(ValueError, match="given: name --layout=FILE"):
        read(c)
    with pytest.raises(ValueError, match="--segmentation is of models that take a sem"):
        read(c, layout="a.json", segmentation="b.png")
    with pytest.raises(ValueError, match="--layout is of layout-to-image models"):
        read(helpers.tiny_config(), layout="a.json")
    assert read(helpers.tiny_config()) == {}
    with pytest.raises(FileNotFoundError, match="none.json"):
        read(c, layout=tmp_path / "none.json")


def test_classes_have_the_names_of_their_data(packs, tmp_path):
    assert class_names.of(config_of("layout", classes=7, vocab=8192, length=17)) == [
        *labels.CLASSES
    ]
    c = config_of("segmentation", classes=16, width=4, stages=1)
    assert class_names.of(c) == [*labels.SEGMENTS, "14", "15"]
    c = test_inputs.config_of(packs, dict(kind="label", classes=5))
    assert class_names.of(c) == ["0", "1", "2", "3"]  # the fifth is the null
    c.data.path = str(tmp_path / "gone")
    assert class_names.of(c) == ["0", "1", "2", "3"]
    assert class_names.of(helpers.tiny_config()) == []


class Model:
    """Of a generation.Model what prompts look at."""

    def __init__(self, config):
        self.config, self.words, self.weights = config, (), ""


def test_labels_are_said_by_name_or_number():
    c = config_of("label", classes=267)
    names = class_names.of(c)
    wanted = album.Wanted(prompts=(names[5], "7"), n=2)
    found = album.Told(Model(c), wanted, print).batch(np.arange(4))
    assert found["label"].tolist() == [5, 5, 7, 7] and found["label"].dtype == np.int32
    for said in ("266", "-1", "zebra crossing", ""):
        with pytest.raises(ValueError, match=f"label '{said}' is none of .*: 0 to 265"):
            prompts_lib.arrays(Model(c), [said])
    with pytest.raises(ValueError, match="takes no negative prompt"):
        prompts_lib.arrays(Model(c), ["7"], "blurry")
