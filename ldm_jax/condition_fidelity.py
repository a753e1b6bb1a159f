"""Do pictures show the label, layout or map they were told? Judged by a trained net.

The judge (ldm_jax/judging.py) was trained on real pictures of the same kind, and says
for each place of a picture which thing and which segment it sees there.

  of a label   accuracy: share of pictures in which the told thing covers more places
               than any other
  of a layout  boxes_right: share of boxes in which the told class covers more places
               than any other class
  of a map     miou: intersection over union of the told and the seen segment, summed
               over all pictures, and then its mean over the segments that are told

Beside them the same for the real pictures that these conditions are of (real), for
these after the first stage (ceiling), for the drawn ones judged by their neighbour's
condition (shuffled: chance), and what lies half way between chance and ceiling.
"""

from collections.abc import Callable
import dataclasses

import numpy as np
from PIL import Image, ImageDraw

from ldm_jax import (
    fidelity,
    generation,
    inputs,
    inspection,
    judging,
    reconstruction,
    scene_fidelity,
)
from ldm_jax.data import datasets, labels


@dataclasses.dataclass(frozen=True)
class Measure:
    """`figures`: (examples, what is seen [n, h, w]) -> dict, the first one the main."""

    head: str  # of the judge
    figures: Callable


def label(examples, things):
    """accuracy; examples have `label`."""
    counts = scene_fidelity.covered(things)
    told = np.array([example["label"] for example in examples])
    own = np.take_along_axis(counts, told[:, None], axis=1)
    named = (own > 0)[:, 0] & (np.sum(counts >= own, axis=1) == 1)
    return {"accuracy": float(np.mean(named))}


def layout(examples, segments):
    """boxes_right, and of each class how many are right and how many there are."""
    height, width = segments.shape[1:]
    sides = np.array([width, height, width, height])
    counts = {name: np.zeros(2, int) for name in labels.CLASSES}
    for example, seen in zip(examples, segments, strict=True):
        told = example["classes"] >= 0
        boxes, kinds = example["boxes"][told] * sides, example["classes"][told]
        for (left, top, right, bottom), kind in zip(boxes, kinds, strict=True):
            rows = slice(int(top), int(np.ceil(bottom)))
            inside = seen[rows, int(left) : int(np.ceil(right))].ravel()
            first = labels.segment_of(0)
            there = np.bincount(inside, minlength=len(labels.SEGMENTS))[first:]
            first_one = there[kind] > 0 and np.sum(there >= there[kind]) == 1
            counts[labels.CLASSES[kind]] += first_one, 1
    right, boxes = np.sum(list(counts.values()), axis=0)
    if not boxes:
        raise ValueError("none of the pictures has a box: there is nothing to judge")
    counts = {name: count.tolist() for name, count in counts.items()}
    return {"boxes_right": float(right / boxes), "by_class": counts}


def semantic(examples, segments):
    """miou, the iou of each segment, and the share of pixels that are right."""
    told = np.stack([example["segmentation"] for example in examples])
    factor = told.shape[1] // segments.shape[1]
    seen = segments.repeat(factor, axis=1).repeat(factor, axis=2)
    ious = {}
    for number, name in enumerate(labels.SEGMENTS):
        ours, theirs = told == number, seen == number
        if ours.any():
            ious[name] = float(np.sum(ours & theirs) / np.sum(ours | theirs))
    right = float(np.mean(told == seen))
    return {"miou": float(np.mean([*ious.values()])), "iou": ious, "pixels": right}


MEASURES = {
    "label": Measure("things", label),
    "layout": Measure("segments", layout),
    "segmentation": Measure("segments", semantic),
}


def compare(figures, examples, seen):
    """The figures of drawn pictures beside real ones and chance.

    seen: {"drawn", "real", "ceiling": int [n, h, w]}.
    """
    told = {name: figures(examples, one) for name, one in seen.items()}
    told["shuffled"] = figures([*examples[-1:], *examples[:-1]], seen["drawn"])
    main = next(iter(told["drawn"]))
    half_way = (told["shuffled"][main] + told["ceiling"][main]) / 2
    return told.pop("drawn") | told | {"half_way": {main: half_way}}


def evaluate(model, judge, count, seed, batch_size, progress):
    """(figures, sheet rows): generation.Model, twice -> dict, [n, 2 or 3, S, S, 3].

    The rows hold the layout or map, the picture drawn of it and the real one. Raises
    ValueError for a data set that the judge does not know. progress(total) makes a bar.
    """
    config = model.config
    if config.data.name not in datasets.DRAWN:
        raise ValueError(
            f"data.name is {config.data.name!r}, and the judge knows the objects of "
            f"{', '.join(datasets.DRAWN)}"
        )
    measure = MEASURES[config.cond_stage.kind]
    with progress(5 * count) as bar:
        examples = inputs.held_out(config, count, seed)
        truth = np.stack([example["image"] for example in examples])
        # First the real ones: they say whether the judge takes pictures of this size.
        seen = {"real": judging.see(judge, truth, bar, batch_size, measure.head)}
        drawn = fidelity.draw_told(model, examples, seed, batch_size, bar)
        keys = generation.keys(seed, np.arange(count))
        ceiling = reconstruction.through(model, truth, keys, batch_size, bar)
        for name, images in {"drawn": drawn, "ceiling": ceiling}.items():
            seen[name] = judging.see(judge, images, bar, batch_size, measure.head)
    figures = {"n": count, "dataset": config.data.name}
    figures |= compare(measure.figures, examples, seen)
    shown = [drawn, truth]
    if config.cond_stage.kind in PANELS:
        panel = PANELS[config.cond_stage.kind]
        shown.insert(0, np.stack([panel(example) for example in examples]))
    return figures, np.stack(shown, axis=1)


def boxes_panel(example):
    """The boxes in the colours of their classes on black: uint8 [S, S, 3]."""
    size = len(example["image"])
    canvas = Image.new("RGB", (size, size))
    pen = ImageDraw.Draw(canvas)
    for kind, box in zip(example["classes"], example["boxes"], strict=True):
        if kind >= 0:
            left, top, right, bottom = box * size
            colour = tuple(inspection.PALETTE[labels.segment_of(kind)].tolist())
            pen.rectangle((left, top, right - 1, bottom - 1), outline=colour)
    return np.asarray(canvas)


# What a sheet shows of a condition beside the pictures.
PANELS = {
    "layout": boxes_panel,
    "segmentation": lambda example: inspection.PALETTE[example["segmentation"]],
}
