"""The codebook of VQGAN (Esser et al., 2021)."""

import flax.linen as nn
import jax.numpy as jnp


class Codebook(nn.Module):
    """z [B, h, w, c] -> for each of its pixels the nearest of `codes` vectors."""

    codes: int

    @nn.compact
    def __call__(self, z):
        bound = 1 / self.codes

        def init(rng, shape, dtype=jnp.float32):
            return nn.initializers.uniform(2 * bound)(rng, shape, dtype) - bound

        table = nn.Embed(
            self.codes, z.shape[-1], embedding_init=init, name="codes"
        ).embedding
        # |z - e|^2 without the |z|^2 that all codes have in common.
        distance = jnp.sum(table**2, axis=-1) - 2 * jnp.einsum(
            "bhwc,nc->bhwn", z, table
        )
        return table[jnp.argmin(distance, axis=-1)]
