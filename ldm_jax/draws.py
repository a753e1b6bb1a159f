"""The noise of pictures: from each one's own key, so that no batch changes it."""

import jax
import jax.numpy as jnp


def noise(keys, i, shape):
    """Draw number i of each picture: keys [B] -> [B, *shape], shape of one z."""

    def draw(key):
        return jax.random.normal(jax.random.fold_in(key, i), shape)

    return jax.vmap(draw)(keys)


def initial_noise(keys, shape):
    """z_T [B, *shape]: draw 0; the steps of a sampler draw from 1 on."""
    return noise(keys, 0, shape)


def between(a, b, share):
    """The way on the sphere from noise a to noise b [B, h, w, c] (slerp).

    share [B]: 0 is a and 1 is b. On the straight line between them noise is weaker
    than any that a network has seen.
    """

    def one(a, b, share):
        cosine = jnp.vdot(a, b) / (jnp.linalg.norm(a) * jnp.linalg.norm(b))
        angle = jnp.arccos(jnp.clip(cosine, -1, 1))
        weights = jnp.sin((1 - share) * angle), jnp.sin(share * angle)
        curved = (weights[0] * a + weights[1] * b) / jnp.sin(angle)
        return jnp.where(jnp.sin(angle) > 1e-6, curved, (1 - share) * a + share * b)

    return jax.vmap(one)(a, b, share)
