"""Generate pictures.

  python -m ldm_jax.sample --prompt="a fox on a teal background" --n=8 --out=DIR

uses the weights that ship with the project. Those of a run of yours:

  python -m ldm_jax.sample --config=configs/demo_text_to_image.py --workdir=runs/text \\
      --prompt="an owl on a red background" --out=DIR

Writes 00000.png, 00001.png, ... (prompt after prompt, --n of each), grid.png and
manifest.jsonl into DIR. The same seed gives the same pictures, whatever the batch
size and the number of devices.
"""

import json
import os
import pathlib
import time

from absl import flags
import jax
import numpy as np
import tqdm

from ldm_jax import cli, generation, pictures
from ldm_jax import config as config_lib

CONFIG = cli.define_config(required=False)
WORKDIR = cli.define_workdir(required=False)
WEIGHTS = flags.DEFINE_string(
    "weights", generation.EMBEDDED, "A .safetensors by ldm_jax.export, if no --workdir."
)
PROMPT = flags.DEFINE_multi_string("prompt", [], "What to draw; may be repeated.")
N = flags.DEFINE_integer("n", 1, "Pictures of each prompt.", lower_bound=1)
SEED = flags.DEFINE_integer("seed", 0, "Of the noise.")
OUT = flags.DEFINE_string("out", "samples", "Folder for the pictures.")
BATCH_SIZE = flags.DEFINE_integer(
    "batch_size", 8, "Pictures at once, over all devices.", lower_bound=1
)
SAMPLER = flags.DEFINE_string("sampler", None, "Instead of the config's: ddim, ddpm.")
STEPS = flags.DEFINE_integer("steps", None, "Instead of the config's.", lower_bound=1)
SCALE = flags.DEFINE_float("scale", None, "Of the guidance, instead of the config's.")
ETA = flags.DEFINE_float("eta", None, "Of DDIM, instead of the config's.")


def load_model(config, workdir, weights, overrides):
    """The Model that the flags name. `overrides`: sample section, None to keep."""
    if config is None and workdir is not None:
        raise ValueError("--workdir needs the --config that the run was made with")
    if config is None:
        config = generation.config_of(weights)
    changed = {key: value for key, value in overrides.items() if value is not None}
    config.sample.update(changed)
    config = config_lib.check(config)
    if config.task != "latent_diffusion":
        raise ValueError(f"task {config.task!r} does not sample; latent_diffusion does")
    if workdir is not None:
        return generation.from_run(config, workdir)
    return generation.from_file(config, weights)


def write(out, index, x, row):
    """One finite picture as PNG; returns its line of the manifest."""
    if not np.isfinite(x).all():
        raise FloatingPointError(
            f"picture {index} is not finite, nothing was written for it; {row}"
        )
    name = f"{index:05}.png"
    row = {"file": name, **row}
    text = {"ldm_jax": json.dumps(row)}
    pictures.save_png(out / name, np.asarray(pictures.to_uint8(x)), text)
    return row


def sample(model, prompts, n, seed, batch_size, out):
    """Writes the pictures, the grid and the manifest; returns the manifest's rows."""
    out = pathlib.Path(out)
    out.mkdir(parents=True, exist_ok=True)
    repeated = [prompt for prompt in prompts for _ in range(n)]
    count = len(repeated) or n
    batch = generation.tokens(model.config, repeated, cli.say) if prompts else {}
    settings = model.config.sample.to_dict()
    rows, images = [], []
    seeds = generation.keys(seed, np.arange(count))
    with tqdm.tqdm(total=count, unit="picture") as bar:
        for part in generation.generate(model, batch, seeds, batch_size):
            for x in part:
                i = len(rows)
                row = {
                    "prompt": repeated[i] if prompts else "",
                    "seed": seed,
                    "index": i,
                }
                row |= {"settings": settings, "weights": model.weights}
                rows.append(write(out, i, x, row))
                images.append(np.asarray(pictures.to_uint8(x)))
                bar.update()
    pictures.save_png(out / "grid.png", pictures.grid(np.stack(images)))
    temporary = out / f".manifest.jsonl.{os.getpid()}"
    temporary.write_text("".join(json.dumps(row) + "\n" for row in rows))
    os.replace(temporary, out / "manifest.jsonl")
    return rows


def main(argv):
    del argv
    began = time.perf_counter()
    overrides = {"sampler": SAMPLER.value, "steps": STEPS.value}
    overrides |= {"scale": SCALE.value, "eta": ETA.value}
    model = load_model(CONFIG.value, WORKDIR.value, WEIGHTS.value, overrides)
    if not PROMPT.value and model.config.cond_stage.kind == "text":
        raise ValueError('say what to draw: --prompt="a fox on a teal background"')
    batch_size = BATCH_SIZE.value
    devices = jax.device_count()
    if batch_size < devices:
        batch_size = devices
        cli.say(f"batch size {devices}: one picture for each device")
    rows = sample(model, PROMPT.value, N.value, SEED.value, batch_size, OUT.value)
    took = time.perf_counter() - began
    grid = pathlib.Path(OUT.value).absolute() / "grid.png"
    print(f"{len(rows)} pictures in {took:.1f} s: {grid}")


if __name__ == "__main__":
    cli.run(main)
