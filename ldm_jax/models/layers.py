"""The blocks that the UNet and the autoencoder share. All pictures are NHWC.

The functions that create parameters (`conv`, `dense`, `norm`) are called inside
a module's `@nn.compact` method and take the parameter's name: names are the
checkpoint format. Weights start as torch starts them, because the originals'
learning rates assume it; Flax's defaults differ.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

# U(-1 / sqrt(fan_in), 1 / sqrt(fan_in)): torch's kaiming_uniform(a=sqrt(5)).
torch_init = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
zeros = nn.initializers.zeros

SAME = ((1, 1), (1, 1))  # of a 3x3 kernel; "SAME" pads (0, 1) at stride 2


def torch_bias(fan_in):
    """Torch's initialiser for the bias of a layer with `fan_in` inputs."""
    bound = 1 / np.sqrt(fan_in)

    def init(rng, shape, dtype=jnp.float32):
        return jax.random.uniform(rng, shape, dtype, -bound, bound)

    return init


def conv(x, features, name, *, kernel=3, stride=1, padding=SAME, zero=False, dtype):
    """Convolution [B, H, W, C] -> [B, H', W', features]; `zero` starts it silent."""
    fan_in = kernel * kernel * x.shape[-1]
    return nn.Conv(
        features,
        (kernel, kernel),
        strides=stride,
        padding=padding if kernel > 1 else "VALID",
        kernel_init=zeros if zero else torch_init,
        bias_init=zeros if zero else torch_bias(fan_in),
        dtype=dtype,
        name=name,
    )(x)


def dense(x, features, name, *, bias=True, zero=False, dtype):
    """Linear layer on the last axis; a 1x1 convolution on pictures."""
    return nn.Dense(
        features,
        use_bias=bias,
        kernel_init=zeros if zero else torch_init,
        bias_init=zeros if zero else torch_bias(x.shape[-1]),
        dtype=dtype,
        name=name,
    )(x)


def norm(x, name, *, groups, epsilon):
    """GroupNorm in float32. UNet blocks use epsilon 1e-5, the rest 1e-6."""
    return nn.GroupNorm(
        groups, epsilon=epsilon, dtype=jnp.float32, use_fast_variance=False, name=name
    )(x)


# LayerNorm in float32, epsilon 1e-5 as in torch (Flax's default is 1e-6).
LayerNorm = functools.partial(
    nn.LayerNorm, epsilon=1e-5, dtype=jnp.float32, use_fast_variance=False
)


def layer_norm(x, name):
    """A LayerNorm that is applied once."""
    return LayerNorm(name=name)(x)


def gelu(x):
    """The exact GELU; JAX's default is the tanh approximation."""
    return jax.nn.gelu(x, approximate=False)


def nearest_up(x):
    """[B, H, W, C] -> [B, 2H, 2W, C], every pixel repeated."""
    # Not jnp.repeat: that gathers, and its gradient scatters.
    batch, height, width, features = x.shape
    x = jnp.broadcast_to(x[:, :, None, :, None], (batch, height, 2, width, 2, features))
    return x.reshape(batch, 2 * height, 2 * width, features)


def mean_down(x):
    """[B, 2H, 2W, C] -> [B, H, W, C], the mean of each 2x2 block."""
    return nn.avg_pool(x, (2, 2), strides=(2, 2))


def timestep_embedding(t, dim, max_period=10_000):
    """Sinusoids of t: [B] -> [B, dim], float32, cosines first.

    Vaswani et al. (2017) with the order and divisor of the LDM code: frequencies
    max_period^(-i / half) for i in 0 .. half - 1, and a zero column if dim is odd.
    """
    half = dim // 2
    exponent = jnp.arange(half, dtype=jnp.float32) / half
    angles = t.astype(jnp.float32)[:, None] * jnp.exp(-np.log(max_period) * exponent)
    embedding = jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)
    return jnp.pad(embedding, ((0, 0), (0, dim % 2)))


RESAMPLE = {"up": nearest_up, "down": mean_down}


class ResBlock(nn.Module):
    """GroupNorm-SiLU-Conv twice, plus a skip; the time embedding shifts between.

    The one residual block of all networks: the UNet's has a time embedding and
    a last convolution that starts as zero; the autoencoder's has neither.
    """

    features: int
    groups: int = 32
    epsilon: float = 1e-5
    dropout: float = 0.0
    scale_shift: bool = False  # temb scales as well as shifts, after the norm
    resample: str | None = None  # "up" or "down" inside the block, both branches
    zero: bool = True  # the last convolution starts as zero
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x, temb=None, train=False):  # [B, H, W, C], [B, D]
        def normed(h, name):
            return norm(h, name, groups=self.groups, epsilon=self.epsilon)

        h = nn.silu(normed(x, "norm_in"))
        if self.resample is not None:
            h, x = RESAMPLE[self.resample](h), RESAMPLE[self.resample](x)
        h = conv(h, self.features, "conv_in", dtype=self.dtype)

        if temb is None:
            h = normed(h, "norm_out")
        else:
            width = self.features * (2 if self.scale_shift else 1)
            emb = dense(nn.silu(temb), width, "temb", dtype=self.dtype)[:, None, None]
            if self.scale_shift:
                scale, shift = jnp.split(emb, 2, axis=-1)
                h = normed(h, "norm_out") * (1 + scale) + shift
            else:
                h = normed(h + emb, "norm_out")

        h = nn.Dropout(self.dropout, deterministic=not train)(nn.silu(h))
        h = conv(h, self.features, "conv_out", zero=self.zero, dtype=self.dtype)
        if x.shape[-1] != self.features:
            x = conv(x, self.features, "skip", kernel=1, dtype=self.dtype)
        return x + h
