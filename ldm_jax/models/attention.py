"""Attention: the function `attend`, and the two blocks that call it.

`attend` is a seam: every block takes it as a field, so that cross-frame
attention or a fused kernel is another function and not another network.
"""

from collections.abc import Callable

from einops import rearrange
import flax.linen as nn
from jax import lax
import jax.numpy as jnp
import numpy as np

from ldm_jax.models import layers

CHUNK = 1024  # queries at once; bounds the memory of the scores


def causal(q, k, v):
    """`attend` in which a token sees itself and those before it: L and M are equal."""
    seen = jnp.tril(jnp.ones((q.shape[1], k.shape[1]), bool))
    return _attend(q, k, v, seen)


def attend(q, k, v):
    """Softmax attention: [B, L, H, D], [B, M, H, D] twice -> [B, L, H, D].

    Scores and softmax are float32. More than `CHUNK` queries go in chunks, which
    costs no time and keeps the scores from filling the memory; what remains of them
    goes last.
    """
    length = q.shape[1]
    if length <= CHUNK:
        return _attend(q, k, v)
    whole = length - length % CHUNK
    chunks = rearrange(q[:, :whole], "b (n l) h d -> n b l h d", l=CHUNK)
    out = lax.map(lambda chunk: _attend(chunk, k, v), chunks)
    out = rearrange(out, "n b l h d -> b (n l) h d")
    if whole == length:
        return out
    return jnp.concatenate([out, _attend(q[:, whole:], k, v)], axis=1)


def _attend(q, k, v, seen=None):
    # Heads next to the batch and the division after the product with v: on CPU
    # this is twice as fast as jax.nn.dot_product_attention at 4096 tokens.
    q, k, v = (rearrange(x, "b l h d -> b h l d") for x in (q, k, v))
    q = q * q.shape[-1] ** -0.5
    scores = jnp.einsum("bhld,bhmd->bhlm", q, k, preferred_element_type=jnp.float32)
    if seen is not None:
        scores = jnp.where(seen, scores, -jnp.inf)
    peak = lax.stop_gradient(jnp.max(scores, axis=-1, keepdims=True))
    weights = jnp.exp(scores - peak)
    total = jnp.sum(weights, axis=-1, keepdims=True)
    out = jnp.einsum("bhlm,bhmd->bhld", weights.astype(v.dtype), v) / total
    return rearrange(out, "b h l d -> b l h d").astype(v.dtype)


class AttentionBlock(nn.Module):
    """Self-attention over the pixels of a picture, plus a skip.

    The UNet's of the unconditional models (epsilon 1e-5, `zero`), and with one
    head, epsilon 1e-6 and no zero start the autoencoder's. The channels of `qkv`
    are laid out [head][q | k | v][dim], as in the originals' "legacy" order.
    """

    heads: int = 1
    groups: int = 32
    epsilon: float = 1e-5
    zero: bool = True
    dtype: jnp.dtype = jnp.float32
    attend: Callable = attend

    @nn.compact
    def __call__(self, x):  # [B, H, W, C]
        height, width, features = x.shape[1:]
        h = layers.norm(x, "norm", groups=self.groups, epsilon=self.epsilon)
        h = rearrange(h, "b h w c -> b (h w) c")
        h = layers.dense(h, 3 * features, "qkv", dtype=self.dtype)
        h = rearrange(h, "b l (n x d) -> x b l n d", n=self.heads, x=3)
        h = rearrange(self.attend(*h), "b l n d -> b l (n d)")
        h = layers.dense(h, features, "proj_out", zero=self.zero, dtype=self.dtype)
        return x + rearrange(h, "b (h w) c -> b h w c", h=height, w=width)


class Attention(nn.Module):
    """Multi-head attention from x to a context (to itself where that is None)."""

    heads: int
    head_channels: int
    dtype: jnp.dtype = jnp.float32
    attend: Callable = attend

    @nn.compact
    def __call__(self, x, context=None):  # [B, L, C], [B, M, D]
        context = x if context is None else context

        def project(tokens, name):
            width = self.heads * self.head_channels
            tokens = layers.dense(tokens, width, name, bias=False, dtype=self.dtype)
            return rearrange(tokens, "b l (n d) -> b l n d", n=self.heads)

        h = self.attend(project(x, "q"), project(context, "k"), project(context, "v"))
        h = rearrange(h, "b l n d -> b l (n d)")
        return layers.dense(h, x.shape[-1], "out", dtype=self.dtype)


class GatedFeedForward(nn.Module):
    """GEGLU (Shazeer, 2020): one projection to value and gate, times 4, and back."""

    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x):  # [B, L, C]
        features = x.shape[-1]
        h = layers.dense(x, 8 * features, "proj_in", dtype=self.dtype)
        h, gate = jnp.split(h, 2, axis=-1)
        return layers.dense(
            h * layers.gelu(gate), features, "proj_out", dtype=self.dtype
        )


class TransformerBlock(nn.Module):
    """Self-attention, cross-attention and feed-forward, each on a LayerNorm."""

    heads: int
    head_channels: int
    dtype: jnp.dtype = jnp.float32
    attend: Callable = attend

    @nn.compact
    def __call__(self, x, context):  # [B, L, C], [B, M, D] or None
        def attention(name, attend_):
            return Attention(
                self.heads, self.head_channels, self.dtype, attend_, name=name
            )

        x = x + attention("self", self.attend)(layers.layer_norm(x, "norm_self"))
        h = layers.layer_norm(x, "norm_cross")
        x = x + attention("cross", attend)(h, context)
        h = layers.layer_norm(x, "norm_mlp")
        return x + GatedFeedForward(self.dtype, name="mlp")(h)


def positions(height, width, features):
    """Where each pixel is: float32 [height * width, features], features / 4 >= 1.

    Sines and cosines of y and of x, as of the positions in a text (Vaswani et al.,
    2017), but as shares of the picture, so that its middle is the middle at any size.
    The slowest cosine runs from 1 at one edge to -1 at the other.
    """
    frequencies = np.pi * np.geomspace(1, 8, features // 4)

    def along(length):
        angles = (np.arange(length) + 0.5)[:, None] / length * frequencies
        return np.concatenate([np.cos(angles), np.sin(angles)], axis=-1)

    down, across = along(height), along(width)
    both = np.concatenate(
        [np.repeat(down, width, axis=0), np.tile(across, (height, 1))], axis=-1
    )
    return both.astype(np.float32)


class SpatialTransformer(nn.Module):
    """`depth` transformer blocks over the pixels of a picture, plus a skip.

    The projections are 1x1 convolutions in LDM and SD1 and linear layers in SD2
    and SDXL: the same arithmetic, so here always the latter. GroupNorm's epsilon
    is 1e-6, unlike in the rest of the UNet. With `positions` the pixels are told where
    they are, which the originals leave to the zeros around the convolutions.
    """

    depth: int
    heads: int
    head_channels: int
    groups: int = 32
    positions: bool = False
    dtype: jnp.dtype = jnp.float32
    attend: Callable = attend
    block: type[nn.Module] = TransformerBlock

    @nn.compact
    def __call__(self, x, context):  # [B, H, W, C], [B, M, D] or None
        height, width, features = x.shape[1:]
        inner = self.heads * self.head_channels
        h = layers.norm(x, "norm", groups=self.groups, epsilon=1e-6)
        h = rearrange(h, "b h w c -> b (h w) c")
        h = layers.dense(h, inner, "proj_in", dtype=self.dtype)
        if self.positions:
            h = h + positions(height, width, inner).astype(self.dtype)
        for i in range(self.depth):
            h = self.block(
                self.heads,
                self.head_channels,
                self.dtype,
                self.attend,
                name=f"block_{i}",
            )(h, context)
        h = layers.dense(h, features, "proj_out", zero=True, dtype=self.dtype)
        return x + rearrange(h, "b (h w) c -> b h w c", h=height, w=width)
