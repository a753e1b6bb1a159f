"""Data sets of TensorFlow Datasets, prepared here from scenes and read back."""

import io
import pickle
import sys

import numpy as np
from PIL import Image
import pytest
import tensorflow_datasets as prepared

from ldm_jax.data import layout, scenes, tfds

SIZE, N = 32, 6


def scene(i):
    return scenes.Scenes("train", 0, SIZE)[i]


def png(array):
    out = io.BytesIO()
    Image.fromarray(array).save(out, "PNG")
    return io.BytesIO(out.getvalue())


def examples(place):
    for i in range(N):
        found = scene(i + place)
        used = found["classes"] >= 0
        boxes = [
            prepared.features.BBox(ymin=y0, xmin=x0, ymax=y1, xmax=x1)
            for x0, y0, x1, y1 in found["boxes"][used]
        ]
        yield (
            i,
            {
                "image": png(found["image"]),
                "label": i % 3,
                "caption": found["caption"],
                "segmentation_mask": png(found["segmentation"]),
                "objects": [
                    {"bbox": box, "label": int(kind), "is_crowd": bool(k)}
                    for k, (box, kind) in enumerate(
                        zip(boxes, found["classes"][used], strict=True)
                    )
                ],
            },
        )


class Scenes(prepared.core.GeneratorBasedBuilder):
    """What a data set's authors write; it must be at the top of a module."""

    VERSION = prepared.core.Version("1.0.0")

    def _info(self):
        features = prepared.features
        objects = {
            "bbox": features.BBoxFeature(),
            "label": features.ClassLabel(num_classes=8),
            "is_crowd": np.bool_,
        }
        picture = features.Image(shape=(None, None, 3), encoding_format="png")
        numbers = features.Image(shape=(None, None, 1), encoding_format="png")
        told = {
            "image": picture,
            "label": features.ClassLabel(num_classes=3),
            "caption": features.Text(),
            "segmentation_mask": numbers,
            "objects": features.Sequence(objects),
        }
        return prepared.core.DatasetInfo(
            builder=self, features=features.FeaturesDict(told)
        )

    def _split_generators(self, manager):
        return {"train": examples(0), "validation": examples(100)}

    def _generate_examples(self):
        raise NotImplementedError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A prepared data set of two splits, as ArrayRecord files."""
    where = tmp_path_factory.mktemp("tfds")
    builder = Scenes(data_dir=where, file_format="array_record")
    builder.download_and_prepare()
    return builder.data_dir


@pytest.mark.parametrize(("split", "place"), [("train", 0), ("heldout", 100)])
def test_what_was_prepared_is_what_is_read(folder, split, place):
    source = tfds.opened(folder, split)
    assert len(source) == N
    captions = {scene(i + place)["caption"]: i + place for i in range(N)}
    for k in range(N):
        found = source[k]
        wanted = scene(captions.pop(found["caption"]))
        np.testing.assert_array_equal(found["image"], wanted["image"])
        np.testing.assert_array_equal(found["segmentation"], wanted["segmentation"])
        used = wanted["classes"] >= 0
        np.testing.assert_array_equal(found["classes"], wanted["classes"][used])
        np.testing.assert_allclose(found["boxes"], wanted["boxes"][used], atol=1e-6)
        flags = [layout.GROUP * bool(k) for k in range(used.sum())]
        np.testing.assert_array_equal(found["flags"], flags)
    assert not captions


def test_workers_can_be_sent_it(folder):
    source = pickle.loads(pickle.dumps(tfds.opened(folder, "train")))
    assert source[1]["image"].shape == (SIZE, SIZE, 3)


def test_gray_pictures_have_three_channels_and_captions_may_be_many():
    found = tfds.example_of(
        {
            "image": np.full((2, 2, 1), 7, np.uint8),
            "captions": {"text": [b"a fox", b"an animal"], "id": [1, 2]},
        }
    )
    assert (found["image"] == 7).all() and found["image"].shape == (2, 2, 3)
    assert found["caption"] == "a fox" and found["label"] == -1
    assert found["boxes"].shape == (0, 4) and "segmentation" not in found


def test_what_is_no_prepared_data_set_is_told(folder, tmp_path):
    with pytest.raises(ValueError, match=f"{tmp_path} is no data set that Tensor"):
        tfds.opened(tmp_path, "train")
    (tmp_path / "dataset_info.json").write_text("{}")
    with pytest.raises(ValueError, match="is no data set that TensorFlow Datasets"):
        tfds.opened(tmp_path, "train")


def test_where_it_is_not_installed_the_command_is_told(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(ValueError, match=r"setup.sh requirements-tfds.txt installs"):
        tfds.opened(folder, "train")
