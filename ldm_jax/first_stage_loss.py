"""The autoencoder's side of stage one; the discriminator's is adversary.py.

L1 + LPIPS + the latent's term, and a GAN loss whose weight adapts (Esser et al., 2021;
Rombach et al., 2022, appendix G). As in the originals the reconstruction of a KL model
is a sum over a picture's numbers, and KL one over its latent's, both averaged over the
batch; of a VQ model all are means. kl_weight is relative to that sum.
"""

from collections.abc import Callable
import dataclasses

import jax
from jax import lax
import jax.numpy as jnp

from ldm_jax import adversary as adversary_lib
from ldm_jax import losses, pictures, trees
from ldm_jax.models import perceptual, quantize

CODEBOOK = "first_stage/codebook/codes/embedding"


@dataclasses.dataclass(frozen=True)
class FirstStageLoss:
    """The part of a System that only stage one has; signatures as there."""

    init: Callable
    init_extra: Callable
    grads: Callable
    validate: Callable
    after_step: Callable | None


def make(net, discriminator, loss):
    """The loss of autoencoder `net`; the other two are sections of the config."""
    adversary = adversary_lib.make(discriminator, loss)
    forward = (quantised if net.arch.codes else sampled)(net, loss)
    restarts = bool(net.arch.codes and loss.restart_after)

    def init(rng, x):
        params = adversary.init(rng, x)
        return params | ({"logvar": jnp.float32(0)} if loss.learn_logvar else {})

    def init_extra(params):
        extra = adversary.init_extra()
        if restarts:
            codes, width = net.arch.codes, net.arch.embed_channels
            # As if all were used just before step 0.
            used, spare = jnp.full(codes, -1, jnp.int32), jnp.zeros((codes, width))
            extra |= {"codes": {"last_used": used, "spare": spare}}
        return extra

    def reconstruction(frozen, logvar, x, x_hat):
        """(loss, metrics) of L1 and LPIPS, which counts once for every number."""
        l1 = jnp.mean(jnp.abs(x - x_hat))
        error, metrics = l1, {"l1": l1}
        if loss.perceptual_weight:
            lpips = jnp.mean(
                perceptual.lpips(frozen["perceptual"], x, x_hat, loss.perceptual)
            )
            error += loss.perceptual_weight * lpips
            metrics["lpips"] = lpips
        if loss.learn_logvar:  # the scale of a Laplace distribution, as a number
            error = error * jnp.exp(-logvar) + logvar
            metrics["logvar"] = logvar
        return (1 if net.arch.codes else x[0].size) * error, metrics

    def grads(params, frozen, extra, step, keys, batch):
        x = pictures.to_float(batch["image"])
        whole = trees.merge(
            params.get("first_stage", {}), frozen.get("first_stage", {})
        )
        logvar = params["logvar"] if loss.learn_logvar else jnp.float32(0)

        (x_hat, latent), pull, seen = jax.vjp(
            lambda p: forward(p, keys, x), whole, has_aux=True
        )
        (rec, metrics), (slope, logvar_grad) = jax.value_and_grad(
            lambda x_hat, logvar: reconstruction(frozen, logvar, x, x_hat),
            argnums=(0, 1),
            has_aux=True,
        )(x_hat, logvar)
        # What follows must not change how the terms above are computed: before
        # disc_start a step equals one without a discriminator to the last bit.
        x_hat, slope = lax.optimization_barrier((x_hat, slope))

        # Only the last kernel is read of these: the compiler drops the rest.
        def last_kernel(slope):
            back = pull((slope, jnp.zeros_like(latent)))[0]
            return back["decoder"]["conv_out"]["kernel"]

        gan, gan_slope, disc_grads, extra, told = adversary.play(
            params, extra, step, x, x_hat, slope, last_kernel
        )
        slope = lax.optimization_barrier(slope + gan_slope)
        (stage_grads,) = pull((slope, jnp.ones_like(latent)))
        metrics |= {"loss": rec + latent + gan} | seen["metrics"] | told
        if restarts:
            rng = losses.split(keys, "restart")[0]
            codes = quantize.watch(
                extra["codes"], seen["indices"], seen["z"], step, rng
            )
            extra = {**extra, "codes": codes}
            dead = quantize.dead(codes, step, loss.restart_after)
            metrics |= {"alive": 1 - jnp.mean(dead), "restarted": jnp.sum(dead)}
        everything = {"first_stage": stage_grads, "discriminator": disc_grads}
        everything["logvar"] = logvar_grad
        return trees.like(everything, params), extra, metrics

    def validate(params, keys, batch):
        x = pictures.to_float(batch["image"])
        variables = {"params": params["first_stage"]}
        posterior = net.apply(variables, x, method="encode")
        x_hat = net.apply(variables, posterior.mean, method="decode")
        mse = jnp.mean(jnp.square(jnp.clip(x_hat, -1, 1) - x), axis=(1, 2, 3))
        rows = {
            "l1": jnp.mean(jnp.abs(x_hat - x), axis=(1, 2, 3)),
            "psnr": 10 * jnp.log10(4 / mse),  # the range is 2
        }
        if not net.arch.codes:
            rows["kl"] = posterior.kl()
        if loss.perceptual_weight:
            rows["lpips"] = perceptual.lpips(
                params["perceptual"], x, x_hat, loss.perceptual
            )
        return rows

    def after_step(params, ema, extra, step):
        """Restarts the codes that nothing chose, in the average too."""
        flat = [trees.flatten(tree) for tree in (params, ema) if tree]
        tables, watched = quantize.restart(
            [tree[CODEBOOK] for tree in flat], extra["codes"], step, loss.restart_after
        )
        new = [
            trees.nested({**tree, CODEBOOK: table})
            for tree, table in zip(flat, tables, strict=True)
        ]
        return new[0], (new[1] if ema else ema), {**extra, "codes": watched}

    return FirstStageLoss(
        init, init_extra, grads, validate, after_step if restarts else None
    )


def sampled(net, loss):
    """(params, keys, x) -> ((x_hat, KL term), seen) by a drawn latent, with dropout."""

    def forward(params, keys, x):
        rngs = {"dropout": losses.split(keys, "dropout")[0]}
        variables = {"params": params}
        posterior = net.apply(variables, x, True, method="encode", rngs=rngs)
        noise = losses.normal(losses.split(keys, "encode"), posterior.mean.shape[1:])
        z = posterior.sample(noise)
        x_hat = net.apply(variables, z, True, method="decode", rngs=rngs)
        kl = jnp.mean(posterior.kl())
        return (x_hat, loss.kl_weight * kl), {"metrics": {"kl": kl}}

    return forward


def quantised(net, loss):
    """(params, keys, x) -> ((x_hat, codebook term), seen), with dropout."""

    def forward(params, keys, x):
        rngs = {"dropout": losses.split(keys, "dropout")[0]}
        variables = {"params": params}
        z = net.apply(variables, x, True, method="encode", rngs=rngs).mean
        codes, indices = net.apply(variables, z, method="quantise")
        term = jnp.mean(quantize.loss(z, codes, loss.beta, loss.legacy_beta))
        z_hat = quantize.straight_through(z, codes)
        x_hat = net.apply(variables, z_hat, True, method="render", rngs=rngs)
        metrics = {"codebook": term} | quantize.statistics(indices, net.arch.codes)
        seen = {"metrics": metrics, "indices": indices, "z": z}
        return (x_hat, loss.codebook_weight * term), seen

    return forward
