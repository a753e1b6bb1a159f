"""Draws docs/curves.png and docs/first_stages.png from the metrics of runs.

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
    ("features", "features", "fd", "single objects: distance of features", True),
)
STAGES = ("kl-f4", "vq-f4", "kl-f8", "vq-f8")
RESTARTS = ("vq-f4-nogan", "vq-f4-norestart")
STAGE_PANELS = (  # runs, kind of row, field, title
    (STAGES, "validation", "psnr", "PSNR, dB (held out)"),
    (STAGES, "validation", "lpips", "LPIPS of the training (held out)"),
    (STAGES, "train", "disc_loss", "loss of the discriminator"),
    (RESTARTS, "train", "perplexity", "codebook perplexity of a batch"),
)


def series(run, kind, field):
    """(steps, values) of one field of docs/metrics/RUN.jsonl.

    Its rows are those of a run's metrics.jsonl, or what evaluate printed of its steps.
    """
    rows = metrics.read(HERE / "metrics" / f"{run}.jsonl")
    rows = [row for row in rows if row.get("kind", row.get("task")) == kind]
    rows = [row for row in rows if field in row]
    return [row["step"] for row in rows], [row[field] for row in rows]


def finish(figure, axes, name):
    for axis in axes:
        axis.grid(alpha=0.3)
        axis.set(xlabel="step")
    figure.tight_layout()
    figure.savefig(HERE / name, dpi=80)


def embedded():
    """The runs that made the embedded weights."""
    figure, axes = plt.subplots(1, len(PANELS), figsize=(19, 3.2))
    for axis, (run, kind, field, title, log) in zip(axes, PANELS, strict=True):
        axis.plot(*series(run, kind, field), marker="o" if kind != "train" else "")
        axis.set(title=title, yscale="log" if log else "linear")
    finish(figure, axes, "curves.png")


def first_stages():
    """The runs of configs/demo_first_stages.py; dashed: without the GAN term."""
    figure, axes = plt.subplots(1, len(STAGE_PANELS), figsize=(15, 3.2))
    for axis, (runs, kind, field, title) in zip(axes, STAGE_PANELS, strict=True):
        for number, run in enumerate(runs):
            axis.plot(*series(f"stages/{run}", kind, field), f"C{number}", label=run)
            if runs is STAGES and field != "disc_loss":
                without = series(f"stages/{run}-nogan", kind, field)
                axis.plot(*without, f"C{number}--")
        axis.set(title=title)
        axis.legend(fontsize=8)
    finish(figure, axes, "first_stages.png")


if __name__ == "__main__":
    embedded()
    first_stages()
