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
import jax
import numpy as np

from ldm_jax import cli, frozen, inputs, paths, pictures, runs, train_step
from ldm_jax import config as config_lib
from ldm_jax import system as system_lib
from ldm_jax.weights import own

CONFIG = cli.define_config()
WORKDIR = cli.define_workdir()
OUT = flags.DEFINE_string("out", None, "The file to write.", required=True)
DTYPE = flags.DEFINE_enum(
    "dtype", "float16", ["float16", "bfloat16", "float32"], "How numbers are stored."
)
BATCHES = flags.DEFINE_integer("batches", 50, "Batches for a first stage's scale.")


def measure_latents(config, system, params, count):
    """{'scale', 'latent_mean', 'latent_std', ...} over `count` training batches.

    mean and std per channel; the scale is one over the std of all values, as the
    originals' scale_by_std, which takes the first batch alone.
    """

    @jax.jit
    def encode(batch, number):
        keys = train_step.picture_keys(0, number, len(batch["image"]))
        return system.encode(params, keys, pictures.to_float(batch["image"]))

    with inputs.batches(config, ("image",)) as batches:
        latents = [np.asarray(encode(next(batches), i)) for i in range(count)]
    z = np.concatenate(latents).astype(np.float64)
    return {
        "scale": float(1 / z.std()),
        "latent_mean": z.mean((0, 1, 2)).tolist(),
        "latent_std": z.std((0, 1, 2)).tolist(),
        "scale_pictures": len(z),
    }


def export(config, workdir, out, dtype, batches):
    """Writes the file; returns what its header says about it."""
    system = system_lib.build(config)
    params, step = runs.latest_params(config, workdir)
    meta = {"step": step, "data": config.data.name}
    if config.task == "autoencoder":
        params = {"first_stage": params["first_stage"]}
        stored = jax.tree.map(lambda x: np.asarray(x, dtype).astype("float32"), params)
        meta |= measure_latents(config, system, stored, batches)
    else:
        frozen.load(config, system)
        meta["first_stage"] = own.digest(paths.resolve(config.first_stage.weights))
    own.save_weights(out, params, config.to_dict(), meta, dtype)
    return meta | {"parameters": sum(x.size for x in jax.tree.leaves(params))}


def main(argv):
    del argv
    config = config_lib.check(CONFIG.value)
    meta = export(config, WORKDIR.value, OUT.value, DTYPE.value, BATCHES.value)
    cli.say(f"wrote {OUT.value}: {meta}")


if __name__ == "__main__":
    cli.run(main)
