"""Convert weights between layouts; says what a file is before it reads any of it.

  python -m ldm_jax.convert --from=v1-5-pruned.ckpt --to=sd15
  python -m ldm_jax.convert --from=sd15 --to=back.safetensors --layout=original
  python -m ldm_jax.convert --from=sd15 --to=folder --layout=diffusers --dtype=float16
  python -m ldm_jax.convert --from=canny.safetensors --base=trained_over.safetensors \\
      --transfer=other.safetensors --to=folder

Reads: single files of LDM, Stable Diffusion 1, 2, XL and ControlNet (.ckpt in both of
torch's formats, .safetensors), diffusers folders (torch and Flax), and our own. Nothing
in a file is executed. Writes: ours (a folder with first_stage.safetensors and
diffusion.safetensors, for --weights of sample and train.init of a config), original
(one .safetensors), diffusers (a folder), orbax. --transfer adds what a ControlNet
learnt to another base model of the same shape, before it is written.

Missing arrays and arrays of another shape are errors; what is not read is listed.
"""

import pathlib
import time

from absl import flags

from ldm_jax import cli, paths
from ldm_jax.exchange import moving, transfer

CONFIG = cli.define_config(required=False)
FROM = flags.DEFINE_string("from", None, "The file or folder to read.", required=True)
TO = flags.DEFINE_string("to", None, "The file or folder to write.", required=True)
LAYOUT = flags.DEFINE_enum(
    "layout", "ours", [*transfer.WRITERS], "What is written to --to."
)
DTYPE = flags.DEFINE_enum(
    "dtype",
    None,
    ["float32", "bfloat16", "float16"],
    "How numbers are stored; as in the file unless named.",
)
AVERAGE = flags.DEFINE_bool(
    "average", False, "Read the averaged (EMA) UNet of a file that holds both."
)
TRANSFER = flags.DEFINE_string(
    "transfer", None, "Carry the control branch in --from over to this model."
)
BASE = flags.DEFINE_string(
    "base", None, "--transfer: the model it was trained over, if not in --from."
)
VARIANT = flags.DEFINE_string(
    "variant", None, "Of a folder's files: 'fp16' reads *.fp16.safetensors."
)


def main(argv):
    del argv
    began = time.perf_counter()
    out = pathlib.Path(TO.value).expanduser()
    transfer.check_target(LAYOUT.value, out)
    if BASE.value and not TRANSFER.value:
        raise ValueError("--base is of --transfer: name the model to carry it over to")

    def read(path):
        path = paths.resolve(path)
        return transfer.read(path, CONFIG.value, VARIANT.value, AVERAGE.value, cli.say)

    weights = read(FROM.value)
    if TRANSFER.value:
        base = read(BASE.value) if BASE.value else None
        weights = moving.moved(weights, base, read(TRANSFER.value), cli.say)
    write = transfer.WRITERS[LAYOUT.value]
    write(transfer.with_progress(weights), out, DTYPE.value)
    cli.say(f"wrote {out} in {time.perf_counter() - began:.1f} s")


if __name__ == "__main__":
    cli.run(main)
