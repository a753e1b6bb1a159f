"""Draws the first rows of what `evaluate` drew of each demo task, or of each hint.

python -m docs.tasks FOLDER                 docs/tasks.png
python -m docs.tasks FOLDER control         docs/control_sheet.png

FOLDER has a folder for each of SHEETS, the --out of `python -m ldm_jax.evaluate`, as
the commands in docs/small_models.md and docs/control.md make them. Nothing is picked.
"""

import pathlib
import sys

import numpy as np
from PIL import Image, ImageDraw

HERE = pathlib.Path(__file__).parent
CELL, ROWS, TITLE = 66, 3, 16  # pixels of a cell and of a line; rows of a sheet
TASKS = {  # folder -> its sheet, and what is in a group of its columns
    "class_to_image": ("condition", "drawn, real"),
    "layout_to_image": ("condition", "boxes, drawn, real"),
    "semantic_to_image": ("condition", "map, drawn, real"),
    "super_resolution": ("restoration", "16x16, bicubic, drawn, real"),
    "inpainting": ("restoration", "hole, mean, Telea, drawn, real"),
}

HINTS = ("canny", "scribble", "segments", "depth", "pose")
CONTROL = {name: ("control", "hint, drawn, without it, real") for name in HINTS}
CONTROL["two"] = ("control", "edges, depth, drawn, without them, real")
SHEETS = {"tasks": ("tasks", TASKS), "control": ("control_sheet", CONTROL)}


def strip(folder, name, sheet, told):
    """The first rows of a sheet below a line that says what they are: uint8."""
    with Image.open(folder / name / f"{sheet}.png") as image:
        rows = image.convert("RGB").crop((0, 0, image.width, ROWS * CELL + 2))
    canvas = Image.new("RGB", (rows.width, rows.height + TITLE), "white")
    canvas.paste(rows, (0, TITLE))
    words = f"{name.replace('_', ' ')}: {told}, three times in a row"
    ImageDraw.Draw(canvas).text((3, 2), words, "black")
    return np.asarray(canvas)


def main():
    folder, which = pathlib.Path(sys.argv[1]), (*sys.argv[2:], "tasks")[0]
    file, sheets = SHEETS[which]
    strips = [strip(folder, name, *said) for name, said in sheets.items()]
    width = max(strip.shape[1] for strip in strips)
    padding = [((0, 0), (0, width - strip.shape[1]), (0, 0)) for strip in strips]
    wide = [
        np.pad(s, p, constant_values=255) for s, p in zip(strips, padding, strict=True)
    ]
    sheet = Image.fromarray(np.concatenate(wide))
    sheet.save(HERE / f"{file}.png", optimize=True)


if __name__ == "__main__":
    main()
