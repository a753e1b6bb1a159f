"""Numbers of a model: one JSON line on stdout, progress on stderr.

  python -m ldm_jax.evaluate --task=text
  python -m ldm_jax.evaluate --task=scenes
  python -m ldm_jax.evaluate --task=features
  python -m ldm_jax.evaluate --task=reconstruction

judge the weights that ship with the project; those of a run of yours with --config
and --workdir, its newest or those of a --step. The judging networks come from
`python -m ldm_jax.fetch lpips`; that of scenes ships with the project.

text: two pictures of each of 200 sprites by name, on the palette's colours in turn;
the figures are those of ldm_jax/fidelity.py. Beside them the same figures for real
pictures after the first stage (ceiling), for the generated ones judged by another's
prompt (shuffled: chance), and for the prompts whose pair of object and colour no
training picture shows (held_out).

scenes: one picture for each caption of --n held-out scenes; ldm_jax/scene_fidelity.py
says what the figures are: which of the things are there, and lie as they should.
Beside them the same for the scenes themselves (real), for these after the first stage
(ceiling), for the generated ones judged by another's prompt (shuffled: chance), and
what lies half way between chance and ceiling.

condition: one picture for each label, layout or map of --n held-out pictures of the
config's own data set; ldm_jax/condition_fidelity.py says what the figures are. Beside
them real, ceiling, shuffled and half way, as of scenes.

control: one picture for each hint of --n held-out pictures and its caption, none or
another's (--prompts); see ldm_jax/control_fidelity.py.

restoration: --n held-out pictures, enlarged or in-painted as the config says, beside
what simpler ways make of them; see ldm_jax/restoration.py. LPIPS by the net that the
first stage was not trained on.

features: the Frechet distance of VGG16's features between samples for the captions of
--n pictures and --n other pictures (fd), beside that of the first ones (floor) and of
these after the first stage (ceiling); see ldm_jax/feature_distance.py.

reconstruction: held-out pictures through the first stage, by a drawn latent, beside
shrinking by its factor and enlarging (down_up; not with --norival). PSNR (dB), SSIM,
LPIPS by the net that the first stage was not trained on (lpips_net; VGG16 where its
file does not say one, --judge names another), the Frechet distance of VGG16's features
(rfd, which is not FID and is comparable only at one --n), and the gradients' energy
over that of the originals (below 1: blurred); of the latents mean and std by channel
and the scale that gives them unit variance; of a codebook the share of its codes in use
and the perplexity of the choice.
"""

import json
import pathlib
import time

from absl import flags
import jax
import numpy as np
import tqdm

from ldm_jax import (
    cli,
    condition_fidelity,
    control,
    control_fidelity,
    evaluation,
    feature_distance,
    fidelity,
    generation,
    joining,
    judging,
    knobs,
    names,
    pictures,
    reconstruction,
    restoration,
    scene_fidelity,
    sharding,
)

# Pictures by default, and of what.
COUNTS = {"scenes": 512, "features": 2000, "reconstruction": 256}
COUNTS |= {"condition": 512, "control": 256, "restoration": 256}
DATASETS = {"features": "emoji_singles", "reconstruction": "emoji_scenes"}
TASK = flags.DEFINE_string(
    "task",
    None,
    "text, scenes, condition, control, restoration, features or reconstruction.",
    required=True,
)
CONFIG = cli.define_config(required=False)
WORKDIR = cli.define_workdir(required=False)
STEP = flags.DEFINE_integer(
    "step", None, "Of --workdir's checkpoints, instead of the newest.", lower_bound=0
)
WEIGHTS = cli.define_weights()
BATCH_SIZE = flags.DEFINE_integer(
    "batch_size",
    16,
    "Pictures at once, over all devices; rounded up to a multiple of their number.",
    lower_bound=1,
)
SEED = flags.DEFINE_integer("seed", 0, "Of the noise.")
OUT = flags.DEFINE_string("out", None, "Folder for a contact sheet, if wanted.")
SAMPLER = flags.DEFINE_string("sampler", None, "Instead of the config's: ddim, ddpm.")
GRID = flags.DEFINE_string("grid", None, "Timesteps, not the config's: ldm, trailing.")
STEPS = flags.DEFINE_integer("steps", None, "Instead of the config's.", lower_bound=1)
SCALE = flags.DEFINE_float("scale", None, "Of the guidance, instead of the config's.")
NAMES = flags.DEFINE_integer("names", 200, "text: how many sprites.", lower_bound=1)
SEEDS = flags.DEFINE_integer("seeds", 2, "text: pictures of each.", lower_bound=1)
DATASET = flags.DEFINE_string(
    "dataset", None, f"features, reconstruction: of what; by default {DATASETS}."
)
SPLIT = flags.DEFINE_enum(
    "split", None, ["train", "heldout"], "features: instead of the data set's own."
)
N = flags.DEFINE_integer(
    "n", None, f"Pictures of all tasks but text; by default {COUNTS}.", lower_bound=2
)
JUDGE_WEIGHTS = flags.DEFINE_string(
    "judge_weights", judging.EMBEDDED, "scenes, condition: one by ldm_jax.export."
)
JUDGE = flags.DEFINE_enum(
    "judge",
    None,
    [*reconstruction.JUDGES],
    "reconstruction, restoration: LPIPS by this, not by the net not trained on.",
)
PROMPTS = flags.DEFINE_enum(
    "prompts", "full", control_fidelity.PROMPTS, "control: which captions are told."
)
CONTROL = cli.define_control()
WEIGHTING = flags.DEFINE_enum(
    "weighting", None, [*control.WEIGHTINGS], "control: of connections."
)
RIVAL = flags.DEFINE_bool(
    "rival", True, "reconstruction: shrink and enlarge the pictures too."
)
# Which tasks read a flag that not all of them do.
_DRAWN = ("text", "scenes", "condition", "control", "restoration", "features")
READ_BY = {
    **dict.fromkeys(("sampler", "grid", "steps", "scale"), _DRAWN),
    **dict.fromkeys(("names", "seeds"), ("text",)),
    "rival": ("reconstruction",),
    "judge": ("reconstruction", "restoration"),
    "judge_weights": ("scenes", "condition"),
    "split": ("features",),
    "dataset": ("features", "reconstruction"),
    "n": (*_DRAWN[1:], "reconstruction"),
    **dict.fromkeys(("prompts", "control", "weighting"), ("control",)),
}


def check_flags():
    """Raises ValueError for a flag that was given and that the task does not read."""
    for name, tasks in READ_BY.items():
        if flags.FLAGS[name].present and TASK.value not in tasks:
            raise ValueError(
                f"--task={TASK.value} does not read --{name}, which is of "
                f"{', '.join(tasks)}: leave it out"
            )


def batch_size():
    return sharding.whole_batch(BATCH_SIZE.value, jax.device_count())


def named():
    """(config, weights) that the flags name, with those of sampling."""
    config, weights = reconstruction.named(CONFIG.value, WORKDIR.value, WEIGHTS.value)
    if STEP.value is not None and WORKDIR.value is None:
        raise ValueError("--step is of a run: name its --workdir and --config too")
    told = {"sampler": SAMPLER.value, "grid": GRID.value, "steps": STEPS.value}
    told |= {"scale": SCALE.value, "hint_weighting": WEIGHTING.value}
    told |= joining.with_branches(CONTROL.value)
    told = {key: value for key, value in told.items() if value is not None}
    if WORKDIR.value or CONFIG.value is None:
        joining.check_free(config, told)
    return (generation.overridden(config, told) if told else config), weights


def count():
    return N.value or COUNTS[TASK.value]


def dataset():
    return DATASET.value or DATASETS[TASK.value]


def progress(total):
    return tqdm.tqdm(total=total, unit="picture")


def sampled(config, weights, fits, what):
    """The generation.Model to draw from; fits: (config) -> whether it is `what`."""
    if config.task != "latent_diffusion" or not fits(config):
        raise ValueError(f"--task={TASK.value} needs the config of a model that {what}")
    knobs.of(config)  # of a grid that has such steps
    if WORKDIR.value:
        return generation.from_run(config, WORKDIR.value, STEP.value)
    return generation.from_file(config, weights or generation.EMBEDDED)


def prompted(config, weights, kinds=("text",)):
    """`sampled` of a model whose kind of condition is one of these."""
    return sampled(
        config, weights, lambda c: c.cond_stage.kind in kinds, "takes prompts"
    )


def drawn_by(model):
    """What a figure of samples is to be known by."""
    keys = ("sampler", "grid", "steps", "scale")
    told = {key: model.config.sample[key] for key in keys}
    return told | {"weights": model.weights}


def text(config, weights):
    """(figures, sheet rows) of --task=text."""
    model = prompted(config, weights)
    result, rows = fidelity.evaluate(
        model, NAMES.value, SEEDS.value, SEED.value, batch_size(), progress
    )
    counts = {"names": NAMES.value, "seeds": SEEDS.value}
    return result | counts | drawn_by(model), rows


def scenes(config, weights):
    """(figures, sheet rows) of --task=scenes."""
    model = prompted(config, weights)
    judge = judging.load(JUDGE_WEIGHTS.value)
    result, rows = scene_fidelity.evaluate(
        model, judge, count(), SEED.value, batch_size(), progress
    )
    return result | drawn_by(model) | {"judge": judge.weights}, rows


def condition(config, weights):
    """(figures, sheet rows) of --task=condition."""
    measures = condition_fidelity.MEASURES
    what = f"takes one of {', '.join(measures)}"
    model = sampled(config, weights, lambda c: c.cond_stage.kind in measures, what)
    judge = judging.load(JUDGE_WEIGHTS.value)
    result, rows = condition_fidelity.evaluate(
        model, judge, count(), SEED.value, batch_size(), progress
    )
    return result | drawn_by(model) | {"judge": judge.weights}, rows


def controlled(config, weights):
    """(figures, sheet rows) of --task=control."""
    known = set(control_fidelity.MEASURES)
    what = f"obeys hints, of {', '.join(sorted(known))}"
    model = sampled(
        config,
        weights,
        lambda c: c.control.hints and known.issuperset(c.control.hints),
        what,
    )
    result, rows = control_fidelity.evaluate(
        model, count(), SEED.value, batch_size(), PROMPTS.value, progress
    )
    return result | drawn_by(model), rows


def restore(config, weights):
    """(figures, sheet rows) of --task=restoration."""
    model = sampled(config, weights, restoration.restores, "enlarges or in-paints")
    known = config.first_stage.kind != "identity"
    trained_on = reconstruction.trained_on(config) if known else None
    result, rows = restoration.evaluate(
        model,
        JUDGE.value or reconstruction.judge_of(trained_on),
        count(),
        SEED.value,
        batch_size(),
        progress,
    )
    return result | drawn_by(model), rows


def features(config, weights):
    """(figures, sheet rows) of --task=features."""
    split = feature_distance.split_of(dataset(), SPLIT.value)
    model = prompted(config, weights, ("text", "none"))
    result, rows = feature_distance.evaluate(
        model, dataset(), split, count(), SEED.value, batch_size(), progress
    )
    return result | drawn_by(model), rows


def reconstruct(config, weights):
    """(figures, sheet rows) of --task=reconstruction."""
    stage = config, WORKDIR.value, weights, STEP.value
    model = reconstruction.model(*stage)
    trained_on = reconstruction.trained_on(*stage)
    net = JUDGE.value or reconstruction.judge_of(trained_on)
    result, rows = reconstruction.evaluate(
        model,
        net,
        dataset(),
        count(),
        SEED.value,
        batch_size(),
        RIVAL.value,
        progress,
    )
    told = {"lpips_net": net, "trained_on": trained_on, "weights": model.weights}
    return result | told, rows


TASKS = {
    "text": text,
    "scenes": scenes,
    "condition": condition,
    "control": controlled,
    "restoration": restore,
    "features": features,
    "reconstruction": reconstruct,
}


def write_sheet(out, rows):
    """The first rows [n, k, S, S, 3] as a sheet of three times k columns."""
    out = pathlib.Path(out)
    out.mkdir(parents=True, exist_ok=True)
    shown = rows[: reconstruction.SHOWN]
    sheet = pictures.grid(np.concatenate(shown), columns=3 * shown.shape[1])
    pictures.save_png(out / f"{TASK.value}.png", sheet)
    cli.say(f"wrote {out / f'{TASK.value}.png'}")


def main(argv):
    del argv
    began = time.perf_counter()
    task = names.pick(TASKS, TASK.value)
    check_flags()
    result, rows = task(*named())
    if OUT.value:
        write_sheet(OUT.value, rows)
    if STEP.value is not None:
        result |= {"step": STEP.value}
    result |= {"seed": SEED.value, "seconds": time.perf_counter() - began}
    print(json.dumps({"task": TASK.value} | evaluation.rounded(result)), flush=True)


if __name__ == "__main__":
    cli.run(main)
