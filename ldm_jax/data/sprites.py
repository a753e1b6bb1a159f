"""The embedded picture set: 1,015 emoji with transparency, names and tags."""

import dataclasses
import functools
import json
import pathlib

import numpy as np
from PIL import Image

FOLDER = pathlib.Path(__file__).parent.parent / "demo"

SCENE_CLASSES = ("animal", "plant", "fruit", "building", "vehicle", "aircraft")

CLASS_OF = {
    "animal-mammal": "animal",
    "animal-bird": "animal",
    "animal-amphibian": "animal",
    "animal-reptile": "animal",
    "animal-marine": "animal",
    "animal-bug": "animal",
    "plant-flower": "plant",
    "plant-other": "plant",
    "food-fruit": "fruit",
    "food-vegetable": "fruit",
    "place-building": "building",
    "place-religious": "building",
    "transport-ground": "vehicle",
    "transport-water": "vehicle",
    "transport-air": "aircraft",
}

# Members of those subcategories that are parts, signs, symbols or raw material.
NOT_IN_SCENES = frozenset(
    """pig nose|paw prints|feather|wing|spiral shell|coral|oyster|spider web|microbe
|empty nest|nest with eggs|brick|rock|wood|kaaba
|station|bus stop|motorway|railway track|oil drum|fuel pump|wheel|police car light
|horizontal traffic light|vertical traffic light|stop sign|construction
|anchor|ring buoy|airplane departure|airplane arrival|seat""".replace("\n", "").split(
        "|"
    )
)


@dataclasses.dataclass(frozen=True, eq=False)
class Sprites:
    """The sheet and its index. Rows of the tuples are cells of the sheet."""

    sheet: np.ndarray  # uint8 [rows * cell, columns * cell, 4]
    cell: int
    names: tuple
    groups: tuple
    subcategories: tuple
    tags: tuple  # one tuple of words each
    scene_indices: tuple  # cells of the scene sprites, in sheet order
    scene_class: tuple  # for each of them its place in SCENE_CLASSES

    def rgba(self, i):
        """Picture i, uint8 [cell, cell, 4], colours not premultiplied."""
        columns = self.sheet.shape[1] // self.cell
        y, x = i // columns * self.cell, i % columns * self.cell
        return self.sheet[y : y + self.cell, x : x + self.cell]


@functools.cache
def load():
    """The embedded sprites, read once per process."""
    about = json.loads((FOLDER / "sprites.json").read_text())
    rows = about["sprites"]
    with Image.open(FOLDER / "sprites.webp") as image:
        sheet = np.asarray(image.convert("RGBA"))
    sheet.setflags(write=False)
    scene = [i for i, row in enumerate(rows) if _in_scenes(row)]
    classes = [CLASS_OF[rows[i]["subcategory"]] for i in scene]
    return Sprites(
        sheet=sheet,
        cell=about["cell"],
        names=tuple(row["name"] for row in rows),
        groups=tuple(row["group"] for row in rows),
        subcategories=tuple(row["subcategory"] for row in rows),
        tags=tuple(tuple(row["tags"]) for row in rows),
        scene_indices=tuple(scene),
        scene_class=tuple(SCENE_CLASSES.index(name) for name in classes),
    )


def _in_scenes(row):
    return row["subcategory"] in CLASS_OF and row["name"] not in NOT_IN_SCENES


@functools.cache
def _premultiplied(i, tight):
    """Cell i as a PIL image with premultiplied colours, maybe cut to its alpha."""
    image = Image.fromarray(load().rgba(i))
    if tight:
        image = image.crop(image.getchannel("A").point(lambda a: a > 15).getbbox())
    return image.convert("RGBa")


def aspect(i):
    """Width over height of what is visible in sprite i."""
    width, height = _premultiplied(i, True).size
    return width / height


def draw(i, width, height, flip=False, tight=False):
    """Sprite i resized with antialias: uint8 [height, width, 4], premultiplied."""
    image = _premultiplied(i, tight)
    image = image.resize((width, height), Image.Resampling.BICUBIC)
    pixels = np.asarray(image)
    return pixels[:, ::-1] if flip else pixels
