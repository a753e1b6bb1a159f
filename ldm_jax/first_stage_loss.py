"""Stage one's two players: the autoencoder against a patch discriminator.

L1 + LPIPS + KL, and a hinge loss whose weight adapts (Esser et al., 2021;
Rombach et al., 2022, appendix G). Reconstruction and KL are sums over a picture,
averaged over the batch, as in LDM's KL models: kl_weight is relative to that.
"""

from collections.abc import Callable
import dataclasses

import jax
import jax.numpy as jnp

from ldm_jax import losses, pictures
from ldm_jax.models import discriminator as discriminator_lib
from ldm_jax.models import perceptual


@dataclasses.dataclass(frozen=True)
class FirstStageLoss:
    """The part of a System that only stage one has; signatures as there."""

    init: Callable
    init_extra: Callable
    grads: Callable
    validate: Callable


def make(net, discriminator, loss):
    """The loss of autoencoder `net`; the other two are sections of the config."""
    disc = discriminator_lib.PatchDiscriminator(**discriminator)

    def init(rng, x):
        return {"discriminator": disc.init(rng, x)["params"]}

    def init_extra(params):
        width = 64
        x = jnp.zeros((1, width, width, 3))
        variables = jax.eval_shape(disc.init, jax.random.key(0), x)
        zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), variables)
        return {"batch_stats": zeros["batch_stats"]}

    def judge(params, stats, x):
        variables = {"params": params, "batch_stats": stats}
        logits, new = disc.apply(variables, x, mutable=["batch_stats"])
        return logits, new["batch_stats"]

    def lpips_of(params, x, x_hat):
        return perceptual.lpips(params["perceptual"], x, x_hat, loss.perceptual)

    def reconstruction(frozen, x, x_hat):
        """(loss, metrics): L1 and LPIPS, summed over a picture, mean over the batch."""
        l1 = jnp.abs(x - x_hat)
        total, metrics = jnp.sum(l1) / len(x), {"l1": jnp.mean(l1)}
        if loss.perceptual_weight:
            lpips = jnp.mean(lpips_of(frozen, x, x_hat))
            values = x[0].size  # LPIPS counts once for every value, as in the originals
            total += loss.perceptual_weight * values * lpips
            metrics["lpips"] = lpips
        return total, metrics

    def grads(params, frozen, extra, step, keys, batch):
        x = pictures.to_float(batch["image"])
        on = jnp.float32(step >= loss.disc_start)

        def forward(p):
            return reconstruct(net, p, keys, x)

        (x_hat, kl), pull = jax.vjp(forward, params["first_stage"])
        (rec, metrics), rec_grad = jax.value_and_grad(
            lambda x_hat: reconstruction(frozen, x, x_hat), has_aux=True
        )(x_hat)
        stats = extra["batch_stats"]

        def generator(x_hat):
            logits, _ = judge(params["discriminator"], stats, x_hat)
            return losses.hinge_generator(logits)

        gan, gan_grad = jax.value_and_grad(generator)(x_hat)

        # Only the last kernel is read of these two: the compiler drops the rest.
        def last_kernel(grad):
            return pull((grad, jnp.zeros_like(kl)))[0]["decoder"]["conv_out"]["kernel"]

        weight = losses.adaptive_weight(last_kernel(rec_grad), last_kernel(gan_grad))
        weight = on * loss.disc_weight * weight
        (stage_grads,) = pull((rec_grad + weight * gan_grad, loss.kl_weight + 0 * kl))

        def adversary(p):
            # The reconstruction from before the generator's update; the originals
            # compute it again after that.
            real, new = judge(p, stats, x)
            fake, new = judge(p, new, jax.lax.stop_gradient(x_hat))
            return on * losses.hinge_discriminator(real, fake), new

        (disc_loss, stats), disc_grads = jax.value_and_grad(adversary, has_aux=True)(
            params["discriminator"]
        )
        metrics |= {"loss": rec + loss.kl_weight * kl + weight * gan, "kl": kl}
        metrics |= {"gan": gan, "gan_weight": weight, "disc_loss": disc_loss}
        both = {"first_stage": stage_grads, "discriminator": disc_grads}
        return both, {**extra, "batch_stats": stats}, metrics

    def validate(params, keys, batch):
        x = pictures.to_float(batch["image"])
        variables = {"params": params["first_stage"]}
        posterior = net.apply(variables, x, method="encode")
        x_hat = net.apply(variables, posterior.mean, method="decode")
        mse = jnp.mean(jnp.square(jnp.clip(x_hat, -1, 1) - x), axis=(1, 2, 3))
        rows = {
            "l1": jnp.mean(jnp.abs(x_hat - x), axis=(1, 2, 3)),
            "psnr": 10 * jnp.log10(4 / mse),  # the range is 2
            "kl": posterior.kl(),
        }
        if loss.perceptual_weight:
            rows["lpips"] = lpips_of(params, x, x_hat)
        return rows

    return FirstStageLoss(init, init_extra, grads, validate)


def reconstruct(net, params, keys, x):
    """(x_hat, mean KL) through a sampled latent, with dropout."""
    rngs = {"dropout": losses.split(keys, "dropout")[0]}
    variables = {"params": params}
    posterior = net.apply(variables, x, True, method="encode", rngs=rngs)
    noise = losses.normal(losses.split(keys, "encode"), posterior.mean.shape[1:])
    z = posterior.sample(noise)
    x_hat = net.apply(variables, z, True, method="decode", rngs=rngs)
    return x_hat, jnp.mean(posterior.kl())
