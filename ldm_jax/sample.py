"""Generate pictures.

  python -m ldm_jax.sample --prompt="a fox on a teal background" --n=8 --out=DIR

uses the weights that ship with the project. Those of a run of yours:

  python -m ldm_jax.sample --config=configs/demo_text_to_image.py --workdir=runs/text \\
      --prompt="an owl on a red background" --out=DIR

Released weights of Stable Diffusion 1, 2 and XL, a single file or a diffusers folder:

  python -m ldm_jax.sample --checkpoint=v1-5-pruned-emaonly.safetensors \\
      --prompt="a lighthouse in a (storm:1.3)" --negative_prompt="blurry"

Writes 00000.png, 00001.png, ... (prompt after prompt, --n of each), grid.png and
manifest.jsonl into DIR. The same seed gives the same pictures, whatever the batch
size, the number of devices and of processes. The same command again draws what is
missing and nothing else; another one is refused there.

Many pictures, by any number of processes that never wait for each other, one of

  python -m ldm_jax.sample --prompts=prompts.jsonl --n=4 --shard=1000 --out=DIR \\
      --processes=8 --process=0

on each host (a shared folder). --prompts reads .txt (a prompt in each line), .jsonl and
.csv, which may also have negative_prompt, seed, scale, variation_seed and variation of
each. --shard writes files of so many pictures, which training reads by
--config.data.name=packed --config.data.path=DIR, in place of a PNG for each.

A picture may be changed: as a whole (--image --strength=0.6), in a hole (--image
--mask), or beyond its edges (--image --outpaint), by any model but super-resolution.

A picture of edges, depth, a pose, ... may say where things are, by a control branch for
each, the one that ships or yours:

  python -m ldm_jax.sample --control=demo:canny.safetensors --hint=edges.png \\
      --prompt="a fox on snow" "--set=hint_strengths=(0.8,)" --set=hint_weighting=guess

Models of the other tasks are told what to draw by --label (class), --layout (boxes),
--segmentation (semantic map), --image (super-resolution), --image and --mask
(in-painting):

  python -m ldm_jax.sample --config=configs/layout_to_image_coco.py \\
      --workdir=runs/layout --layout=layout.json --n=8

Prompts as you type them, by any of these weights; /help there lists the settings:

  python -m ldm_jax.sample --interactive --n=4 --out=DIR

The program is compiled once. Pictures are added to those in DIR, min(--n,
--batch_size) at once, whatever /n is later. The noise of a picture comes from its seed
and its index. A session counts the index on, so that the same prompt twice gives new
pictures; /seed begins anew at index 0. manifest.jsonl has both, and of a session the
settings, which otherwise are in job.json: --prompt, --seed and --index (or /seed and
/index) with the same settings draw a picture again.
"""

import functools
import itertools
import pathlib
import time

from absl import flags
import jax

from ldm_jax import (
    album,
    class_names,
    cli,
    embeddings,
    generation,
    given,
    grids,
    interactive,
    jobs,
    joining,
    knobs,
    orders,
    samplers,
    sharding,
    tokenizers,
)
from ldm_jax import config as config_lib

CONFIG = cli.define_config(required=False)
WORKDIR = cli.define_workdir(required=False)
WEIGHTS = cli.define_weights()
CHECKPOINT = flags.DEFINE_string(
    "checkpoint",
    None,
    "A released file, a diffusers folder, or a folder by ldm_jax.convert.",
)
AVERAGE = flags.DEFINE_bool(
    "average", False, "Take the averaged (EMA) UNet of a --checkpoint that has both."
)
VARIANT = flags.DEFINE_string(
    "variant", None, "Of a folder's files: 'fp16' takes *.fp16.safetensors."
)
EMBEDDING = flags.DEFINE_multi_string(
    "embedding", [], "WORD=FILE: a word of textual inversion; may be repeated."
)
PROMPT = flags.DEFINE_multi_string("prompt", [], "What to draw; may be repeated.")
PROMPTS = flags.DEFINE_string("prompts", None, "A .txt, .jsonl or .csv of prompts.")
CUT = flags.DEFINE_bool(
    "cut_prompts", False, "Draw what fits of a prompt that is too long."
)
NEGATIVE = flags.DEFINE_string("negative_prompt", "", "What to stay away from.")
LABEL = flags.DEFINE_multi_string(
    "label", [], "Class models: a name or number; may be repeated."
)
LAYOUT = flags.DEFINE_string("layout", None, "Layout models: a JSON file of boxes.")
SEGMENTATION = flags.DEFINE_string(
    "segmentation", None, "Semantic models: a picture whose numbers are the classes."
)
IMAGE = flags.DEFINE_string(
    "image",
    None,
    "The picture to change; super-resolution: the one to enlarge. Its middle square is "
    "used.",
)
STRENGTH = flags.DEFINE_float(
    "strength", None, "Share of the steps, the last ones, that change --image."
)
MASK = flags.DEFINE_string(
    "mask", None, "A picture of the size of --image: what is white is painted anew."
)
KEEP = flags.DEFINE_string(
    "keep", None, "The other convention: what is white stays (LDM's samplers)."
)
OUTPAINT = flags.DEFINE_list(
    "outpaint",
    None,
    "LEFT,TOP,RIGHT,BOTTOM pixels of --image that are painted around it; the whole is "
    "then brought to --image_size.",
)
CONTROL = cli.define_control()
HINT = flags.DEFINE_multi_string(
    "hint", [], "The picture that a control branch hears; one for each."
)
ANNOTATE = flags.DEFINE_bool(
    "annotate", False, "Find edges, lines or strokes in --hint first."
)
N = flags.DEFINE_integer("n", 1, "Pictures of each prompt.", lower_bound=1)
SEED = flags.DEFINE_integer(
    "seed",
    0,
    "The same seed gives the same pictures.",
    lower_bound=0,
    upper_bound=album.HIGHEST,
)
INDEX = flags.DEFINE_integer(
    "index",
    0,
    "Of the first picture: what its row in a manifest says draws it again.",
    lower_bound=0,
    upper_bound=album.HIGHEST,
)
VARIATION_SEED = flags.DEFINE_integer(
    "variation_seed",
    None,
    "Lead the noise of each picture to that of this seed.",
    lower_bound=0,
    upper_bound=album.HIGHEST,
)
VARIATION = flags.DEFINE_float(
    "variation", None, "Share of the way there.", lower_bound=0, upper_bound=1
)
INTERACTIVE = flags.DEFINE_bool(
    "interactive", False, "Draw prompts as they are typed, or come through a pipe."
)
OUT = flags.DEFINE_string("out", "samples", "Folder for the pictures.")
OVERWRITE = flags.DEFINE_bool(
    "overwrite", False, "Remove the pictures of another command in --out first."
)
SHARD = flags.DEFINE_integer(
    "shard", 0, "Pictures in a file of records; 0: a PNG for each.", lower_bound=0
)
SHARE = cli.define_share()
BATCH_SIZE = flags.DEFINE_integer(
    "batch_size",
    8,
    "Pictures at once, over all devices; rounded up to a multiple of their number.",
    lower_bound=1,
)
IMAGE_SIZE = flags.DEFINE_integer(
    "image_size", None, "Pixels of a side, instead of the config's.", lower_bound=8
)
LENGTH = flags.DEFINE_integer(
    "length",
    None,
    "CLIP models: tokens of a prompt, a multiple of 77; 154 takes long ones.",
    lower_bound=3,
)
SAMPLER = flags.DEFINE_string(
    "sampler", None, f"Instead of the config's: {', '.join(samplers.SAMPLERS)}."
)
GRID = flags.DEFINE_string(
    "grid", None, f"Timesteps, not the config's: {', '.join(grids.GRIDS)}."
)
STEPS = flags.DEFINE_integer(
    "steps", None, "Sampling steps, instead of the config's.", lower_bound=1
)
SCALE = flags.DEFINE_float(
    "scale", None, "Strength of classifier-free guidance, instead of the config's."
)
ETA = flags.DEFINE_float("eta", None, "Noise that DDIM adds, 0 to 1.")
SET = flags.DEFINE_multi_string(
    "set",
    [],
    "KEY=VALUE of the config's section sample, such as guidance=apg, rescale=0.7, "
    "'interval=(0.2,0.8)' or guide=weaker.safetensors; may be repeated.",
)


def overrides():
    """{key of the config: what a flag says in its place, or None}."""
    return {
        "sampler": SAMPLER.value,
        "grid": GRID.value,
        "steps": STEPS.value,
        "scale": SCALE.value,
        "eta": ETA.value,
        "strength": STRENGTH.value,
        "data.image_size": IMAGE_SIZE.value,
        "cond_stage.length": LENGTH.value,
        **joining.with_branches(CONTROL.value),
        **dict(map(orders.setting, SET.value)),
    }


def check(config):
    """Raises ValueError where the flags ask for what a config's model does not do."""
    kind = config.cond_stage.kind
    knobs.of(config)  # of a grid that has such steps
    spoken, labelled = kind in tokenizers.SPOKEN, kind == "label"
    if not (spoken or labelled) and PROMPTS.value:
        raise ValueError("--prompts is of models of texts or classes")
    if not spoken and (PROMPT.value or NEGATIVE.value):
        raise ValueError("this model's condition is no text: it takes no prompts")
    if not labelled and LABEL.value:
        raise ValueError("--label is of class-to-image models; this model is none")
    if INTERACTIVE.value and not (spoken or labelled):
        raise ValueError("--interactive is of models of texts or classes")
    if PROMPTS.value and (PROMPT.value or LABEL.value or INTERACTIVE.value):
        raise ValueError("--prompts excludes --prompt, --label and --interactive")
    if (VARIATION.value is None) != (VARIATION_SEED.value is None):
        raise ValueError("--variation and --variation_seed need each other")
    if spoken and not (PROMPT.value or PROMPTS.value or INTERACTIVE.value):
        raise ValueError('say what to draw: --prompt="a fox on a teal background"')
    if labelled and not (LABEL.value or PROMPTS.value or INTERACTIVE.value):
        raise ValueError(f"say what to draw: --label={class_names.of(config)[0]}")
    for label in LABEL.value:
        class_names.number(config, label)
    if NEGATIVE.value and config.sample.scale == 1:
        raise ValueError("--negative_prompt does nothing where --scale is 1")
    if NEGATIVE.value and config.sample.guide:
        raise ValueError("--negative_prompt does nothing where sample.guide is named")
    many = (SHARD.value, OVERWRITE.value, CUT.value, flags.FLAGS.processes)
    if INTERACTIVE.value and any(many):
        raise ValueError(
            "--interactive excludes --shard, --overwrite, --cut_prompts and --processes"
        )
    if CONTROL.value and not HINT.value:
        raise ValueError("--control hears nothing without --hint: name one for each")
    for row in asked()[1]:
        overridden = config.copy_and_resolve_references()
        overridden.sample.scale = row.get("scale", config.sample.scale)
        config_lib.check(overridden)
    given.read(config, files())


def files():
    """{what a model is given beside a prompt: its file, or None}."""
    return {
        "image": IMAGE.value,
        "mask": MASK.value,
        "keep": KEEP.value,
        "outpaint": OUTPAINT.value and orders.margins(OUTPAINT.value),
        "layout": LAYOUT.value,
        "segmentation": SEGMENTATION.value,
        "hint": tuple(HINT.value),
        "annotate": ANNOTATE.value,
    }


def asked():
    """(prompts or labels, what is said of each in a file)."""
    if PROMPTS.value:
        rows = orders.read(PROMPTS.value)
        return tuple(row["prompt"] for row in rows), tuple(rows)
    return tuple(PROMPT.value or LABEL.value), ()


def talk(model, wanted, batch_size):
    """--interactive: what --prompt says is as if it was typed first."""
    session = interactive.Session(model, wanted, batch_size, OUT.value)
    lines = itertools.chain(asked()[0], interactive.typed())
    interactive.run(session, lines, functools.partial(print, flush=True))


def main(argv):
    del argv
    process, processes = SHARE()
    began = time.perf_counter()
    prompts, said = asked()
    jobs.check_folder(OUT.value, empty=INTERACTIVE.value)
    model = generation.chosen(
        *(CONFIG.value, WORKDIR.value, WEIGHTS.value, CHECKPOINT.value),
        *(overrides(), check, VARIANT.value, AVERAGE.value),
    )
    model = embeddings.added(model, EMBEDDING.value)
    varies = VARIATION.value is not None
    wanted = album.Wanted(
        prompts=() if INTERACTIVE.value else prompts,
        n=N.value,
        seed=SEED.value,
        index=INDEX.value,
        negative=NEGATIVE.value,
        given=given.read(model.config, files()),
        variation=(VARIATION_SEED.value, VARIATION.value) if varies else (),
        said=said,
    )
    at_once = min(BATCH_SIZE.value, len(wanted))
    batch_size = sharding.whole_batch(at_once, jax.local_device_count())
    if INTERACTIVE.value:
        talk(model, wanted, batch_size)
        return
    ways = {"overwrite": OVERWRITE.value, "cut": CUT.value, "shard": SHARD.value}
    ways |= {"host": process, "hosts": processes}
    rows = album.draw(model, wanted, batch_size, OUT.value, **ways)
    took = f"in {time.perf_counter() - began:.1f} s"
    out = pathlib.Path(OUT.value).absolute()
    if rows:
        print(
            f"{len(rows)} pictures {took}: {out if SHARD.value else out / 'grid.png'}"
        )
    else:
        print(f"this process has drawn its share {took}; others are at theirs: {out}")


if __name__ == "__main__":
    cli.run(main)
