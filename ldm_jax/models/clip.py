"""CLIP's text encoders: the ones that Stable Diffusion listens to.

The shapes are those of OpenAI's ViT-L/14 (Radford et al., 2021) and of OpenCLIP's
ViT-H/14 and ViT-bigG/14 (LAION). The weights load from either library's files.
"""

import dataclasses

from einops import rearrange
import flax.linen as nn
import jax
import jax.numpy as jnp

from ldm_jax.models import attention, layers

LENGTH = 77  # tokens that an encoder takes at once
VOCAB = 49_408
START, END = 49_406, 49_407  # the first token of a text, and the one after its last

ACTIVATIONS = {
    "gelu": layers.gelu,
    "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
}


@dataclasses.dataclass(frozen=True)
class Encoder:
    """The shape of a text encoder, and how it wants a text filled up."""

    width: int
    depth: int
    heads: int
    activation: str
    pad: int  # fills up after the end token; causal attention keeps earlier tokens
    # from seeing it
    projection: int = 0  # width of the pooled text, 0: the file holds no projection
    vocab: int = VOCAB  # more with the words of textual inversion


ENCODERS = {
    "clip_l": Encoder(768, 12, 12, "quick_gelu", END),
    "openclip_h": Encoder(1024, 24, 16, "gelu", 0, 1024),
    # As diffusers keeps it: without the last block, which SD2 does not use.
    "openclip_h_23": Encoder(1024, 23, 16, "gelu", 0),
    "openclip_bigg": Encoder(1280, 32, 20, "gelu", 0, 1280),
}


class Block(nn.Module):
    """Causal self-attention and an ungated feed-forward, each on a LayerNorm."""

    encoder: Encoder
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x):  # [B, L, C]
        features = x.shape[-1]
        h = layers.layer_norm(x, "norm_attn")
        h = layers.dense(h, 3 * features, "qkv", dtype=self.dtype)
        h = rearrange(h, "b l (x n d) -> x b l n d", x=3, n=self.encoder.heads)
        h = rearrange(attention.causal(*h), "b l n d -> b l (n d)")
        x = x + layers.dense(h, features, "attn_out", dtype=self.dtype)

        h = layers.layer_norm(x, "norm_mlp")
        h = layers.dense(h, 4 * features, "mlp_in", dtype=self.dtype)
        h = ACTIVATIONS[self.encoder.activation](h)
        return x + layers.dense(h, features, "mlp_out", dtype=self.dtype)


def filled(tokens, pad):
    """Tokens [B, L] that END fills up -> filled up with `pad`.

    The end is the first END that nothing but END follows: one that the text itself
    names keeps the text after it, as in the originals.
    """
    if pad == END:
        return tokens
    place = jnp.arange(tokens.shape[-1])
    last = jnp.max(jnp.where(tokens != END, place, -1), axis=-1)  # of the text, [B]
    return jnp.where(place > last[:, None] + 1, pad, tokens)


class TextEncoder(nn.Module):
    """Tokens [B, 77] -> (sequence [B, 77, width], pooled [B, projection] or None).

    skip: how many of the last blocks the sequence leaves out; final_norm: whether
    the last LayerNorm follows all the same. The pooled text is always that of all
    blocks and the norm, at the first end token, projected.
    """

    encoder: Encoder
    skip: int = 0
    final_norm: bool = True
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, tokens):
        shape = self.encoder
        ends = tokens == END
        last = tokens.shape[-1] - 1
        end = jnp.where(ends.any(-1), jnp.argmax(ends, axis=-1), last)  # the first, [B]
        tokens = filled(tokens, shape.pad)

        def embed(rows, name):
            return nn.Embed(rows, shape.width, dtype=self.dtype, name=name)

        h = embed(shape.vocab, "tokens")(tokens)
        h = h + embed(LENGTH, "positions")(jnp.arange(LENGTH))
        states = [h]
        for i in range(shape.depth):
            states.append(Block(shape, self.dtype, name=f"block_{i}")(states[-1]))

        # Under jit what is not used, be it the last block, is not computed.
        norm = layers.LayerNorm(name="norm_out")
        sequence = states[-1 - self.skip]
        sequence = norm(sequence) if self.final_norm else sequence
        whole = norm(states[-1])
        if not shape.projection:
            return sequence.astype(jnp.float32), None
        pooled = whole[jnp.arange(len(tokens)), end]
        pooled = layers.dense(
            pooled, shape.projection, "projection", bias=False, dtype=self.dtype
        )
        return sequence.astype(jnp.float32), pooled.astype(jnp.float32)
