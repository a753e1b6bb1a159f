"""The discriminator's side of stage one: what it learns, and what it tells."""

from collections.abc import Callable
import dataclasses

import jax
import jax.numpy as jnp

from ldm_jax import losses, names
from ldm_jax.models import discriminator as discriminator_lib

AVERAGE = 0.99  # of LeCam's running means


@dataclasses.dataclass(frozen=True)
class Adversary:
    """The discriminator's side."""

    init: Callable  # (rng, x) -> params
    init_extra: Callable  # () -> extra
    play: Callable  # see make


def make(discriminator, loss):
    """The Adversary of the config's two sections; with disc_weight 0 it rests."""
    disc = discriminator_lib.PatchDiscriminator(**discriminator)
    compare = names.pick(losses.DISCRIMINATOR, loss.disc_loss)

    def init(rng, x):
        return {"discriminator": disc.init(rng, x)["params"]}

    def init_extra():
        variables = jax.eval_shape(
            disc.init, jax.random.key(0), jnp.zeros((1, 64, 64, 3))
        )
        zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), variables)
        means = {"real": jnp.float32(0), "fake": jnp.float32(0)}
        averages = {"lecam": means} if loss.lecam_weight else {}
        return {"batch_stats": zeros["batch_stats"], **averages}

    def judge(params, stats, x):
        variables = {"params": params, "batch_stats": stats}
        logits, new = disc.apply(variables, x, mutable=["batch_stats"])
        return logits, new["batch_stats"]

    def against(params, extra, x, x_hat):
        """(loss, {batch_stats, lecam: means of the logits}) of the discriminator."""
        # The reconstruction from before the generator's update; the originals compute
        # it again after that.
        stats = extra["batch_stats"]
        real, new = judge(params, stats, x)
        fake, new = judge(params, new, x_hat)
        total, told = compare(real, fake), {"batch_stats": new}
        if loss.r1_weight:
            total += loss.r1_weight * losses.r1(lambda x: judge(params, stats, x)[0], x)
        if loss.lecam_weight:
            total += loss.lecam_weight * losses.lecam(real, fake, extra["lecam"])
            told["lecam"] = {"real": jnp.mean(real), "fake": jnp.mean(fake)}
        return total, told

    def play(params, extra, step, x, x_hat, slope, last_kernel):
        """One move of both sides.

        slope: of the reconstruction's term in x_hat; last_kernel: takes a slope to the
        gradient of the decoder's last kernel. Returns (the generator's weighted term,
        its slope, the discriminator's gradients, extra, metrics), all zero before
        loss.disc_start, whatever the discriminator then says.
        """
        trained = params["discriminator"]
        on = step >= loss.disc_start
        since = (step - loss.disc_start + 1) / max(loss.disc_warmup, 1)

        gan, gan_slope = jax.value_and_grad(
            lambda x_hat: losses.generator(
                judge(trained, extra["batch_stats"], x_hat)[0]
            )
        )(x_hat)
        ratio, rec_norm, gan_norm = losses.adaptive_weight(
            last_kernel(slope), last_kernel(gan_slope)
        )
        weight = loss.disc_weight * jnp.minimum(since, 1.0) * ratio
        (disc_loss, new), grads = jax.value_and_grad(against, has_aux=True)(
            trained, extra, x, x_hat
        )
        if loss.lecam_weight:
            new["lecam"] = jax.tree.map(
                lambda old, now: jnp.where(
                    on, AVERAGE * old + (1 - AVERAGE) * now, old
                ),
                extra["lecam"],
                new["lecam"],
            )

        def if_on(tree):
            return jax.tree.map(lambda a: jnp.where(on, a, jnp.zeros_like(a)), tree)

        told = if_on({"gan_weight": weight, "disc_loss": disc_loss})
        told |= {"gan": gan, "rec_norm": rec_norm, "gan_norm": gan_norm}
        term, gan_slope, grads = if_on((weight * gan, weight * gan_slope, grads))
        return term, gan_slope, grads, {**extra, **new}, told

    def rest(params, extra, step, x, x_hat, slope, last_kernel):
        """`play` where neither side moves."""
        grads = jax.tree.map(jnp.zeros_like, params["discriminator"])
        return jnp.float32(0), jnp.zeros_like(slope), grads, extra, {}

    return Adversary(init, init_extra, play if loss.disc_weight else rest)
