"""The sheet of what a model is given: each thing where the example says it is."""

import commands
import numpy as np
from PIL import Image
import pytest
import tiny_text_to_image

from ldm_jax import inputs, inspection
from ldm_jax.data import labels

EXTRA = ("label", "boxes", "classes", "segmentation", "instances", "depth", "joints")


@pytest.fixture
def config():
    return tiny_text_to_image.get_config()


@pytest.fixture
def example():
    """A grey picture with one object in its upper right quarter."""
    part = np.zeros((16, 16), np.uint8)
    part[:8, 8:] = 1
    boxes = np.zeros((5, 4), np.float32)
    boxes[0] = (0.5, 0, 1, 0.5)
    joints = np.zeros((18, 3), np.float32)
    joints[0] = (0.25, 0.75, 1)
    return {
        "image": np.full((16, 16, 3), 100, np.uint8),
        "boxes": boxes,
        "joints": joints,
        "segmentation": 3 * part,
        "instances": part,
        "depth": np.where(part, 0.5, 1).astype(np.float32),
        "mask": part,
        "low_res": np.uint8(100 + part[::4, ::4, None] * np.full(3, 50)),
    }


@pytest.mark.parametrize("key", inspection.PANELS)
def test_a_panel_marks_its_thing_where_it_is(example, key):
    image = np.full((64, 64, 3), 100, np.uint8)
    panel = inspection.PANELS[key](image, example)
    changed = (panel != (0 if key == "depth" else 100)).any(-1)
    rows, columns = np.nonzero(changed)
    found = rows.min(), rows.max() + 1, columns.min(), columns.max() + 1
    wanted = (45, 52, 13, 20) if key == "joints" else (0, 32, 32, 64)
    assert panel.shape == image.shape and found == wanted
    assert (image == 100).all()


def test_every_segment_has_a_colour_of_its_own():
    assert len(np.unique(inspection.PALETTE, axis=0)) >= len(labels.SEGMENTS)


def test_the_batch_is_that_of_the_training(config):
    batch = inspection.first_batch(config, ("image", "tokens", *EXTRA), 6)
    with inputs.batches(config, ("image", "tokens", *EXTRA)) as batches:
        parts = [next(batches), next(batches)]
    for key, x in batch.items():
        assert len(x) == 6
        np.testing.assert_array_equal(x, np.concatenate([p[key] for p in parts])[:6])
    lines = inspection.summary(batch).splitlines()
    lowest, highest = batch["image"].min(), batch["image"].max()
    assert lines[0].startswith("image         (6, 16, 16, 3)")
    assert lines[0].endswith(f"uint8    {lowest} .. {highest}")
    assert [line.split()[0] for line in lines] == [*batch]


def test_an_unknown_key_is_named(config):
    with pytest.raises(ValueError, match="'lable' is not one of .* mean 'label'"):
        inspection.first_batch(config, ("image", "lable"), 1)


def test_the_sheet_shows_every_picture_with_its_panels(config):
    batch = inspection.first_batch(config, ("image", "tokens", "label", "boxes"), 3)
    sheet = inspection.sheet(batch, inspection.reader(config))
    for i, image in enumerate(batch["image"]):
        cell = sheet[4 + i * (len(sheet) - 4) // 3 :, 4 : 4 + 160]
        np.testing.assert_array_equal(cell[5:160:10, 5:160:10], image)


def test_the_command_writes_the_sheet(tmp_path):
    out = tmp_path / "sheet.png"
    flags = [f"--config={commands.CONFIG}", f"--out={out}", "--count=2", "--keys=label"]
    code, printed = commands.run("ldm_jax.inspect_data", *flags)
    assert code == 0, printed
    assert "tokens" in printed and "int32" in printed and str(out) in printed
    with Image.open(out) as image:
        assert min(image.size) > 160
