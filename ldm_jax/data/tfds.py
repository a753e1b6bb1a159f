"""Data sets that TensorFlow Datasets has prepared, read without TensorFlow.

They must be kept as ArrayRecord files (file_format="array_record" when they were
prepared), which allow random access.
"""

import dataclasses
from typing import Any

import numpy as np

from ldm_jax.data import layout

SPLITS = {"train": ("train",), "heldout": ("validation", "test")}


def opened(path, split):
    """The source of a prepared data set: path is its folder with dataset_info.json.

    heldout is its validation, or else its test split. Raises ValueError naming the
    folder for one that is no such, or has none of these splits.
    """
    try:  # not at the top: most never need it, and it is slow to import
        import tensorflow_datasets
    except ModuleNotFoundError as error:
        raise ValueError(
            f"data.name 'tfds' needs {error.name}: bash launch/setup.sh "
            "requirements-tfds.txt installs what reads such data sets"
        ) from error

    try:
        builder = tensorflow_datasets.builder_from_directory(str(path))
        names = [name for name in SPLITS[split] if name in builder.info.splits]
        source = builder.as_data_source(names[0]) if names else None
    except (OSError, ValueError, KeyError, NotImplementedError) as error:
        raise ValueError(
            f"{path} is no data set that TensorFlow Datasets has prepared as "
            f"ArrayRecord: {error}"
        ) from error
    if source is None:
        raise ValueError(
            f"{path} has the splits {sorted(builder.info.splits)}, none of "
            f"{SPLITS[split]}"
        )
    return Prepared(source)


@dataclasses.dataclass(frozen=True)
class Prepared:
    """Examples as data.packed.unpack gives them; picklable."""

    source: Any

    def __len__(self):
        return len(self.source)

    def __getitem__(self, index):
        return example_of(self.source[int(index)])


def example_of(found):
    """An example of ours from one of theirs: image, label, caption, objects, maps."""
    image = np.asarray(found["image"])
    if image.shape[-1] == 1:
        image = image.repeat(3, axis=-1)
    classes, boxes, flags = _objects(found)
    example = {
        "image": image[..., :3],
        "caption": _text(found),
        "label": np.int32(found.get("label", -1)),
        "classes": classes,
        "boxes": boxes,
        "flags": flags,
    }
    for theirs in ("segmentation_mask", "segmentation_label"):
        if theirs in found:
            example["segmentation"] = np.asarray(found[theirs])[..., 0].astype(np.int32)
    return example


def _text(found):
    """A caption: coco_captions has several, of which it is the first."""
    said = found.get("caption", "")
    if isinstance(found.get("captions"), dict):
        said = found["captions"]["text"][0]
    return said.decode() if isinstance(said, bytes) else str(said)


# Theirs -> ours, of an object's marks: of coco and of open_images_v4.
MARKS = {
    "is_crowd": layout.GROUP,
    "is_group_of": layout.GROUP,
    "is_occluded": layout.OCCLUDED,
    "is_depiction": layout.DEPICTION,
    "is_inside": layout.INSIDE,
}


def _objects(found):
    """(classes, boxes, flags) of what is in a picture; their boxes are y, x, y, x."""
    objects = found.get("objects", found.get("bobjects", {"bbox": []}))
    boxes = np.array(objects["bbox"], np.float32).reshape(-1, 4)[:, [1, 0, 3, 2]]
    classes = np.array(objects.get("label", []), np.int32)
    flags = np.zeros(len(boxes), np.int32)
    for name, flag in MARKS.items():
        if name in objects:
            flags |= flag * (np.asarray(objects[name], np.int32) == 1)
    return classes, boxes, flags
