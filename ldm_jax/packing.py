"""A folder of pictures into ArrayRecord shards that training reads."""

from concurrent import futures
import dataclasses
import hashlib
import io
import os
import pathlib
import tempfile

import numpy as np
from PIL import Image

from ldm_jax.data import decoding, folder, layout, packed, shards, transforms

SHOWN = 5  # of the pictures that were left out
# What reads the files beside a picture, by their keys in folder.FILES.
BESIDE = {
    "segmentation": decoding.numbers,
    "mask": decoding.mask,
    "hint": decoding.picture,
}


@dataclasses.dataclass(frozen=True)
class Told:
    """What is known of all rows before a picture is opened: by row, and the names."""

    rows: list  # of folder.Row
    labels: list  # numbers
    objects: list  # (classes, boxes, flags)
    names: dict  # "labels" and "classes": their names in order


def told(source, ignored=()):
    """The Told of a folder. Raises ValueError naming a line and what is wrong there."""
    rows, known = folder.rows(source, ignored), folder.names
    said = [(row.place, row.label) for row in rows]
    labels, label_names = folder.numbered(said, known(source, "labels"), "labels")
    kinds = [
        (row.place, entry.get("class"))
        for row in rows
        for entry in row.boxes
        if type(entry) is dict and type(entry.get("class")) in (str, int)
    ]  # layout tells others
    _, class_names = folder.numbered(kinds, known(source, "classes"), "classes")
    objects = []
    for row in rows:
        try:
            found = [entry for entry in map(cut, row.boxes) if entry is not None]
            objects.append(layout.objects_from(found, class_names))
        except ValueError as error:
            raise ValueError(f"{row.place}, boxes, {error}") from error
    names = {"labels": label_names, "classes": class_names}
    return Told(rows, labels, objects, names)


NEARLY = 0.01  # how far a box may reach outside, as annotations often do


def cut(entry):
    """An object with its box cut to the picture, None if nothing is left of it.

    What is no box, or reaches further outside than NEARLY, stays as it is.
    """
    box = entry.get("box") if type(entry) is dict else None
    numbers = type(box) is list and len(box) == 4
    if not numbers or not all(type(value) in (int, float) for value in box):
        return entry
    if not all(-NEARLY <= value <= 1 + NEARLY for value in box):
        return entry
    x0, y0, x1, y1 = (min(max(value, 0.0), 1.0) for value in box)
    empty = x0 == x1 and box[0] <= box[2] or y0 == y1 and box[1] <= box[3]
    return None if empty else {**entry, "box": [x0, y0, x1, y1]}


def record(row, label, objects, least):
    """The bytes of a row's record. Raises decoding.Unreadable saying which file."""
    parts = {}
    for key, path in row.files.items():
        try:
            parts[key] = path.read_bytes()
        except OSError as error:
            raise decoding.Unreadable(f"{path}: {error.strerror}") from error
    image = parts.pop("file_name")
    path = row.files["file_name"]
    try:
        picture = decoding.picture(image, least)
        if not decoding.is_plain(image):
            image = _png(picture)
        for key, data in parts.items():
            path = row.files[key]
            found = BESIDE[key](data)
            if key == "hint":  # of another size it is kept, and fitted when it is read
                found = transforms.fitted_hint(found, picture)
            size = found.shape[:2]
            if size != picture.shape[:2]:
                raise decoding.Unreadable(f"it has {size}, the picture {picture.shape}")
    except decoding.Unreadable as error:
        raise decoding.Unreadable(f"{path}: {error}") from error
    classes, boxes, flags = (np.asarray(part).tolist() for part in objects)
    example = {"text": row.text, "label": label, "image": image, **parts}
    return packed.pack(example | {"classes": classes, "boxes": boxes, "flags": flags})


def _png(picture):
    out = io.BytesIO()
    Image.fromarray(picture).save(out, "PNG")
    return out.getvalue()


@dataclasses.dataclass(frozen=True)
class Options:
    heldout: float  # share of the pictures that are kept out of training
    least: int  # pixels of the shorter side
    broken: float  # the largest share of unreadable pictures that is put up with
    shard: int  # rows in a file
    ignored: tuple = ()  # keys of metadata.jsonl


def pack(source, out, options, progress):
    """Fills the new folder `out`; (what its pack.json says, who was left out and why).

    progress(total) -> a bar. Raises ValueError where more pictures are unreadable than
    options.broken says, naming some, FileExistsError where `out` has something in it;
    the folder is there whole or not at all.
    """
    out, found = pathlib.Path(out), told(source, options.ignored)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise FileExistsError(f"{out} is not an empty folder: take another one")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as made:
        with progress(len(found.rows)) as bar:
            splits, content, left_out = _written(made, found, options, bar)
        in_all = set.intersection(*(set(row.files) for row in found.rows))
        about = {
            "splits": splits,
            **found.names,
            "maps": sorted(in_all - {"file_name"}),
            "captions": any(row.text for row in found.rows),
            "skipped": len(left_out),
            "content": content,
        }
        packed.write_about(made, about)
        os.chmod(made, 0o755)  # a temporary folder is its owner's alone
        os.replace(made, out)
    return about, left_out


def lacking(source, ignored=()):
    """{what may be said of a picture: of how many it is not, where it is of some}."""
    rows = folder.rows(source, ignored)
    counts = {
        "text": sum(not row.text for row in rows),
        "label": sum(row.label is None for row in rows),
        "boxes": sum(not row.boxes for row in rows),
        **{key: sum(key not in row.files for row in rows) for key in BESIDE},
    }
    return {key: count for key, count in counts.items() if 0 < count < len(rows)}


def _written(made, found, options, bar):
    """Writes all shards; ({split: their counts}, their hash, who was left out)."""
    rows = folder.splits_of(found.rows, options.heldout)
    splits, content, left_out = {}, hashlib.sha256(), []

    def one(i):
        row, told = found.rows[i], (found.labels[i], found.objects[i])
        try:
            return record(row, *told, options.least), None
        except decoding.Unreadable as error:
            return None, str(error)
        finally:
            bar.update()

    with futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        for split, indices in rows.items():
            counts = []
            for start in range(0, len(indices), options.shard):
                part = indices[start : start + options.shard]
                records, errors = zip(*pool.map(one, part), strict=True)
                records = [x for x in records if x is not None]
                left_out += [error for error in errors if error is not None]
                _check_share(left_out, len(found.rows), options.broken)
                if records:
                    path = packed.shard_path(made, split, len(counts))
                    shards.write(path, records, len(records))
                    for part in records:
                        content.update(part)
                    counts.append(len(records))
            if counts:
                splits[split] = counts
    if not splits:
        raise ValueError(f"no picture of {len(found.rows)} is readable: {left_out[0]}")
    return splits, content.hexdigest()[:16], left_out


def _check_share(left_out, total, broken):
    if len(left_out) > broken * total:
        some = "\n".join(left_out[:SHOWN])
        raise ValueError(
            f"{len(left_out)} of {total} pictures are unreadable, more than --broken="
            f"{broken}. Mend them, take them away, or put up with more. Some:\n{some}"
        )
