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
    purposes = ("encode", "t", "eps", "drop", "dropout", "restart")
    return jax.vmap(jax.random.fold_in, (0, None))(keys, purposes.index(name))


def normal(keys, shape):
    """Standard normal noise [B, *shape] from one key per picture."""
    return jax.vmap(lambda key: jax.random.normal(key, shape))(keys)


def diffusion(predict, schedule, z_0, t, eps, *, predicts, norm, min_snr=0.0):
    """(loss, bound) per picture, [B] each, of `predict`: z_t -> Pred.

    z_0, eps [B, h, w, c]; t [B]. The loss compares what the network `predicts` (eq.
    14 of Ho et al., 2020, for eps) by `norm`, weighted by schedule.min_snr if that is
    not 0; the bound is `bound`'s, None where the last step has no signal: infinite.
    """
    pred = predict(schedule_lib.add_noise(schedule, z_0, eps, t))
    want = schedule_lib.target(schedule, predicts, z_0, eps, t)
    have = schedule_lib.target(schedule, predicts, pred.z_0, pred.eps, t)
    loss = jnp.mean(names.pick(NORMS, norm)(have - want), axis=(1, 2, 3))
    if min_snr:
        loss *= schedule_lib.min_snr(schedule, predicts, min_snr, t)
    if schedule.alpha_bar[-1] == 0:
        return loss, None
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


def generator(fake):
    """What the generator minimises: fake logits [B, h, w, 1] -> []."""
    return -jnp.mean(fake)


def hinge(real, fake):
    """Half the sum of both hinges (Lim and Ye, 2017): logits -> []."""
    return 0.5 * (jnp.mean(jax.nn.relu(1 - real)) + jnp.mean(jax.nn.relu(1 + fake)))


def vanilla(real, fake):
    """Half the sum of both cross-entropies (Goodfellow et al., 2014): logits -> []."""
    return 0.5 * (jnp.mean(jax.nn.softplus(-real)) + jnp.mean(jax.nn.softplus(fake)))


DISCRIMINATOR = {"hinge": hinge, "vanilla": vanilla}


def r1(judge, x):
    """Half the squared norm of the real logits' gradient (Mescheder et al., 2018).

    judge: x [B, H, W, 3] -> logits; their sum's gradient in each picture. -> [].
    """
    slope = jax.grad(lambda x: jnp.sum(judge(x)))(x)
    return 0.5 * jnp.mean(jnp.sum(jnp.square(slope), axis=(1, 2, 3)))


def lecam(real, fake, averages):
    """LeCam regularisation (Tseng et al., 2021), as its authors' code has it: [].

    real, fake: logits; averages: {real, fake}, the running means of both.
    """
    above = jnp.square(jax.nn.relu(real - averages["fake"]))
    below = jnp.square(jax.nn.relu(averages["real"] - fake))
    return jnp.mean(above) + jnp.mean(below)


def adaptive_weight(grad_rec, grad_gan):
    """VQGAN's lambda (Esser et al., 2021, eq. 7): (lambda, |grad_rec|, |grad_gan|).

    The ratio of the norms of the two terms' gradients for the decoder's last kernel, in
    float32, at most 1e4, constant in the backward pass.
    """
    norms = [
        jnp.linalg.norm(lax.stop_gradient(g).astype(jnp.float32).ravel())
        for g in (grad_rec, grad_gan)
    ]
    return jnp.clip(norms[0] / (norms[1] + 1e-4), 0.0, 1e4), *norms
