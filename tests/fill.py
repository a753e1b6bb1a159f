"""Draws a folder like ControlNet's Fill50K: python tests/fill.py FOLDER [COUNT].

Each picture is a filled circle on a ground, its hint the circle's outline, white on
black, and its prompt names both colours: "burly wood circle with orange background".
"""

import json
import pathlib
import sys

import cv2
import numpy as np
from PIL import Image, ImageColor

# Of CSS's colours those that are told apart, in Fill50K's spelling of their names.
COLOURS = (
    *("black", "blue", "blue violet", "brown", "burly wood", "cadet blue", "chocolate"),
    *("coral", "crimson", "cyan", "dark green", "dark orchid", "dark slate gray"),
    *("deep pink", "fire brick", "forest green", "gold", "gray", "hot pink", "indigo"),
    *("khaki", "lavender", "lime", "maroon", "midnight blue", "navy", "old lace"),
    *("olive", "orange", "pale golden rod", "pink", "plum", "purple", "red", "salmon"),
    *("sea green", "sky blue", "spring green", "tan", "teal", "thistle", "tomato"),
    *("turquoise", "white", "yellow"),
)


def rgb(colour):
    """The three bytes of a name in COLOURS."""
    return ImageColor.getrgb(colour.replace(" ", ""))


def example(i, size=64, seed=0):
    """(target, source, prompt) number i: two uint8 [size, size, 3] and a string."""
    rng = np.random.default_rng((seed, i))
    inner, outer = rng.choice(len(COLOURS), 2, replace=False)
    radius = int(rng.integers(size // 8, size // 3))
    centre = [int(x) for x in rng.integers(radius + 1, size - radius - 1, 2)]
    target = np.full((size, size, 3), rgb(COLOURS[outer]), np.uint8)
    cv2.circle(target, centre, radius, rgb(COLOURS[inner]), cv2.FILLED)
    source = np.zeros((size, size, 3), np.uint8)
    cv2.circle(source, centre, radius, (255, 255, 255))
    return target, source, f"{COLOURS[inner]} circle with {COLOURS[outer]} background"


def write(folder, count, size=64, seed=0):
    """Writes prompt.json, source/ and target/ into a folder; returns its path."""
    folder, lines = pathlib.Path(folder), []
    for kind in ("source", "target"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    for i in range(count):
        target, source, prompt = example(i, size, seed)
        told = {"source": f"source/{i}.png", "target": f"target/{i}.png"}
        Image.fromarray(source).save(folder / told["source"])
        Image.fromarray(target).save(folder / told["target"])
        lines.append(json.dumps(told | {"prompt": prompt}) + "\n")
    (folder / "prompt.json").write_text("".join(lines), encoding="utf-8")
    return folder


if __name__ == "__main__":
    write(sys.argv[1], int((sys.argv + ["1000"])[2]))
