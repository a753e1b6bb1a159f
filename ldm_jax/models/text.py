"""Text encoders: tokens in, a sequence for cross-attention out."""

import flax.linen as nn
import jax.numpy as jnp

from ldm_jax.models import attention, layers

embedding_init = nn.initializers.normal(0.02)


class FeedForward(nn.Module):
    """Linear, exact GELU, linear: not gated, unlike the UNet's."""

    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x):
        h = layers.gelu(layers.dense(x, 4 * x.shape[-1], "proj_in", dtype=self.dtype))
        return layers.dense(h, x.shape[-1], "proj_out", dtype=self.dtype)


class TextTransformer(nn.Module):
    """LDM's BERT-style encoder: tokens [B, L] -> [B, L, width], float32.

    Learned absolute positions, pre-norm, and no padding mask: the padding attends
    and is attended to, in the originals too. Attention is heads * head_channels
    wide whatever the width (8 * 64 in all released models).
    """

    vocab: int
    length: int
    width: int
    depth: int
    heads: int
    head_channels: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, tokens):
        def embed(rows, name):
            return nn.Embed(
                rows,
                self.width,
                embedding_init=embedding_init,
                dtype=self.dtype,
                name=name,
            )

        h = embed(self.vocab, "tokens")(tokens)
        h = h + embed(self.length, "positions")(jnp.arange(tokens.shape[1]))
        for i in range(self.depth):
            attend = attention.Attention(
                self.heads, self.head_channels, self.dtype, name=f"attn_{i}"
            )
            h = h + attend(layers.layer_norm(h, f"norm_attn_{i}"))
            mlp = FeedForward(self.dtype, name=f"mlp_{i}")
            h = h + mlp(layers.layer_norm(h, f"norm_mlp_{i}"))
        return layers.layer_norm(h, "norm_out")
