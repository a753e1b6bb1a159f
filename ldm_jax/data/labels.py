"""The arrays of one example: class names, segment names, boxes, assembly."""

import numpy as np

from ldm_jax.data import captions, sprites

ENDLESS = 2**40
UNSEEN = 2**32  # a place past all that a training takes: new pictures in train too
MAX_OBJECTS = 5
JOINTS = 18
CLASSES = (*sprites.SCENE_CLASSES, "person")
# What a thing is: a place among the 266 scene sprites, or one of these.
PERSON = 266
NONE = 267
MAX_RELATIONS = 2
SEGMENTS = ("backdrop", "sky", *captions.GROUNDS, *CLASSES)
BACKDROP = 0
SKY = 1
_SPLITS = {"train": 0, "heldout": 1}


def rng(seed, split, index):
    """The generator of one example; indices below zero or past the end raise."""
    if split not in _SPLITS:
        raise ValueError(f"split is one of {list(_SPLITS)}, not {split!r}")
    if not 0 <= index < ENDLESS:
        raise IndexError(f"index {index} is outside 0..{ENDLESS - 1}")
    return np.random.default_rng((int(seed), _SPLITS[split], int(index)))


def segment_of(kind):
    """The segment of a class: places in SEGMENTS and in CLASSES."""
    return len(SEGMENTS) - len(CLASSES) + kind


def ground_segment(ground):
    """The segment of a ground: places in SEGMENTS and in captions.GROUNDS."""
    return SKY + 1 + ground


def box_of(mask):
    """(x0, y0, x1, y1) in 0..1 around the nonzero pixels of a [H, W] mask."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    height, width = mask.shape
    ends = columns[0] / width, rows[0] / height
    return *ends, (columns[-1] + 1) / width, (rows[-1] + 1) / height


def example(*, classes, things, instances, label, relations=(), joints=None, **rest):
    """An item as every source yields it, boxes taken from the visible instances.

    image uint8 [S, S, 3]; caption str; label int32, place among the scene sprites;
    boxes float32 [5, 4] (x0, y0, x1, y1 in 0..1, zeros where unused); classes int32
    [5] (-1 where unused); sprites int32 [5], what each object is: its place among the
    scene sprites or PERSON (-1 where unused); relations int32 [2, 3], what the caption
    says: rows (object, place in captions.RELATIONS, other object), both places in
    sprites (-1 where unused); segmentation uint8 [S, S] (SEGMENTS); instances uint8
    [S, S] (0 none, k for object k, from 1); depth float32 [S, S], 0 near to 1 far;
    joints float32 [18, 3] (x, y in 0..1, visible); mask uint8 [S, S], 1 in the hole.
    """
    boxes = np.zeros((MAX_OBJECTS, 4), np.float32)
    kinds = np.full(MAX_OBJECTS, -1, np.int32)
    kinds[: len(classes)] = classes
    what = np.full(MAX_OBJECTS, -1, np.int32)
    what[: len(things)] = things
    said = np.full((MAX_RELATIONS, 3), -1, np.int32)
    if relations:
        said[: len(relations)] = relations
    for k in range(len(classes)):
        boxes[k] = box_of(instances == k + 1)
    if joints is None:
        joints = np.zeros((JOINTS, 3), np.float32)
    arrays = {"boxes": boxes, "classes": kinds, "instances": instances}
    arrays |= {"sprites": what, "relations": said}
    return rest | arrays | {"label": np.int32(label), "joints": joints}
