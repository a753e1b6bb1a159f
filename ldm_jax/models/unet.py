"""The denoising UNet of latent diffusion, in two halves.

`Trunk` is the half that a ControlNet copies: stem, down path and middle.
`UNet` is a trunk and the up path. The architecture and its numerics are those
of the LDM code (Rombach et al., 2022), so that released weights load.
"""

import dataclasses

import flax.linen as nn
import jax.numpy as jnp

from ldm_jax.models import attention as attention_lib
from ldm_jax.models import layers


@dataclasses.dataclass(frozen=True)
class Arch:
    """The shape of a UNet: what `config.unet` holds, and what both halves read."""

    out_channels: int
    channels: int  # width of level 0; level i has channels * mult[i]
    mult: tuple[int, ...]
    blocks: int  # residual blocks per level (the up path has one more)
    depths: tuple[int, ...]  # attention blocks after each residual block, by level
    mid_depth: int  # the same in the middle, which is never without
    attention: str  # "transformer" (takes a context) or "plain" (AttentionBlock)
    positions: bool  # transformers are told where each pixel is
    heads: int  # attention heads, or 0: as head_channels says
    head_channels: int  # channels per head, or 0: as heads says
    scale_shift: bool  # the time embedding scales as well as shifts
    resblock_updown: bool  # resample inside residual blocks, not by convolutions
    dropout: float
    groups: int  # of GroupNorm
    remat: bool  # compute activations again in the backward pass: less memory
    dtype: str  # of the arithmetic; parameters stay float32

    def res_block(self, features, name, resample=None):
        # `train` is positional and static: remat breaks on a keyword.
        block = layers.ResBlock
        if self.remat:
            block = nn.remat(block, static_argnums=(3,))
        return block(
            features,
            groups=self.groups,
            dropout=self.dropout,
            scale_shift=self.scale_shift,
            resample=resample,
            dtype=jnp.dtype(self.dtype),
            name=name,
        )

    def attend(self, h, context, depth, name):
        """`depth` attention blocks on h: [B, H, W, C] -> [B, H, W, C]."""
        if depth == 0:
            return h
        heads = self.heads or h.shape[-1] // self.head_channels
        shared = dict(groups=self.groups, dtype=jnp.dtype(self.dtype), name=name)
        if self.attention == "plain":
            block = attention_lib.AttentionBlock
            if self.remat:
                block = nn.remat(block)
            return block(heads, **shared)(h)
        block = attention_lib.SpatialTransformer
        if self.remat:
            block = nn.remat(block)
        shared |= dict(positions=self.positions)
        return block(depth, heads, h.shape[-1] // heads, **shared)(h, context)


class Trunk(nn.Module):
    """Stem, down path and middle: z_t -> (h, skips, temb)."""

    arch: Arch

    @nn.compact
    def __call__(self, z, t, context, vector, guide=None, train=False):
        """z [B, h, w, c], t [B], context [B, L, D] or None, vector [B, V] or None.

        `guide` ([B, h, w, channels], a ControlNet's encoded hint) is added after
        the first convolution.
        """
        arch, dtype = self.arch, jnp.dtype(self.arch.dtype)
        temb = self.embed(t, vector)
        h = layers.conv(z.astype(dtype), arch.channels, "conv_in", dtype=dtype)
        if guide is not None:
            h = h + guide
        skips = [h]

        for level, factor in enumerate(arch.mult):
            width, depth = arch.channels * factor, arch.depths[level]
            for i in range(arch.blocks):
                h = arch.res_block(width, f"down_{level}_res_{i}")(h, temb, train)
                h = arch.attend(h, context, depth, f"down_{level}_attn_{i}")
                skips.append(h)
            if level < len(arch.mult) - 1:
                h = self.down(h, temb, f"down_{level}_resample", train)
                skips.append(h)

        h = arch.res_block(h.shape[-1], "mid_res_0")(h, temb, train)
        h = arch.attend(h, context, arch.mid_depth, "mid_attn")
        h = arch.res_block(h.shape[-1], "mid_res_1")(h, temb, train)
        return h, skips, temb

    def embed(self, t, vector):
        """The time embedding, [B, 4 * channels]; `vector` is embedded and added."""
        width, dtype = 4 * self.arch.channels, jnp.dtype(self.arch.dtype)

        def mlp(x, name):
            x = nn.silu(layers.dense(x, width, f"{name}_0", dtype=dtype))
            return layers.dense(x, width, f"{name}_1", dtype=dtype)

        temb = mlp(layers.timestep_embedding(t, self.arch.channels), "temb")
        return temb if vector is None else temb + mlp(vector, "vector")

    def down(self, h, temb, name, train):
        width, dtype = h.shape[-1], jnp.dtype(self.arch.dtype)
        if self.arch.resblock_updown:
            return self.arch.res_block(width, name, "down")(h, temb, train)
        return layers.conv(h, width, name, stride=2, dtype=dtype)


class UNet(nn.Module):
    """z_t [B, h, w, c] -> the prediction [B, h, w, out_channels], float32."""

    arch: Arch

    @nn.compact
    def __call__(self, z, t, context=None, vector=None, residuals=None, train=False):
        """Arguments as of `Trunk`; `residuals` are added: one per skip, then middle."""
        arch, dtype = self.arch, jnp.dtype(self.arch.dtype)
        trunk = Trunk(arch, name="trunk")
        h, skips, temb = trunk(z, t, context, vector, None, train)
        if residuals is not None:
            *on_skips, on_middle = residuals
            skips = [s + r for s, r in zip(skips, on_skips, strict=True)]
            h = h + on_middle

        for level in reversed(range(len(arch.mult))):
            width, depth = arch.channels * arch.mult[level], arch.depths[level]
            for i in range(arch.blocks + 1):
                h = jnp.concatenate([h, skips.pop()], axis=-1)
                h = arch.res_block(width, f"up_{level}_res_{i}")(h, temb, train)
                h = arch.attend(h, context, depth, f"up_{level}_attn_{i}")
            if level > 0:
                h = self.up(h, temb, f"up_{level}_resample", train)

        h = nn.silu(layers.norm(h, "norm_out", groups=arch.groups, epsilon=1e-5))
        h = layers.conv(h, arch.out_channels, "conv_out", zero=True, dtype=dtype)
        return h.astype(jnp.float32)

    def up(self, h, temb, name, train):
        width, dtype = h.shape[-1], jnp.dtype(self.arch.dtype)
        if self.arch.resblock_updown:
            return self.arch.res_block(width, name, "up")(h, temb, train)
        return layers.conv(layers.nearest_up(h), width, name, dtype=dtype)
