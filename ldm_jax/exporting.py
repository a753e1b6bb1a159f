"""A run's parameters as one weights file; of a first stage with its scale."""

import jax
import numpy as np

from ldm_jax import frozen, inputs, pictures, runs, train_step
from ldm_jax import system as system_lib
from ldm_jax.weights import own


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
        frozen.load(config, system)  # it must be there and fit
        meta["first_stage"] = frozen.digest(config)
    own.save_weights(out, params, config.to_dict(), meta, dtype)
    return meta | {"parameters": sum(x.size for x in jax.tree.leaves(params))}
