"""ControlNet's folders of pictures, each with a hint and a prompt, read as they are.

Such a folder, as Fill50K was published, has prompt.json, one JSON object a line:

  {"source": "source/0.png", "target": "target/0.png", "prompt": "orange circle ..."}

and these pictures: the source is the hint, the target is what is to be drawn. One in
fifty is held out, by the hash of its target's name: a target never is in both splits,
and in a folder that grows or shrinks who stays keeps its split, but where fewer than
one in fifty would be none: then it is the one of the smallest hash. Of a single target
nothing is held out, and that is told. `ldm_jax.pack` splits alike, and is for what a
run over these files would stop at: it leaves out pictures that are broken, and makes a
few large files of many small ones.
"""

import dataclasses
import hashlib
import os
import pathlib

from ldm_jax.data import decoding, folder, transforms

HELDOUT = 1 / 50
PICTURES = {"image": "file_name", "hint": "hint"}  # of an example: keys of Row.files
SAMPLES = 64  # pairs whose every byte is in `content`


@dataclasses.dataclass(frozen=True)
class Paired:
    """The examples of a split; picklable.

    image uint8 [H, W, 3], hint uint8 [H, W, 3] (transforms.fitted_hint where the file
    has another size), caption str. Raises ValueError naming the line and the picture
    for one that is broken, and for a hint of another ratio.
    """

    rows: tuple  # of folder.Row

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        row = self.rows[int(index)]
        example = {"caption": row.text}
        try:
            for key, name in PICTURES.items():
                path = row.files[name]
                example[key] = decoding.picture(path.read_bytes())
            hint = transforms.fitted_hint(example["hint"], example["image"])
        except (OSError, decoding.Unreadable) as error:
            raise ValueError(
                f"{row.place}: {path} cannot be read: {error}; ldm_jax.pack makes a "
                "folder that is without such pictures"
            ) from error
        return {**example, "hint": hint}


def opened(path, split):
    """The Paired of a split: path is the folder with prompt.json.

    Every line is read and every picture looked for, none is opened. Raises
    FileNotFoundError or ValueError naming the line and what is wrong there.
    """
    rows = _rows(path)
    places = folder.splits_of(rows, HELDOUT)[split]
    if not places:
        raise ValueError(
            f"{path} has no pictures in the split {split!r}: every line ({len(rows)}) "
            f"has the target {rows[0].name!r}, and what is trained on is not held out: "
            "two targets are needed"
        )
    return Paired(tuple(rows[i] for i in places))


def content(path):
    """What tells a folder's pictures from others: a hash.

    Of prompt.json, of the sizes of all files that it names, and of every byte of some
    pairs from all over it. A change that leaves all of these as they are is not seen.
    """
    rows = _rows(path)
    found = hashlib.sha256((pathlib.Path(path) / folder.PROMPTS).read_bytes())
    for i, row in enumerate(rows):
        for file in row.files.values():
            found.update(f"{file.stat().st_size} ".encode())
            if i % -(-len(rows) // SAMPLES) == 0:
                found.update(file.read_bytes())
    return found.hexdigest()[:16]


def _rows(path):
    """The folder.Rows of a folder, all of whose files are there."""
    said = pathlib.Path(path) / folder.PROMPTS
    if not said.is_file():
        raise FileNotFoundError(
            f"{said} does not exist: a folder for data.name 'paired' has a line in it "
            'like {"source": "source/0.png", "target": "target/0.png", "prompt": "..."}'
        )
    rows = folder.told(said)
    files = [(row, file) for row in rows for file in row.files.values()]
    there = {parent: _files(parent) for parent in {file.parent for _, file in files}}
    lost = [(row, file) for row, file in files if file.name not in there[file.parent]]
    if lost:
        row, file = lost[0]
        raise FileNotFoundError(
            f"{row.place}: {file} does not exist: {len(lost)} of {len(files)} files "
            "are missing"
        )
    return rows


def _files(parent):
    """The names of a folder's files; to ask for each alone takes long from afar."""
    if not parent.is_dir():
        return set()
    with os.scandir(parent) as entries:
        return {entry.name for entry in entries if entry.is_file()}
