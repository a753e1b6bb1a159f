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
size and the number of devices.
"""

import pathlib
import time

from absl import flags
import jax

from ldm_jax import album, cli, embeddings, generation, holes, inputs, sharding
from ldm_jax.exchange import transfer

CONFIG = cli.define_config(required=False)
WORKDIR = cli.define_workdir(required=False)
WEIGHTS = flags.DEFINE_string(
    "weights",
    None,
    "A .safetensors by ldm_jax.export or .convert, instead of the embedded one.",
)
CHECKPOINT = flags.DEFINE_string(
    "checkpoint", None, "A released file, or a diffusers folder, to sample from."
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
NEGATIVE = flags.DEFINE_string("negative_prompt", "", "What to stay away from.")
IMAGE = flags.DEFINE_string("image", None, "The picture that in-painting changes.")
MASK = flags.DEFINE_string("mask", None, "Where it does: white is the hole.")
N = flags.DEFINE_integer("n", 1, "Pictures of each prompt.", lower_bound=1)
SEED = flags.DEFINE_integer("seed", 0, "Of the noise.")
OUT = flags.DEFINE_string("out", "samples", "Folder for the pictures.")
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
    "length", None, "Tokens of a prompt: 154 takes CLIP's 77 twice.", lower_bound=3
)
SAMPLER = flags.DEFINE_string("sampler", None, "Instead of the config's: ddim, ddpm.")
STEPS = flags.DEFINE_integer("steps", None, "Instead of the config's.", lower_bound=1)
SCALE = flags.DEFINE_float("scale", None, "Of the guidance, instead of the config's.")
ETA = flags.DEFINE_float("eta", None, "Of DDIM, instead of the config's.")


def load():
    """The generation.Model that the flags ask for."""
    overrides = {"sampler": SAMPLER.value, "steps": STEPS.value}
    overrides |= {"scale": SCALE.value, "eta": ETA.value}
    overrides |= {"data.image_size": IMAGE_SIZE.value}
    overrides |= {"cond_stage.length": LENGTH.value}
    if CHECKPOINT.value is None:
        if AVERAGE.value or VARIANT.value:
            raise ValueError("--average and --variant are of a --checkpoint: name one")
        return generation.load(CONFIG.value, WORKDIR.value, WEIGHTS.value, overrides)
    if WORKDIR.value is not None or WEIGHTS.value is not None:
        raise ValueError("--checkpoint excludes --workdir and --weights: name one")
    if ours := transfer.file_of_ours(CHECKPOINT.value):
        return generation.load(CONFIG.value, None, ours, overrides)
    return generation.from_checkpoint(
        CHECKPOINT.value, CONFIG.value, overrides, VARIANT.value, AVERAGE.value
    )


def main(argv):
    del argv
    began = time.perf_counter()
    model = embeddings.added(load(), EMBEDDING.value)
    if not PROMPT.value and model.config.cond_stage.kind in inputs.SPOKEN:
        raise ValueError('say what to draw: --prompt="a fox on a teal background"')
    given = holes.read(model.config, IMAGE.value, MASK.value)
    batch_size = sharding.whole_batch(BATCH_SIZE.value, jax.device_count())
    rows = album.draw(
        model,
        PROMPT.value,
        N.value,
        SEED.value,
        batch_size,
        OUT.value,
        NEGATIVE.value,
        given,
    )
    took = time.perf_counter() - began
    grid = pathlib.Path(OUT.value).absolute() / "grid.png"
    print(f"{len(rows)} pictures in {took:.1f} s: {grid}")


if __name__ == "__main__":
    cli.run(main)
