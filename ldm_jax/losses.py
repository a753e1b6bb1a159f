"""What the networks minimise. Losses are float32; [B] where a picture has its own."""

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from ldm_jax import names
from ldm_jax import schedule as schedule_lib

NORMS = {"l1": jnp.abs, "l2": jnp.square}


def split(keys, name):
    """Per-picture keys for one purpose: [B] keys -> [B] keys."""
    purposes = ("encode", "t", "eps", "drop", "dropout")
    return jax.vmap(jax.random.fold_in, (0, None))(keys, purposes.index(name))


def normal(keys, shape):
    """Standard normal noise [B, *shape] from one key per picture."""
    return jax.vmap(lambda key: jax.random.normal(key, shape))(keys)


def diffusion(predict, schedule, z_0, t, eps, *, predicts, norm):
    """(loss, bound) per picture, [B] each, of `predict`: z_t -> Pred.

    z_0, eps [B, h, w, c]; t [B]. The loss compares what the network `predicts` (eq.
    14 of Ho et al., 2020, for eps) by `norm`; the bound is `bound`'s.
    """
    pred = predict(schedule_lib.add_noise(schedule, z_0, eps, t))
    want = schedule_lib.target(schedule, predicts, z_0, eps, t)
    have = schedule_lib.target(schedule, predicts, pred.z_0, pred.eps, t)
    loss = jnp.mean(names.pick(NORMS, norm)(have - want), axis=(1, 2, 3))
    error = jnp.mean(jnp.square(pred.eps - eps), axis=(1, 2, 3))
    return loss, bound(schedule, error, z_0, t)


def bound(schedule, error, z_0, t):
    """The variational bound at sampled t, per picture [B], in bits per dimension.

    `error` is the squared error of eps; t uniform over the T steps, so that T times
    the weighted error estimates the bound's sum. The term of t = 0 has the weight
    of t = 1, as in the LDM code, since a latent has no discrete likelihood. Plus
    the prior's KL(q(z_T | z_0) || N(0, I)).
    """
    weights = jnp.asarray(schedule_lib.lvlb_weights(schedule), jnp.float32)
    last = schedule.alpha_bar[-1]
    prior = 0.5 * (last * jnp.square(z_0) - last - np.log1p(-last))
    nats = len(weights) * weights[t] * error + jnp.mean(prior, axis=(1, 2, 3))
    return nats / np.log(2)


def hinge_generator(fake):
    """What the generator minimises: fake logits [B, h, w, 1] -> []."""
    return -jnp.mean(fake)


def hinge_discriminator(real, fake):
    """Half the sum of both hinges (Lim and Ye, 2017): logits -> []."""
    return 0.5 * (jnp.mean(jax.nn.relu(1 - real)) + jnp.mean(jax.nn.relu(1 + fake)))


def adaptive_weight(grad_rec, grad_gan):
    """VQGAN's lambda (Esser et al., 2021, eq. 7), for the decoder's last kernel.

    The ratio of the norms of the two terms' gradients, at most 1e4, constant in
    the backward pass.
    """
    ratio = jnp.linalg.norm(grad_rec.ravel()) / (
        jnp.linalg.norm(grad_gan.ravel()) + 1e-4
    )
    return lax.stop_gradient(jnp.clip(ratio, 0.0, 1e4))
