"""Draws docs/control.png: the ablations of ControlNet, on edges.

python -m docs.control measure RUNS     (RUNS/canny, RUNS/gaussian and RUNS/lite, as the
python -m docs.control draw              commands in docs/control.md train them)

"measure" draws the same held-out edges by every checkpoint of the three runs and by
each kind of prompt and guidance, and adds a line to docs/metrics/control.jsonl for
each; what is there is not measured again. "draw" needs matplotlib
(requirements-test.txt).
"""

import dataclasses
import json
import pathlib
import sys

import matplotlib
import matplotlib.pyplot as plt
import numpy as np

from configs import demo_control
from ldm_jax import config as config_lib
from ldm_jax import control_fidelity, fidelity, generation, inputs, runs

matplotlib.use("Agg")
HERE = pathlib.Path(__file__).parent
FIGURES = HERE / "metrics" / "control.jsonl"
LOSSES = HERE / "metrics" / "control_loss.jsonl"  # on held-out pictures, of the runs
RUNS = {
    "canny": ("zero connections", {}),
    "gaussian": ("Gaussian connections", {"connections": "gaussian"}),
    "lite": ("ControlNet-lite", {"lite": True}),
}
COUNT, STEPS, BATCH = 48, 20, 16
GUIDANCE = {  # its name, scale and weighting
    "no CFG": (1.0, "even"),
    "CFG": (3.0, "even"),
    "guess mode": (3.0, "guess"),
    "CFG-RW": (3.0, "resolution"),
}


class Silent:
    """A progress bar that is none."""

    def update(self, count):
        pass


def configured(name):
    c = demo_control.get_config()
    c.control.update(RUNS[name][1])
    c.sample.steps = STEPS
    return config_lib.check(c)


def checkpoints(folder):
    steps = [int(path.name) for path in (folder / "checkpoints").iterdir()]
    return sorted(steps)


def scored(model, examples, **changes):
    """The figures of a model's pictures, with other knobs of sampling."""
    config = model.config.copy_and_resolve_references()
    config.sample.update(changes)
    model = dataclasses.replace(model, config=config_lib.check(config))
    drawn = fidelity.draw_told(model, examples, 0, BATCH, Silent())
    return control_fidelity.MEASURES["canny"].figures(examples, drawn)


def wanted(folder):
    """[(what a line says of itself)] of all that is measured."""
    rows = []
    for name in RUNS:
        steps = checkpoints(folder / name)
        rows += [(name, step, "full", "CFG") for step in steps]
        last = steps[-1]
        rows += [(name, last, said, "CFG") for said in control_fidelity.PROMPTS[1:]]
    last = checkpoints(folder / "canny")[-1]
    for said in control_fidelity.PROMPTS:
        rows += [("canny", last, said, guide) for guide in GUIDANCE]
    return list(dict.fromkeys(rows))


def write_losses(folder):
    with LOSSES.open("w") as file:
        for name in RUNS:
            for line in (folder / name / "metrics.jsonl").read_text().splitlines():
                row = json.loads(line)
                told = {"run": name, "step": row["step"], "kind": row["kind"]}
                if row["kind"] == "validation":
                    file.write(json.dumps(told | {"loss": row["loss_simple"]}) + "\n")
                if row["kind"] == "train" and row["step"] == 20:
                    file.write(json.dumps(told | {"loss": row["loss"]}) + "\n")


def measure(folder):
    write_losses(folder)
    done = [json.loads(line) for line in FIGURES.read_text().splitlines()]
    done = {(x["run"], x["step"], x["prompts"], x["guidance"]) for x in done}
    models, loaded = {}, None
    for row in wanted(folder):
        if row in done:
            continue
        name, step, said, guide = row
        if loaded != (name, step):
            config = configured(name)
            models.setdefault(name, generation.from_run(config, folder / name, step))
            params, _ = runs.latest_params(config, folder / name, step)
            params = models[name].params | params
            models[name] = dataclasses.replace(models[name], params=params)
            loaded = name, step
        model = models[name]
        examples = inputs.held_out(model.config, COUNT, 0)
        examples = control_fidelity.prompted(model.config, examples, said)
        scale, weighting = GUIDANCE[guide]
        found = scored(model, examples, scale=scale, hint_weighting=weighting)
        told = dict(zip(("run", "step", "prompts", "guidance"), row, strict=True))
        with FIGURES.open("a") as file:
            file.write(json.dumps(told | found) + "\n")
        print(told, found, flush=True)


def draw():
    rows = [json.loads(line) for line in FIGURES.read_text().splitlines()]
    figure, axes = plt.subplots(1, 4, figsize=(16, 3.6), layout="constrained")
    for name, (label, _) in RUNS.items():
        mine = [
            r
            for r in rows
            if (r["run"], r["prompts"], r["guidance"]) == (name, "full", "CFG")
        ]
        mine.sort(key=lambda row: row["step"])
        axes[0].plot(
            [r["step"] for r in mine], [r["f1"] for r in mine], "o-", ms=3, label=label
        )
    axes[0].set(xlabel="steps of 32 pictures", title="how connections start")
    losses = [json.loads(line) for line in LOSSES.read_text().splitlines()]
    for name, (label, _) in RUNS.items():
        mine = [
            row for row in losses if (row["run"], row["kind"]) == (name, "validation")
        ]
        mine = [(row["step"], row["loss"]) for row in mine]
        axes[1].plot(*zip(*mine, strict=True), "o-", ms=3, label=label)
    axes[1].set(xlabel="steps of 32 pictures", title="held-out loss, with hints")
    last = {name: max(r["step"] for r in rows if r["run"] == name) for name in RUNS}

    def bars(axis, groups, pick, names):
        width = 0.8 / len(names)
        for i, name in enumerate(names):
            place = np.arange(len(groups)) + (i - (len(names) - 1) / 2) * width
            axis.bar(place, [pick(group, name) for group in groups], width, label=name)
        axis.set_xticks(np.arange(len(groups)), groups)

    def value(run, prompts, guidance):
        (row,) = [
            r
            for r in rows
            if (r["run"], r["step"], r["prompts"], r["guidance"])
            == (run, last[run], prompts, guidance)
        ]
        return row["f1"]

    said = control_fidelity.PROMPTS
    by_label = {label: name for name, (label, _) in RUNS.items()}
    bars(axes[2], said, lambda p, label: value(by_label[label], p, "CFG"), by_label)
    axes[2].set(title="prompts")
    bars(axes[3], said, lambda p, guide: value("canny", p, guide), GUIDANCE)
    axes[3].set(title="guidance, zero connections")
    for axis in axes[[0, 2, 3]]:
        axis.set_ylabel("F1 of edges")
        axis.set_ylim(0.3, 1.1)
    for axis in axes:
        axis.legend(fontsize=7)
    figure.savefig(HERE / "control.png", dpi=110)


if __name__ == "__main__":
    if sys.argv[1] == "measure":
        measure(pathlib.Path(sys.argv[2]))
    else:
        draw()
