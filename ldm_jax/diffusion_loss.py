"""The loss of latent diffusion, as the (grads, validate) of a System."""

import jax
import jax.numpy as jnp

from ldm_jax import first_stage, kept_texts, losses, pictures, trees
from ldm_jax import schedule as schedule_lib
from ldm_jax.models import conditioners


def make(config, schedule, denoise, conditioner, condition, stage, latent, loudness):
    """(grads, validate) of a config's System.

    stage: "encode" and "latent" of the first stage; latent: the shape of its z_0;
    loudness: (params, z_t, t, cond) -> {name: [B]}, told beside the loss.
    """

    def clean(params, keys, batch):
        """z_0 of pictures, or of what was kept of their latents."""
        posterior = first_stage.posterior_of(batch)
        if posterior is not None:
            return stage["latent"](keys, posterior)
        return stage["encode"](params, keys, pictures.to_float(batch["image"]))

    def error(params, keys, batch, cond, t, rng, told):
        """losses.diffusion at the steps t, on the keys' noise; told: its knobs."""
        z_0 = clean(params, keys, batch)
        eps = losses.normal(losses.split(keys, "eps"), latent)

        def predict(z_t):
            return denoise(params, z_t, t, cond, rng)

        return losses.diffusion(predict, schedule, z_0, t, eps, **told)

    def dropped(params, keys, batch):
        """The Cond of a batch, a share of which says "no condition"."""
        draw = jax.vmap(jax.random.bernoulli, (0, None))
        drop = draw(losses.split(keys, "drop"), config.cond_stage.drop)

        def swap(a, b):
            return jnp.where(drop.reshape(-1, *[1] * (a.ndim - 1)), b, a)

        cond = kept_texts.cond_of(batch)
        if cond is not None:
            micro = conditioners.sizes(config.cond_stage.micro, config.data.image_size)
            null = kept_texts.untold(conditioner, params["cond_stage"], micro)
            return jax.tree.map(swap, cond, null)
        if conditioner.null is not None:
            batch = jax.tree.map(swap, batch, conditioner.null(batch))
        return condition(params, batch)

    def grads(params, frozen, extra, step, keys, batch):
        # The networks' dropout alone draws per batch; all else draws per picture.
        rng = losses.split(keys, "dropout")[0] if config.unet.dropout else None
        draw = jax.vmap(lambda key: jax.random.randint(key, (), 0, len(schedule.betas)))
        t = draw(losses.split(keys, "t"))

        def loss_fn(params):
            everything = trees.merge(params, frozen)
            cond = dropped(everything, keys, batch)
            loss, _ = error(everything, keys, batch, cond, t, rng, config.loss)
            return jnp.mean(loss)

        loss, grads = jax.value_and_grad(loss_fn)(params)
        return grads, extra, {"loss": loss}

    def validate(params, keys, batch):
        # One t from each of as many equal parts of 0 .. T-1 as there are rows: every
        # part is seen in every batch, and the mean over batches has no bias.
        steps, rows = len(schedule.betas), len(keys)
        within = jax.vmap(jax.random.uniform)(losses.split(keys, "t"))
        t = jnp.int32((jnp.arange(rows) + within) * steps / rows)
        t = jnp.minimum(t, steps - 1)  # rounding may reach T
        # Weights of training aside, so that runs with others compare.
        alike = {**config.loss, "min_snr": 0.0}
        cond = condition(params, batch)
        loss, bits = error(params, keys, batch, cond, t, None, alike)
        eps = losses.normal(losses.split(keys, "eps"), latent)
        z_t = schedule_lib.add_noise(schedule, clean(params, keys, batch), eps, t)
        loud = loudness(params, z_t, t, cond)
        told = {"loss_simple": loss, "t": t, **loud}
        return told if bits is None else {**told, "loss_vlb": bits}

    return grads, validate
