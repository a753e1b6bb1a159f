"""Packed pictures: a folder of ArrayRecord shards by `ldm_jax.pack`, as a source.

pack.json says what is there. A record is a JSON header, led by its length, and then the
bytes of picture files: the picture, and where there are such its map of classes, its
mask and its hint. They are decoded when they are read; nothing in them is executed.
"""

import bisect
import dataclasses
import itertools
import json
import pathlib
import struct
from typing import Any

import numpy as np

from ldm_jax.data import decoding, shards, transforms

ABOUT = "pack.json"
FORMAT = 2
SPLITS = ("train", "heldout")
HEADER = ("text", "label", "classes", "boxes", "flags")  # of a record, with sizes
PARTS = ("image", "segmentation", "mask", "hint")  # after it, in this order
KEYS = {
    "format": int,
    "splits": dict,  # split -> the number of pictures in each of its shards
    "labels": list,  # names of the labels, in the order of their numbers
    "classes": list,  # of the boxes' classes
    "maps": list,  # which of PARTS there are beside the picture
    "captions": bool,
    "skipped": int,
    "content": str,  # a hash of all records
}


def pack(example):
    """The bytes of one record.

    example: text, label (-1: none), classes, boxes, flags, and the bytes of PARTS.
    """
    parts = {name: example[name] for name in PARTS if name in example}
    header = {key: example[key] for key in HEADER}
    header["sizes"] = {name: len(part) for name, part in parts.items()}
    told = json.dumps(header).encode()
    return struct.pack("<I", len(told)) + told + b"".join(parts.values())


def unpack(record):
    """The example of a record: arrays, of the pictures as they are decoded.

    image uint8 [H, W, 3]; caption str; label int32, -1 for none; classes int32 [n],
    boxes float32 [n, 4] (x0, y0, x1, y1 in 0..1) and flags int32 [n] of its objects;
    segmentation int32 [H, W], mask uint8 [H, W], 1 in the hole, and hint uint8
    [H, W, 3], where there are such. Raises ValueError for other bytes.
    """
    try:
        (length,) = struct.unpack_from("<I", record)
        header = json.loads(record[4 : 4 + length])
        sizes = [header["sizes"].get(name, 0) for name in PARTS]
        ends = list(itertools.accumulate(sizes, initial=4 + length))
        if ends[-1] != len(record) or min(sizes) < 0:
            raise ValueError(f"it has {len(record)} bytes, it says {ends[-1]}")
        parts = dict(zip(PARTS, itertools.pairwise(ends), strict=True))
        image, segmentation, mask, hint = (record[slice(*parts[x])] for x in PARTS)
        boxes = np.array(header["boxes"], np.float32).reshape(-1, 4)
        example = {
            "image": decoding.picture(image),
            "caption": str(header["text"]),
            "label": np.int32(header["label"]),
            "classes": np.array(header["classes"], np.int32),
            "boxes": boxes,
            "flags": np.array(header["flags"], np.int32),
        }
    except (struct.error, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error
    if segmentation:
        example["segmentation"] = decoding.numbers(segmentation)
    if mask:
        example["mask"] = decoding.mask(mask)
    if hint:
        found = decoding.picture(hint)
        example["hint"] = transforms.fitted_hint(found, example["image"])
    return example


def shard_path(folder, split, shard):
    return pathlib.Path(folder) / f"{split}-{shard:05}.array_record"


def about_text(about):
    """What pack.json has, for a dict of KEYS without the format."""
    return json.dumps({"format": FORMAT, **about}, indent=1)


def write_about(folder, about):
    """Writes pack.json."""
    (pathlib.Path(folder) / ABOUT).write_text(about_text(about), encoding="utf-8")


def read_about(folder):
    """pack.json as a dict.

    Raises FileNotFoundError, or ValueError naming the file and what is wrong with it.
    """
    path = pathlib.Path(folder) / ABOUT
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} does not exist: {command(folder)} writes such a folder"
        )
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
        _check(about)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not one of ldm_jax.pack: {error}") from error
    return about


def _check(about):
    if not isinstance(about, dict) or about.keys() != KEYS.keys():
        raise ValueError(f"it must have the keys {list(KEYS)}")
    for key, kind in KEYS.items():
        if type(about[key]) is not kind:
            raise ValueError(f"{key} is {about[key]!r}, it must be {kind.__name__}")
    if about["format"] != FORMAT:
        raise ValueError(
            f"its format is {about['format']}, known is {FORMAT}: pack it again"
        )
    for split, counts in about["splits"].items():
        listed = type(counts) is list and all(type(n) is int for n in counts)
        if split not in SPLITS or not listed or min(counts, default=0) < 1:
            raise ValueError(f"splits has {split!r} with {counts!r}")


@dataclasses.dataclass(frozen=True)
class Packed:
    """The examples of a split, as `unpack` gives them; picklable."""

    folder: pathlib.Path
    split: str
    counts: tuple  # of pictures, by shard
    records: Any  # random access to their bytes

    def __len__(self):
        return sum(self.counts)

    def __getitem__(self, index):
        index = int(index)
        try:
            return unpack(self.records[index])
        except (RuntimeError, ValueError) as error:
            starts = list(itertools.accumulate(self.counts, initial=0))
            shard = bisect.bisect_right(starts, index) - 1
            path = shard_path(self.folder, self.split, shard)
            raise ValueError(
                f"{path}, record {index - starts[shard]} cannot be read: {error}"
            ) from error


def opened(folder, split):
    """The Packed of a split. Raises ValueError or FileNotFoundError naming the file."""
    folder = pathlib.Path(folder)
    about = read_about(folder)
    counts = tuple(about["splits"].get(split, ()))
    if not counts:
        raise ValueError(
            f"{folder} has no pictures in the split {split!r}, only in "
            f"{sorted(about['splits'])}: pack it with another --heldout share"
        )
    paths = [shard_path(folder, split, i) for i in range(len(counts))]
    records = shards.opened(paths, counts, command(folder))
    return Packed(folder, split, counts, records)


def content(folder):
    """What tells a folder's pictures from others: a hash of all records."""
    return read_about(folder)["content"]


def command(folder):
    """What writes a folder."""
    return f"python -m ldm_jax.pack --folder=... --out={folder}"


def check(folder, wanted):
    """Raises ValueError where a folder lacks what a model is told.

    wanted: of "captions", "labels", "classes" and PARTS.
    """
    about = read_about(folder)
    there = {key for key in ("captions", "labels", "classes") if about[key]}
    for name in wanted:
        if name not in there | set(about["maps"]):
            raise ValueError(
                f"{folder} has no {name}, which this model is told: say them of every "
                "picture in metadata.jsonl and pack it again"
            )
