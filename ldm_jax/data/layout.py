"""Layouts, classes and boxes, as rows of tokens for cross-attention.

After LDM's layout-to-image, whose tokens are those of taming-transformers
(taming/data/conditional_builder). An object is three tokens: its class + count * its
flags, the place of its top left corner and that of its bottom right one. The two last
tokens of a row are the corners of the crop, the part of the picture that is shown.
The places are a square grid over the whole picture, row by row. Classes and places
have their tokens from one vocabulary, whose last one is "unused".

Two things differ from there. The flag GROUP was never set for COCO's crowds, for
the integer `iscrowd` was compared by `is True`; here it is set. And a box that begins
outside of the picture is cut at the edge, where it was pushed in at its full width.
"""

import difflib
import json
import math
import pathlib

import numpy as np

from ldm_jax import names as names_lib

GROUP, OCCLUDED, DEPICTION, INSIDE = 1, 2, 4, 8
FLAGS = {"group": GROUP, "occluded": OCCLUDED}
FLAGS |= {"depiction": DEPICTION, "inside": INSIDE}
OBJECTS = 30
VOCAB = 8192
WHOLE = (0.0, 0.0, 1.0, 1.0)


def check(vocab, count, largest=0):
    """ValueError if count classes with flags up to `largest`, or places, do not fit."""
    need, side = count * (largest + 1), math.isqrt(vocab)
    if need >= vocab:
        raise ValueError(
            f"{count} classes with flags up to {largest} take {need} tokens and "
            f'"unused" one: vocab is {vocab}, raise it to {need + 1} or more'
        )
    if side < 2 or side * side == vocab:
        raise ValueError(
            f"vocab {vocab} must be 5 or more and no square, or its last token is both "
            f'a place and "unused"; take {max(vocab + 1, 5)}'
        )


def tokens(
    classes,
    boxes,
    *,
    count,
    flags=None,
    crop=WHOLE,
    flip=False,
    vocab=VOCAB,
    objects=OBJECTS,
    rng=None,
):
    """A layout -> int32 [3 * objects + 2].

    classes int [n], 0 to count - 1, or -1 in rows that are unused; boxes float [n, 4],
    (x0, y0, x1, y1) in shares of the whole picture, cut to it; flags int [n], sums of
    GROUP, OCCLUDED, DEPICTION and INSIDE; crop, one box; flip: mirror all of it. In
    this order: no more than the first `objects` stay, rng shuffles them, those are
    dropped that share no area with the crop.
    """
    classes, boxes, flags = _arrays(classes, boxes, flags)
    crop = np.asarray(crop, np.float64)
    rows = np.flatnonzero(classes != -1)
    _check_rows(classes[rows], boxes[rows], flags[rows], crop, count)
    check(vocab, count, flags[rows].max(initial=0))
    rows = rows[:objects]
    if rng is not None:
        rows = rng.permutation(rows)
    rows = rows[_meets(boxes[rows], crop)]
    ends = np.concatenate([boxes[rows].clip(0, 1), crop[None]])
    if flip:
        ends[:, [0, 2]] = 1 - ends[:, [2, 0]]
    places = _places(ends.reshape(-1, 2, 2), vocab)
    filled = np.full((objects, 3), vocab - 1)
    filled[: len(rows), 0] = classes[rows] + count * flags[rows]
    filled[: len(rows), 1:] = places[:-1]
    return np.append(filled, places[-1]).astype(np.int32)


def objects_of(row, vocab, count):
    """What one row of `tokens` says: (classes, boxes, flags, crop).

    int32 [n], float32 [n, 4], int32 [n] and float32 [4]. The corners are points of
    the grid, and a thin box may have become a line.
    """
    row, side = np.asarray(row), math.isqrt(vocab)
    if row.ndim != 1 or len(row) % 3 != 2:
        raise ValueError(f"a layout is one row of 3 n + 2 tokens, not {row.shape}")
    triples = row[:-2].reshape(-1, 3)
    triples = triples[triples[:, 0] != vocab - 1]
    places = np.concatenate([triples[:, 1:], row[None, -2:]])
    flags, classes = np.divmod(triples[:, 0], count)
    if not (np.isin(flags, range(16)).all() and np.isin(places, range(side**2)).all()):
        raise ValueError(f"no layout of {count} classes in a vocabulary of {vocab}")
    ends = np.stack([places % side, places // side], -1) / (side - 1)
    boxes = ends.reshape(-1, 4).astype(np.float32)
    return classes.astype(np.int32), boxes[:-1], flags.astype(np.int32), boxes[-1]


def load(path, names, objects=OBJECTS):
    """The layout of a JSON file: (classes, boxes, flags, crop), as `tokens` takes them.

    The file: {"objects": [{"class": "dog", "box": [x0, y0, x1, y1]}, ...]}, classes by
    their name or their place in names; an object may have "group": true, or another of
    FLAGS, and the layout a "crop": [x0, y0, x1, y1]. What is wrong with it is a
    ValueError with the file, the object (the first is 1) and what to do.
    """
    text = pathlib.Path(path).read_bytes()
    try:
        return _layout(_parsed(text), names, objects)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def objects_from(listed, names, crop=WHOLE):
    """(classes, boxes, flags) of a list of objects as in a file of `load`.

    Raises ValueError with the number of the object, the first is 1.
    """
    crop, found = np.asarray(crop), []
    for number, entry in enumerate(listed, 1):
        try:
            found.append(_object(entry, names, crop))
        except ValueError as error:
            raise ValueError(f"object {number}: {error}") from error
    classes, boxes, flags = zip(*found, strict=True) if found else ((), (), ())
    boxes = np.array(boxes, np.float32).reshape(-1, 4)
    return np.array(classes, np.int32), boxes, np.array(flags, np.int32)


def _arrays(classes, boxes, flags):
    classes = np.asarray(classes, np.int64)
    boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
    flags = np.zeros_like(classes) if flags is None else np.asarray(flags, np.int64)
    if not classes.shape == flags.shape == (len(boxes),):
        raise ValueError(
            f"classes {classes.shape}, boxes {boxes.shape} and flags {flags.shape} "
            "must be [n], [n, 4] and [n]"
        )
    return classes, boxes, flags


def _check_rows(classes, boxes, flags, crop, count):
    if ((classes < 0) | (classes >= count)).any():
        raise ValueError(f"classes {classes} must be 0 to {count - 1}, or -1 if unused")
    if ((flags < 0) | (flags > sum(FLAGS.values()))).any():
        raise ValueError(f"flags {flags} must be sums of {FLAGS}")
    if not np.isfinite(boxes).all():
        raise ValueError(f"boxes must be finite, not {boxes.tolist()}")
    _check_box(crop.tolist(), "crop")


def _meets(boxes, crop):
    """Which of boxes [n, 4] share some area with the crop: bool [n]."""
    start, end = np.maximum(boxes[:, :2], crop[:2]), np.minimum(boxes[:, 2:], crop[2:])
    return (start < end).all(-1)


def _places(points, vocab):
    """Points [..., 2] (x, y) in 0..1 -> the nearest of the grid, ties to even ones."""
    side = math.isqrt(vocab)
    steps = np.rint(points * (side - 1)).astype(np.int64)
    return steps[..., 1] * side + steps[..., 0]


def _parsed(text):
    try:
        return json.loads(text, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"it must be JSON: {error}") from error


def _unique(pairs):
    if len(dict(pairs)) < len(pairs):
        raise ValueError(f"one of the keys {[key for key, _ in pairs]} is there twice")
    return dict(pairs)


def _layout(about, names, objects):
    _check_keys(about, needed=("objects",), more=("crop",))
    listed = about["objects"]
    if type(listed) is not list:
        raise ValueError(f'"objects" must be a list [...], not {listed!r}')
    if len(listed) > objects:
        raise ValueError(f"{len(listed)} objects are too many: keep {objects} or fewer")
    crop = about.get("crop", WHOLE)
    _check_box(crop, "crop")
    crop = np.array(crop, np.float32)
    return *objects_from(listed, names, crop), crop


def _object(entry, names, crop):
    """The class, box and flags of one entry of a file's objects."""
    _check_keys(entry, needed=("class", "box"), more=FLAGS)
    kind, box = _class(entry["class"], names), entry["box"]
    _check_box(box, "box")
    if not _meets(np.float32([box]), crop).all():
        raise ValueError(f"box {box} is outside of the crop: move it or take it away")
    said = {name: entry.get(name, False) for name in FLAGS}
    for name, value in said.items():
        if type(value) is not bool:
            raise ValueError(f'"{name}" must be true or false, not {value!r}')
    return kind, box, sum(FLAGS[name] for name in FLAGS if said[name])


def _check_keys(entry, needed, more):
    what = ", ".join(f'"{key}"' for key in needed)
    if type(entry) is not dict:
        raise ValueError(f"must be {{...}} with {what}, not {entry!r}")
    for key in entry:
        names_lib.pick(dict.fromkeys([*needed, *more]), key)
    for key in needed:
        if key not in entry:
            raise ValueError(f'"{key}" is missing: add it (what must be there: {what})')


def _class(given, names):
    last = len(names) - 1
    if type(given) is int:
        if 0 <= given <= last:
            return given
        raise ValueError(f"class {given} does not exist: take a name, or 0 to {last}")
    if type(given) is not str:
        raise ValueError(f'"class" must be a name or 0 to {last}, not {given!r}')
    if given in names:
        return names.index(given)
    nearest = difflib.get_close_matches(given, names, n=1, cutoff=0.0)
    hint = "".join(f"; did you mean {name!r}?" for name in nearest)
    raise ValueError(f"class {given!r} is not among the {len(names)} that exist{hint}")


def _check_box(box, what):
    numbers = type(box) in (list, tuple) and len(box) == 4
    numbers = numbers and all(type(value) in (int, float) for value in box)
    if not numbers or not all(0 <= value <= 1 for value in box):
        raise ValueError(
            f"{what} {box} must be four numbers x0, y0, x1, y1 from 0 to 1, shares of "
            "the picture's width and height"
        )
    if box[0] >= box[2] or box[1] >= box[3]:
        raise ValueError(
            f"{what} {box} is empty: x1 must be more than x0 and y1 more than y0, for "
            "they are its right and lower edge (not width and height)"
        )
