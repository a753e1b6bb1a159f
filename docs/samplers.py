"""Every sampler against its number of steps, on the embedded weights.

python -m docs.samplers measure FOLDER      (hours on a laptop; goes on where it ended)
python -m docs.samplers draw                (needs matplotlib: requirements-test.txt)

The first writes docs/metrics/samplers.jsonl, the second docs/samplers.png from it. Of
each sampler: the share of 133 names whose picture is nearest to the own sprite, and the
Frechet distance of 400 single objects, as `evaluate --task=text` and `--task=features`
have them. FOLDER keeps what was drawn, as features.
"""

import json
import pathlib
import sys

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import tqdm

from ldm_jax import (
    evaluation,
    feature_distance,
    fidelity,
    generation,
    metrics,
    reconstruction,
)
from ldm_jax.data import datasets

HERE = pathlib.Path(__file__).parent
ROWS = HERE / "metrics" / "samplers.jsonl"
# (sampler, grid): euler is left out, as it is ddim.
KINDS = (
    *(("ddim", "trailing"), ("ddpm", "trailing"), ("euler_ancestral", "trailing")),
    *(("plms", "trailing"), ("heun", "trailing"), ("unipc", "trailing")),
    *(("dpmpp_2m", "trailing"), ("dpmpp_2m", "karras"), ("dpmpp_2m_sde", "trailing")),
)
STEPS = (5, 10, 20, 50)
COUNT, NAMES, SEED, BATCH_SIZE = 400, 133, 0, 32


def calls(sampler, steps):
    """How often the network is asked for a picture."""
    return {"heun": 2 * steps - 1, "plms": steps + 1}.get(sampler, steps)


def seen(model, texts, asked, critic):
    """Features of the pictures of texts and of those asked for, and colours right."""
    with tqdm.tqdm(unit="picture") as bar:
        images = fidelity.draw(model, texts, SEED, BATCH_SIZE, bar)
        features = feature_distance.features(model, critic, images, BATCH_SIZE, bar)
        images = fidelity.draw(model, asked.captions(), SEED, BATCH_SIZE, bar)
        right = fidelity.colours_right(images, asked)
        return {
            "features": features,
            "described": fidelity.features(images, bar),
            "right": right,
        }


def measure(folder):
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    model = generation.load()
    size = model.config.data.image_size
    critic = reconstruction.judge("vgg16", model.mesh)
    source = datasets.DRAWN["emoji_singles"]("train", model.config.seed, size)
    texts, _ = feature_distance.examples(source, 0, COUNT)
    _, reference = feature_distance.examples(source, COUNT, COUNT)
    asked = fidelity.prompts(NAMES, 1)
    for steps in STEPS:
        for sampler, grid in KINDS:
            path = folder / f"{sampler}-{grid}-{steps}.npz"
            if not path.exists():
                print(path.stem, flush=True)
                told = {"sampler": sampler, "grid": grid, "steps": steps}
                model = generation.load(overrides=told)
                np.savez(path, **seen(model, texts, asked, critic))
    with tqdm.tqdm(unit="picture") as bar:
        wanted = feature_distance.features(model, critic, reference, BATCH_SIZE, bar)
        found = {path.stem: dict(np.load(path)) for path in folder.glob("*.npz")}
        sets = {name: (arrays["described"], asked) for name, arrays in found.items()}
        ranks = fidelity.ranks(sets, size, bar)
    lines = []
    for steps in STEPS:
        for sampler, grid in KINDS:
            name = f"{sampler}-{grid}-{steps}"
            lines.append(
                {"sampler": sampler, "grid": grid, "steps": steps}
                | {"calls": calls(sampler, steps), "scale": model.config.sample.scale}
                | fidelity.shares(ranks[name], found[name]["right"])
                | {"fd": evaluation.frechet(wanted, found[name]["features"])}
                | {"fd_n": COUNT, "weights": model.weights}
            )
    ROWS.write_text("".join(json.dumps(line) + "\n" for line in lines))


def draw():
    matplotlib.use("Agg")
    figure, axes = plt.subplots(1, 2, figsize=(12, 4))
    rows = metrics.read(ROWS)
    panels = (("fd", "distance of features"), ("own_nearest", "own sprite nearest"))
    for number, (sampler, grid) in enumerate(KINDS):
        own = [r for r in rows if (r["sampler"], r["grid"]) == (sampler, grid)]
        label = sampler if grid == "trailing" else f"{sampler}, {grid}"
        for axis, (field, _) in zip(axes, panels, strict=True):
            points = [r["calls"] for r in own], [r[field] for r in own]
            axis.plot(*points, f"C{number}", marker="o", label=label)
    for axis, (_, title) in zip(axes, panels, strict=True):
        axis.set(title=title, xlabel="calls of the network", xscale="log")
        axis.set_xticks([5, 10, 20, 50, 99], ["5", "10", "20", "50", "99"])
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    axes[0].set_yscale("log")
    axes[1].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(HERE / "samplers.png", dpi=80)


if __name__ == "__main__":
    {"measure": measure, "draw": draw}[sys.argv[1]](*sys.argv[2:])
