"""A run's parameters as one weights file; of a first stage with its scale."""

import jax
import numpy as np

from ldm_jax import evaluation, frozen, inputs, pictures, runs, train_step
from ldm_jax import system as system_lib
from ldm_jax.weights import own


def measure_latents(config, system, params, count):
    """`evaluation.latent_statistics` over `count` training batches.

    'scale_pictures' says how many pictures that were.
    """

    @jax.jit
    def encode(batch, number):
        keys = train_step.picture_keys(0, number, len(batch["image"]))
        return system.encode(params, keys, pictures.to_float(batch["image"]))

    total, seen = 0, 0
    with inputs.batches(config, ("image",)) as batches:
        for i in range(count):
            z = np.asarray(encode(next(batches), i))
            total, seen = total + evaluation.moments(z), seen + len(z)
    return evaluation.latent_statistics(total) | {"scale_pictures": seen}


def _branch_alone(config):
    """The hint of the one branch that a run trains, if it trains nothing else."""
    trained = config.train.trainable
    return (
        trained[0] if len(trained) == 1 and trained[0] in config.control.hints else None
    )


def export(config, workdir, out, dtype, batches):
    """Writes the file; returns what its header says about it."""
    system = system_lib.build(config)
    params, step = runs.latest_params(config, workdir)
    meta = {"step": step, "data": config.data.name}
    if config.task == "autoencoder":
        params = {"first_stage": params["first_stage"]}
        stored = jax.tree.map(lambda x: np.asarray(x, dtype).astype("float32"), params)
        same = frozen.encoder_of_start(runs.as_trained(config, workdir))
        meta |= same or measure_latents(config, system, stored, batches)
    if config.task == "latent_diffusion":
        frozen.load(config, system)  # it must be there and fit
        meta["first_stage"] = frozen.digest(config)
        if branch := _branch_alone(runs.as_trained(config, workdir)):
            params = {frozen.BRANCH: params[branch]}
            meta |= {"hint": branch, "base": frozen.digest_of_start(config)}
    own.save_weights(out, params, config.to_dict(), meta, dtype)
    return meta | {"parameters": sum(x.size for x in jax.tree.leaves(params))}
