"""Write the weights of a run as one .safetensors file.

  python -m ldm_jax.export --config=configs/demo_autoencoder.py \\
      --workdir=runs/first_stage --out=first_stage.safetensors

Takes the averaged (EMA) weights where the run keeps an average. Of a first stage
it also measures the latents' standard deviation over --batches batches, and stores
scale = 1 / std with the weights: put that number into first_stage.scale of the
configs that use the file (another number there is an error). A diffusion model's
file says which first stage it was trained with.
"""

from absl import flags

from ldm_jax import cli, exporting
from ldm_jax import config as config_lib

CONFIG = cli.define_config()
WORKDIR = cli.define_workdir()
OUT = flags.DEFINE_string("out", None, "The file to write.", required=True)
DTYPE = flags.DEFINE_enum(
    "dtype", "float16", ["float16", "bfloat16", "float32"], "How numbers are stored."
)
BATCHES = flags.DEFINE_integer(
    "batches", 50, "Batches for a first stage's scale.", lower_bound=1
)


def main(argv):
    del argv
    config = config_lib.check(CONFIG.value)
    meta = exporting.export(
        config, WORKDIR.value, OUT.value, DTYPE.value, BATCHES.value
    )
    cli.say(f"wrote {OUT.value}: {meta}")


if __name__ == "__main__":
    cli.run(main)
