"""The codebook of VQGAN (Esser et al., 2021)."""

import flax.linen as nn
import jax
from jax import lax
import jax.numpy as jnp

CHUNK = 8192  # pixels of a batch at once; bounds the memory of the distances


class Codebook(nn.Module):
    """z [B, h, w, features] -> for each of its pixels the nearest of `size` vectors."""

    size: int
    features: int

    def setup(self):
        bound = 1 / self.size

        def init(rng, shape, dtype=jnp.float32):
            return jax.random.uniform(rng, shape, dtype, -bound, bound)

        self.codes = nn.Embed(self.size, self.features, embedding_init=init)

    def __call__(self, z):
        return self.lookup(self.indices(z))

    def indices(self, z):
        """The places of the nearest vectors: int32 [B, h, w]."""
        return nearest(self.codes.embedding, z)

    def lookup(self, indices):
        """The vectors at these places: [B, h, w, features]."""
        return self.codes(indices)


def nearest(table, z):
    """For each pixel of z [B, h, w, c] the row of table [n, c] next to it: int32."""
    norms = jnp.sum(table**2, axis=-1)

    def one(pixel):  # [B, c]
        # |z - e|^2 without the |z|^2 that all codes have in common. In full precision:
        # what a TPU does otherwise would choose other codes.
        products = jnp.einsum("bc,nc->bn", pixel, table, precision="highest")
        return jnp.argmin(norms - 2 * products, axis=-1).astype(jnp.int32)

    batch, height, width, features = z.shape
    pixels = z.reshape(batch, height * width, features).swapaxes(0, 1)
    found = lax.map(one, pixels, batch_size=max(1, CHUNK // batch))
    return found.swapaxes(0, 1).reshape(batch, height, width)


def straight_through(z, quantised):
    """The quantised latent, whose gradient goes to z as if nothing had happened."""
    return z + lax.stop_gradient(quantised - z)


def loss(z, quantised, beta, legacy):
    """[B]: mean squared distances; each moves one side towards the other.

    beta weights the commitment, which moves the encoder; legacy: the codebook's term
    in its place, as in taming-transformers, which trained every released model so.
    """
    codebook = jnp.square(quantised - lax.stop_gradient(z))
    commitment = jnp.square(lax.stop_gradient(quantised) - z)
    weights = (beta, 1.0) if legacy else (1.0, beta)
    return jnp.mean(weights[0] * codebook + weights[1] * commitment, axis=(1, 2, 3))


def statistics(indices, size):
    """{usage, perplexity} of the choices in a batch, int [B, h, w]: two scalars.

    usage is the share of the codes that were chosen; perplexity the exponential of the
    entropy of how often each was, at most `size`.
    """
    share = jnp.bincount(indices.ravel(), length=size) / indices.size
    terms = jnp.where(share > 0, share * jnp.log(jnp.where(share > 0, share, 1)), 0)
    return {"usage": jnp.mean(share > 0), "perplexity": jnp.exp(-jnp.sum(terms))}


def watch(watched, indices, z, step, rng):
    """What `restart` needs to know, after a batch that chose `indices` for z.

    watched: {last_used int32 [n], spare [n, c]}. Spare vectors are pixels of z in an
    order that `rng` draws, the same on every device; of more codes than pixels some
    have the same. Of micro-batches the last one's remain.
    """
    size = len(watched["last_used"])
    chosen = jnp.zeros(size, bool).at[indices.ravel()].set(True)
    order = jax.random.permutation(rng, indices.size)
    places = order[jnp.arange(size) % indices.size]
    return {
        "last_used": jnp.where(chosen, step, watched["last_used"]),
        "spare": lax.stop_gradient(z.reshape(-1, z.shape[-1])[places]),
    }


def restart(tables, watched, step, patience):
    """(tables, watched): codes that no pixel chose for `patience` steps start anew.

    Their rows in each of tables [n, c] become spare vectors (Zeghidour et al., 2021).
    """
    gone = dead(watched, step, patience)
    fresh = [jnp.where(gone[:, None], watched["spare"], table) for table in tables]
    return fresh, {**watched, "last_used": jnp.where(gone, step, watched["last_used"])}


def dead(watched, step, patience):
    """Which codes no pixel chose for `patience` steps: bool [n]."""
    return step - watched["last_used"] >= patience
