"""Do pictures obey the hint they were told? Judged by the hint that they would give.

  canny, hough   f1: of the lines found in the picture against those told, a pixel off
                 at most; chamfer: their mean distance in pixels
  scribble       the same of Canny's edges against the strokes, two pixels off at most
  segments       miou, as in ldm_jax/condition_fidelity.py, of the judge's segments
  depth, normal  correlation, within each picture, of the told depth with what the
                 reader (a judge that was taught depth and joints) reads off it, both
                 less the mean of all told depths
  pose           joints_right: share of the visible joints that the reader sees at most
                 1.5 of its places (6 pixels of 64) from where they were told

Beside those of the drawn pictures (first) stand the same for what the same prompts and
noise make without a hint (without), for the drawn ones judged by their neighbour's hint
(shuffled: chance), for the real pictures that the hints are of (real) and for these
after the first stage (ceiling). drift is the mean of the drawn pictures' red, green and
blue less that of the ceiling's, of 255.
"""

from collections.abc import Callable
import dataclasses

import numpy as np

from ldm_jax import (
    condition_fidelity,
    control,
    fidelity,
    generation,
    inputs,
    judging,
    reconstruction,
    tokenizers,
)
from ldm_jax.data import datasets, hints, obeyed

SCENES, PEOPLE = "emoji_scenes", "emoji_people"  # what is judged
REACH = 1.5 / 16  # of a joint, of the picture's side


class Nothing(ValueError):
    """The pictures hold nothing that could be right or wrong."""


@dataclasses.dataclass(frozen=True)
class Measure:
    """`figures`: (examples, what is seen [n, ...]) -> dict, the main one first."""

    sees: str  # "picture", or a head of a judge
    needs: tuple  # keys of the examples that `figures` reads
    figures: Callable


def lines(name, found, reach):
    """The Measure of a hint of lines: `found` in a picture, against those told."""
    key = control.key(name)

    def figures(examples, seen):
        pairs = [(found(x), e[key]) for x, e in zip(seen, examples, strict=True)]
        f1 = [obeyed.edge_f1(a, b, reach) for a, b in pairs]
        far = [obeyed.chamfer(a, b) for a, b in pairs]
        return {"f1": float(np.mean(f1)), "chamfer": float(np.mean(far))}

    return Measure("picture", (key,), figures)


def depth(examples, seen):
    """Pearson's of what is not so in most pictures, the mean over the pictures.

    Nearly all scenes are near below and far above: their mean alone correlates by 0.9
    with any of them, and is taken off both.
    """
    told = np.stack([example["depth"] for example in examples])
    usual = told.mean(0)
    told, seen = ((x - usual).reshape(len(x), -1).astype(float) for x in (told, seen))
    told, seen = (x - x.mean(1, keepdims=True) for x in (told, seen))
    norms = np.linalg.norm(told, axis=1) * np.linalg.norm(seen, axis=1)
    there = norms > 0
    if not there.any():
        raise Nothing("no picture has a depth of its own: there is nothing to judge")
    return {"correlation": float(np.mean(np.sum(told * seen, 1)[there] / norms[there]))}


def pose(examples, seen):
    told = np.stack([example["joints"] for example in examples])
    visible = told[..., 2] > 0
    if not visible.any():
        raise Nothing("none of the pictures has a joint: there is nothing to judge")
    near = np.linalg.norm(told[..., :2] - seen, axis=-1) <= REACH
    return {"joints_right": float(np.mean(near[visible])), "joints": int(visible.sum())}


MEASURES = {
    "canny": lines("canny", hints.canny, 1),
    "hough": lines("hough", hints.hough, 1),
    "scribble": lines("scribble", hints.canny, 2),
    "segments": Measure("segments", ("segmentation",), condition_fidelity.semantic),
    "depth": Measure("depth", ("depth",), depth),
    "normal": Measure("depth", ("depth",), depth),
    "pose": Measure("joints", ("joints",), pose),
}

COLOURS = ("red", "green", "blue")
PROMPTS = ("full", "empty", "conflicting")


def judges(names):
    """{head of a judge: the judge} that the measures of these hints ask."""
    heads = {MEASURES[name].sees for name in names} - {"picture"}
    files = {"segments": judging.EMBEDDED, "depth": judging.READER}
    files["joints"] = judging.READER
    return {head: judging.load(files[head], (head,)) for head in heads}


def see(judge, images, sees, bar=None, batch_size=32):
    """What the measure of a hint reads: uint8 [n, S, S, 3] -> [n, ...]."""
    if sees == "picture":
        return images
    return judging.read(judge, images, bar, batch_size, (sees,))[sees]


def prompted(config, examples, prompts):
    """The examples with their own captions, none, or their neighbours'."""
    if prompts == "full":
        return examples
    if config.cond_stage.kind not in tokenizers.SPOKEN:
        raise ValueError(
            f"--prompts={prompts} is of models that take prompts, and cond_stage.kind "
            f"is {config.cond_stage.kind!r}"
        )
    if prompts == "empty":
        nothing = tokenizers.load(config.cond_stage)([""])[0]
        return [example | {"tokens": nothing} for example in examples]
    others = [*examples[1:], *examples[:1]]
    pairs = zip(examples, others, strict=True)
    return [example | {"tokens": other["tokens"]} for example, other in pairs]


def measured(name, examples, seen):
    """The figures of one hint; seen: {"drawn", "without", "real", "ceiling"}."""
    figures = MEASURES[name].figures
    told = {key: figures(examples, one) for key, one in seen.items()}
    shuffled = figures([*examples[-1:], *examples[:-1]], seen["drawn"])
    return told.pop("drawn") | {"shuffled": shuffled} | told


def drift(drawn, real):
    """Mean of each channel of the drawn pictures less that of the real ones: list."""
    means = (np.mean(x, axis=(0, 1, 2), dtype=float) for x in (drawn, real))
    return np.subtract(*means).tolist()


def evaluate(model, count, seed, batch_size, prompts, progress):
    """(figures, sheet rows): generation.Model -> dict, uint8 [n, 3 + hints, S, S, 3].

    prompts: one of PROMPTS. The rows hold the hints, what is drawn of them, the same
    without a hint, and the real picture. Raises ValueError for a data set that the
    judges do not know. progress(total) makes a bar.
    """
    config = model.config
    told = config.control.hints
    if config.data.name not in datasets.DRAWN:
        raise ValueError(
            f"data.name is {config.data.name!r}, and the judges know the scenes of "
            f"{', '.join(datasets.DRAWN)}"
        )
    scenes = config.copy_and_resolve_references()
    scenes.data.name = PEOPLE if "pose" in told else SCENES
    asked = judges(told)
    looks = {MEASURES[name].sees for name in told} & asked.keys()
    with progress((3 + 4 * len(looks)) * count) as bar:
        examples = inputs.held_out(scenes, count, seed)
        examples = prompted(config, examples, prompts)
        images = {"real": np.stack([example["image"] for example in examples])}
        images["drawn"] = fidelity.draw_told(model, examples, seed, batch_size, bar)
        images["without"] = fidelity.draw_told(
            model, examples, seed, batch_size, bar, leave=map(control.key, told)
        )
        keys = generation.keys(seed, np.arange(count))
        images["ceiling"] = reconstruction.through(
            model, images["real"], keys, batch_size, bar
        )
        seen = {
            sees: {
                name: see(asked.get(sees), x, sees, bar, batch_size)
                for name, x in images.items()
            }
            for sees in looks | {MEASURES[name].sees for name in told}
        }
    figures = {"n": count, "dataset": scenes.data.name, "prompts": prompts}
    for name in told:
        figures[name] = measured(name, examples, seen[MEASURES[name].sees])
    figures["drift"] = drift(images["drawn"], images["ceiling"])
    figures["drift_without"] = drift(images["without"], images["ceiling"])
    shown = [np.stack([e[control.key(name)] for e in examples]) for name in told]
    shown += [images["drawn"], images["without"], images["real"]]
    return figures, np.stack(shown, axis=1)


class Watch:
    """The same of the few pictures that a run draws on the way; its judges stay.

    `needs` are the keys of a batch that it reads. What no measure knows (a hint that
    is given, pictures that are read or of another size) is left out.
    """

    def __init__(self, config):
        drawn, size = config.data.name in datasets.DRAWN, config.data.image_size
        names = [
            name
            for name in config.control.hints
            if name in MEASURES and (drawn or MEASURES[name].sees == "picture")
        ]
        self._judges = {
            head: judge
            for head, judge in judges(names).items()
            if judge.config.data.image_size == size
        }
        seen = {"picture", *self._judges}
        self._names = [name for name in names if MEASURES[name].sees in seen]
        self.needs = sum((MEASURES[name].needs for name in self._names), ())

    def numbers(self, drawn, batch):
        """{"adherence_NAME": the main figure, "drift_red", ...} of uint8 pictures."""
        keys = {"image", *self.needs}
        rows = [{key: batch[key][i] for key in keys} for i in range(len(drawn))]
        moved = drift(drawn, batch["image"][: len(drawn)])
        found = {f"drift_{i}": x for i, x in zip(COLOURS, moved, strict=True)}
        for name in self._names:
            measure = MEASURES[name]
            seen = see(self._judges.get(measure.sees), drawn, measure.sees)
            try:
                figures = measure.figures(rows, seen)
            except Nothing:
                continue
            found[f"adherence_{name}"] = next(iter(figures.values()))
        return found
