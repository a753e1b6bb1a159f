"""A folder of pictures, and what a file in it says of them, as rows.

metadata.jsonl has one JSON object a line: `file_name`, and any of `text`, `label` (a
name or a number), `boxes` (objects as in a layout: data.layout), `segmentation`, `mask`
and `hint` (files beside the pictures). prompt.json, in the folders that ControlNet is
trained on (Fill50K), has one a line too: `source` is the hint, `target` the picture and
`prompt` its text, all of them needed. Without either every picture in the folder is
taken, and where all lie in folders of their own, the folders' names are the labels.
"""

import dataclasses
import difflib
import json
import os
import pathlib
import posixpath
import zlib

METADATA, PROMPTS = "metadata.jsonl", "prompt.json"
NAMES = ("labels", "classes")  # .txt: one name a line, in the order of the numbers
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")
KINDS = {
    "file_name": (str,),
    "text": (str,),
    "label": (str, int),
    "boxes": (list,),
    "segmentation": (str,),
    "mask": (str,),
    "hint": (str,),
}
FILES = ("file_name", "segmentation", "mask", "hint")
# The keys of prompt.json, and which of KINDS they are.
PAIR = {"source": "hint", "target": "file_name", "prompt": "text"}


@dataclasses.dataclass(frozen=True)
class Row:
    """One picture; `files` are the paths of those of FILES that it has."""

    place: str  # where it is said, for messages
    name: str  # of the picture, within the folder
    files: dict
    text: str = ""
    label: str | int | None = None
    boxes: tuple = ()


def rows(folder, ignored=()):
    """The Rows of a folder.

    ignored: keys of its file that mean nothing here. Raises FileNotFoundError for a
    folder without pictures, ValueError naming the line of the file and the key.
    """
    folder = pathlib.Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is no folder")
    for name in (METADATA, PROMPTS):
        if (folder / name).is_file():
            return told(folder / name, ignored)
    found = _found(folder)
    if not found:
        raise FileNotFoundError(
            f"there is no picture in {folder}: {', '.join(SUFFIXES)} are looked for "
            f"where there is neither {METADATA} nor {PROMPTS}"
        )
    return found


def told(said, ignored=()):
    """The Rows of a metadata.jsonl or prompt.json; raises as `rows` does."""
    read = _pair if said.name == PROMPTS else _row
    found = []
    with said.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                place = f"{said}, line {number}"
                found.append(read(said.parent, place, _object(place, line), ignored))
    if not found:
        raise FileNotFoundError(f"there is no picture in {said}")
    return found


def splits_of(rows, share):
    """{split: places of its rows}: a picture's name alone decides, by its hash.

    With a share there is at least one picture in either split; a name that is the only
    one is trained on.
    """
    hashes = [zlib.crc32(os.fsencode(row.name)) for row in rows]
    bound = share * 2**32
    if share > 0:
        bound = min(max(bound, min(hashes) + 1), max(hashes))
    heldout = [i for i, code in enumerate(hashes) if code < bound]
    train = [i for i, code in enumerate(hashes) if code >= bound]
    return {"train": train, "heldout": heldout}


def names(folder, kind):
    """The names in labels.txt or classes.txt of a folder, None without the file."""
    path = pathlib.Path(folder) / f"{kind}.txt"
    if not path.is_file():
        return None
    lines = path.read_text(encoding="utf-8").splitlines()
    twice = sorted({name for name in lines if lines.count(name) > 1})
    if twice or "" in lines:
        raise ValueError(
            f"{path} needs a name in each line, and each once; "
            f"{'an empty line' if '' in lines else twice[0]!r} is not so"
        )
    return lines


def _found(folder):
    """Rows without metadata."""
    paths = [p for p in sorted(folder.rglob("*")) if p.suffix.lower() in SUFFIXES]
    paths = [p for p in paths if not p.is_dir()]
    labelled = all(p.parent.parent == folder for p in paths)
    return [
        Row(
            *(str(p), str(p.relative_to(folder)), {"file_name": p}),
            label=p.parent.name if labelled else None,
        )
        for p in paths
    ]


def _object(place, line):
    try:
        said = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{place} is no JSON: {error}") from error
    if type(said) is not dict:
        raise ValueError(f"{place} is no JSON object")
    return said


def _checked(place, said, kinds, needed, ignored):
    """What is said of a picture without the keys that are ignored, or null.

    kinds: key -> the types that its value may have. needed: keys that must be there.
    """
    said = {k: v for k, v in said.items() if k not in ignored and v is not None}
    for key, value in said.items():
        if key not in kinds:
            nearest = difflib.get_close_matches(key, kinds, n=1)
            hint = f"did you mean {nearest[0]!r}? " if nearest else ""
            raise ValueError(
                f"{place}: unknown key {key!r}; {hint}Known are {', '.join(kinds)}; "
                f"ldm_jax.pack --ignore={key} passes over it"
            )
        if type(value) not in kinds[key]:
            raise ValueError(f"{place}: {key} cannot be {value!r}")
    for key in needed:
        if key not in said:
            raise ValueError(f"{place} has no {key}")
    return said


def _row(folder, place, said, ignored):
    """The Row of a line of metadata.jsonl."""
    said = _checked(place, said, KINDS, ("file_name",), ignored)
    files = {key: _inside(folder, place, said[key]) for key in FILES if key in said}
    rest = {key: said[key] for key in ("text", "label") if key in said}
    boxes = tuple(said.get("boxes", ()))
    name = posixpath.normpath(said["file_name"])  # "./a.png" is no other picture
    return Row(place, name, files, boxes=boxes, **rest)


def _pair(folder, place, said, ignored):
    """The Row of a line of prompt.json."""
    said = _checked(place, said, dict.fromkeys(PAIR, (str,)), PAIR, ignored)
    return _row(folder, place, {PAIR[key]: x for key, x in said.items()}, ())


def _inside(folder, place, name):
    """The path of a named file, which must lie in the folder; links are followed."""
    path = pathlib.Path(os.path.normpath(folder / name))
    if "\0" in name or not path.is_relative_to(os.path.normpath(folder)):
        raise ValueError(f"{place}: {name!r} lies outside {folder}")
    return path


HIGHEST = 65_535  # of labels and classes that are numbers


def numbered(values, told, what):
    """(numbers, names) of labels or classes: strings, numbers or None (-1).

    values: pairs of where it is said and what. told: all names in order, or None; then
    they are those that occur, sorted, or as many as the largest number asks for. Raises
    ValueError for what is not among them, for a number above HIGHEST and for names
    beside numbers.
    """
    given = [value for _, value in values if value is not None]
    if told is None:
        kinds = {type(value) for value in given}
        if len(kinds) > 1:
            raise ValueError(
                f"some of the {what} are names, some numbers: write {what}.txt"
            )
        if kinds == {int}:
            told = [str(i) for i in range(min(max(given), HIGHEST) + 1)]
        else:
            told = sorted(set(given), key=_natural)
    places = {name: i for i, name in enumerate(told)}

    def number(place, value):
        if value is None:
            return -1
        found = places.get(value, -1) if isinstance(value, str) else value
        if not 0 <= found < len(told):
            raise ValueError(
                f"{place}: {value!r} is none of {len(told)} {what}: {told[:8]} ..."
            )
        return found

    return [number(*pair) for pair in values], told


def _natural(name):
    """Sorts "2" before "10"."""
    return (0, int(name), name) if name.isdecimal() else (1, 0, name)
