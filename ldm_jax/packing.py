"""A folder of pictures into ArrayRecord shards that training reads."""

from concurrent import futures
import dataclasses
import io
import os
import pathlib
import tempfile
import zlib

import numpy as np
from PIL import Image

from ldm_jax.data import decoding, folder, layout, packed, shards

SHOWN = 5  # of the pictures that were left out


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
    said = [row.label for row in rows]
    labels, label_names = folder.numbered(said, known(source, "labels"), "label")
    entries = [entry for row in rows for entry in row.boxes if type(entry) is dict]
    kinds = [entry.get("class") for entry in entries]
    kinds = [kind for kind in kinds if type(kind) in (str, int)]  # layout tells others
    _, class_names = folder.numbered(kinds, known(source, "classes"), "class")
    objects = []
    for row in rows:
        try:
            objects.append(layout.objects_from(row.boxes, class_names))
        except ValueError as error:
            raise ValueError(f"{row.place}, boxes, {error}") from error
    names = {"labels": label_names, "classes": class_names}
    return Told(rows, labels, objects, names)


def is_heldout(row, share):
    """Whether a picture is kept out of training: decided by its name alone."""
    name = row.files["file_name"].name
    return zlib.crc32(name.encode()) < share * 2**32


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
            size = decoding.numbers(data).shape
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
            splits, left_out = _written(made, found, options, bar)
        about = {
            "splits": splits,
            **found.names,
            "maps": sorted(
                {k for row in found.rows for k in row.files} - {"file_name"}
            ),
            "captions": any(row.text for row in found.rows),
            "skipped": len(left_out),
        }
        packed.write_about(made, about)
        os.chmod(made, 0o755)  # a temporary folder is its owner's alone
        os.replace(made, out)
    return about, left_out


def _written(made, found, options, bar):
    """Writes all shards; ({split: their counts}, who was left out)."""
    rows = {split: [] for split in packed.SPLITS}
    for i, row in enumerate(found.rows):
        heldout = is_heldout(row, options.heldout)
        rows["heldout" if heldout else "train"].append(i)
    splits, left_out = {}, []

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
                    counts.append(len(records))
            if counts:
                splits[split] = counts
    if not splits:
        raise ValueError(f"no picture of {len(found.rows)} is readable: {left_out[0]}")
    return splits, left_out


def _check_share(left_out, total, broken):
    if len(left_out) > broken * total:
        some = "\n".join(left_out[:SHOWN])
        raise ValueError(
            f"{len(left_out)} of {total} pictures are unreadable, more than --broken="
            f"{broken}. Mend them, take them away, or put up with more. Some:\n{some}"
        )
