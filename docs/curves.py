"""Draws docs/curves.png from the metrics of the runs that made the embedded weights.

python -m docs.curves        (needs matplotlib: requirements-test.txt)
"""

import pathlib

import matplotlib
import matplotlib.pyplot as plt

from ldm_jax import metrics

matplotlib.use("Agg")
HERE = pathlib.Path(__file__).parent
PANELS = (  # run, kind of row, field, title, whether to draw on a log scale
    ("first_stage", "train", "l1", "first stage: L1 (training)", True),
    ("first_stage", "validation", "psnr", "first stage: PSNR, dB (held out)", False),
    ("text", "train", "loss", "text to image: loss (training)", True),
    ("text", "validation", "loss_simple", "text to image: loss (held out)", False),
)


def series(run, kind, field):
    """(steps, values) of one field of docs/metrics/RUN.jsonl."""
    rows = metrics.read(HERE / "metrics" / f"{run}.jsonl")
    rows = [row for row in rows if row["kind"] == kind]
    return [row["step"] for row in rows], [row[field] for row in rows]


def main():
    figure, axes = plt.subplots(1, len(PANELS), figsize=(15, 3.2))
    for axis, (run, kind, field, title, log) in zip(axes, PANELS, strict=True):
        axis.plot(*series(run, kind, field), marker="o" if kind != "train" else "")
        axis.set(title=title, xlabel="step", yscale="log" if log else "linear")
        axis.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(HERE / "curves.png", dpi=80)


if __name__ == "__main__":
    main()
