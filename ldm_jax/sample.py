"""Generate pictures.

  python -m ldm_jax.sample --prompt="a fox on a teal background" --n=8 --out=DIR

uses the weights that ship with the project. Those of a run of yours:

  python -m ldm_jax.sample --config=configs/demo_text_to_image.py --workdir=runs/text \\
      --prompt="an owl on a red background" --out=DIR

Writes 00000.png, 00001.png, ... (prompt after prompt, --n of each), grid.png and
manifest.jsonl into DIR. The same seed gives the same pictures, whatever the batch
size and the number of devices.
"""

import pathlib
import time

from absl import flags
import jax

from ldm_jax import album, cli, generation, sharding

CONFIG = cli.define_config(required=False)
WORKDIR = cli.define_workdir(required=False)
WEIGHTS = flags.DEFINE_string(
    "weights", None, "A .safetensors by ldm_jax.export, instead of the embedded one."
)
PROMPT = flags.DEFINE_multi_string("prompt", [], "What to draw; may be repeated.")
N = flags.DEFINE_integer("n", 1, "Pictures of each prompt.", lower_bound=1)
SEED = flags.DEFINE_integer("seed", 0, "Of the noise.")
OUT = flags.DEFINE_string("out", "samples", "Folder for the pictures.")
BATCH_SIZE = flags.DEFINE_integer(
    "batch_size",
    8,
    "Pictures at once, over all devices; rounded up to a multiple of their number.",
    lower_bound=1,
)
SAMPLER = flags.DEFINE_string("sampler", None, "Instead of the config's: ddim, ddpm.")
STEPS = flags.DEFINE_integer("steps", None, "Instead of the config's.", lower_bound=1)
SCALE = flags.DEFINE_float("scale", None, "Of the guidance, instead of the config's.")
ETA = flags.DEFINE_float("eta", None, "Of DDIM, instead of the config's.")


def main(argv):
    del argv
    began = time.perf_counter()
    overrides = {"sampler": SAMPLER.value, "steps": STEPS.value}
    overrides |= {"scale": SCALE.value, "eta": ETA.value}
    model = generation.load(CONFIG.value, WORKDIR.value, WEIGHTS.value, overrides)
    if not PROMPT.value and model.config.cond_stage.kind == "text":
        raise ValueError('say what to draw: --prompt="a fox on a teal background"')
    batch_size = sharding.whole_batch(BATCH_SIZE.value, jax.device_count())
    rows = album.draw(model, PROMPT.value, N.value, SEED.value, batch_size, OUT.value)
    took = time.perf_counter() - began
    grid = pathlib.Path(OUT.value).absolute() / "grid.png"
    print(f"{len(rows)} pictures in {took:.1f} s: {grid}")


if __name__ == "__main__":
    cli.run(main)
