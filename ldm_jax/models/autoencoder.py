"""The first stages: autoencoders with a Gaussian latent (KL) or a codebook (VQ).

Encoder and decoder are those of VQGAN and LDM (Esser et al., 2021; Rombach et
al., 2022), so that released weights load.
"""

import dataclasses

from flax import struct
import flax.linen as nn
import jax
import jax.numpy as jnp

from ldm_jax.models import attention, layers, quantize

EPSILON = 1e-6  # of every GroupNorm here


@dataclasses.dataclass(frozen=True)
class Arch:
    """The shape of an autoencoder."""

    channels: int  # width of the finest level; level i has channels * mult[i]
    mult: tuple[int, ...]
    blocks: int  # residual blocks per level (the decoder has one more)
    attention: tuple[int, ...]  # 1 where a level attends after its blocks
    mid_attention: bool
    z_channels: int  # of the network's bottleneck
    embed_channels: int  # of the latent that diffusion sees
    codes: int  # in the codebook; 0 where the latent is a Gaussian
    dropout: float
    groups: int  # of GroupNorm
    dtype: str  # of the arithmetic; parameters stay float32

    @property
    def factor(self):
        """Pixels of the picture along one of the latent."""
        return 2 ** (len(self.mult) - 1)

    def res_block(self, features, name):
        return layers.ResBlock(
            features,
            groups=self.groups,
            epsilon=EPSILON,
            dropout=self.dropout,
            zero=False,
            dtype=jnp.dtype(self.dtype),
            name=name,
        )

    def attend(self, h, present, name):
        if not present:
            return h
        return attention.AttentionBlock(
            groups=self.groups,
            epsilon=EPSILON,
            zero=False,
            dtype=jnp.dtype(self.dtype),
            name=name,
        )(h)

    def middle(self, h, train):
        h = self.res_block(h.shape[-1], "mid_res_0")(h, None, train)
        h = self.attend(h, self.mid_attention, "mid_attn")
        return self.res_block(h.shape[-1], "mid_res_1")(h, None, train)

    def out(self, h, features):
        h = layers.norm(h, "norm_out", groups=self.groups, epsilon=EPSILON)
        return layers.conv(nn.silu(h), features, "conv_out", dtype=self.dtype)


class Encoder(nn.Module):
    """Picture [B, H, W, 3] -> [B, H / f, W / f, c].

    c is z_channels with a codebook; a Gaussian's mean and log-variance are twice that.
    """

    arch: Arch

    @nn.compact
    def __call__(self, x, train=False):
        arch = self.arch
        h = layers.conv(x, arch.channels, "conv_in", dtype=arch.dtype)
        for level, factor in enumerate(arch.mult):
            for i in range(arch.blocks):
                width = arch.channels * factor
                h = arch.res_block(width, f"down_{level}_res_{i}")(h, None, train)
                h = arch.attend(h, arch.attention[level], f"down_{level}_attn_{i}")
            if level < len(arch.mult) - 1:
                # One row and column of zeros at the far sides only, unlike the UNet.
                h = layers.conv(
                    h,
                    h.shape[-1],
                    f"down_{level}_resample",
                    stride=2,
                    padding=((0, 1), (0, 1)),
                    dtype=arch.dtype,
                )
        outputs = 1 if arch.codes else 2
        return arch.out(arch.middle(h, train), outputs * arch.z_channels)


class Decoder(nn.Module):
    """Latent [B, h, w, z_channels] -> picture [B, h * f, w * f, 3], unbounded."""

    arch: Arch

    @nn.compact
    def __call__(self, z, train=False):
        arch = self.arch
        width = arch.channels * arch.mult[-1]
        h = layers.conv(z, width, "conv_in", dtype=arch.dtype)
        h = arch.middle(h, train)
        for level in reversed(range(len(arch.mult))):
            width = arch.channels * arch.mult[level]
            for i in range(arch.blocks + 1):
                h = arch.res_block(width, f"up_{level}_res_{i}")(h, None, train)
                h = arch.attend(h, arch.attention[level], f"up_{level}_attn_{i}")
            if level > 0:
                h = layers.nearest_up(h)
                h = layers.conv(h, width, f"up_{level}_resample", dtype=arch.dtype)
        return arch.out(h, 3)


@struct.dataclass
class Posterior:
    """The diagonal Gaussian q(z | x): mean and log-variance [B, h, w, c]."""

    mean: jax.Array
    logvar: jax.Array

    def sample(self, noise):
        """mean + std * noise; noise [B, h, w, c] is standard normal."""
        return self.mean + jnp.exp(0.5 * self.logvar) * noise

    def kl(self):
        """KL(q || N(0, I)) summed over each latent: [B], in nats."""
        terms = self.mean**2 + jnp.exp(self.logvar) - 1 - self.logvar
        return 0.5 * jnp.sum(terms, axis=(1, 2, 3))


@struct.dataclass
class Point:
    """The latent of an encoder without noise, where KL models have a Posterior."""

    mean: jax.Array

    def sample(self, noise):
        """The latent itself."""
        del noise
        return self.mean


def pointwise(fan_in, features, dtype):
    """A 1x1 convolution, as a linear layer."""
    return nn.Dense(
        features,
        kernel_init=layers.torch_init,
        bias_init=layers.torch_bias(fan_in),
        dtype=dtype,
    )


class Autoencoder(nn.Module):
    """Encoder and decoder with a Gaussian between them, or with a codebook.

    `encode` gives an unscaled latent and `decode` a picture. With a codebook diffusion
    sees the latent before it is quantised, and `decode` quantises: that is LDM's
    VQModelInterface, and every released VQ model works so.
    """

    arch: Arch

    def setup(self):
        arch = self.arch
        z, latent = arch.z_channels, arch.embed_channels
        outputs = 1 if arch.codes else 2
        self.encoder = Encoder(arch)
        self.decoder = Decoder(arch)
        self.quant_conv = pointwise(outputs * z, outputs * latent, arch.dtype)
        self.post_quant_conv = pointwise(latent, z, arch.dtype)
        if arch.codes:
            self.codebook = quantize.Codebook(arch.codes, latent)

    def __call__(self, x, train=False):  # touches every parameter: for `init`
        return self.decode(self.encode(x, train).mean, train)

    def encode(self, x, train=False):
        """x [B, H, W, 3] in [-1, 1] -> Posterior or Point of [B, H / f, W / f, c]."""
        moments = self.quant_conv(self.encoder(x, train)).astype(jnp.float32)
        if self.arch.codes:
            return Point(moments)
        mean, logvar = jnp.split(moments, 2, axis=-1)
        return Posterior(mean, jnp.clip(logvar, -30.0, 20.0))

    def decode(self, z, train=False):
        """z [B, h, w, c] -> x [B, h * f, w * f, 3], float32, nominally in [-1, 1]."""
        return self.render(self.codebook(z) if self.arch.codes else z, train)

    def render(self, z, train=False):
        """`decode` without a codebook."""
        return self.decoder(self.post_quant_conv(z), train).astype(jnp.float32)

    def quantise(self, z):
        """(quantised [B, h, w, c], indices int32 [B, h, w]) of a latent."""
        indices = self.codebook.indices(z)
        return self.codebook.lookup(indices), indices

    def encode_indices(self, x):
        """x [B, H, W, 3] -> the codes of its latent, int32 [B, H / f, W / f]."""
        return self.codebook.indices(self.encode(x).mean)

    def decode_indices(self, indices):
        """int32 [B, h, w] -> x [B, h * f, w * f, 3]."""
        return self.render(self.codebook.lookup(indices))


class Identity(nn.Module):
    """No first stage: f = 1, diffusion sees the picture. It has no parameters."""

    arch: Arch

    def __call__(self, x, train=False):
        return x

    def encode(self, x, train=False):
        """The picture as its own latent."""
        return Point(x)

    def decode(self, z, train=False):
        """The latent, which is a picture."""
        return z


FIRST_STAGES = {"kl": Autoencoder, "vq": Autoencoder, "identity": Identity}
