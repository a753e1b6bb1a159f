"""The patch discriminator of pix2pix (Isola et al., 2017), as VQGAN trains it."""

import flax.linen as nn
import jax
from jax import lax
import jax.numpy as jnp

from ldm_jax.models import layers

normal = nn.initializers.normal(0.02)


def around_one(rng, shape, dtype=jnp.float32):
    return 1 + 0.02 * jax.random.normal(rng, shape, dtype)


class ActNorm(nn.Module):
    """scale * (x + loc), which the first batch sets so that it leaves normalised.

    Glow's (Kingma & Dhariwal, 2018) with VQGAN's numbers. What that batch adds to the
    two parameters is kept in "batch_stats", where zeros mean that none was seen yet:
    the parameters and their gradients are the originals', which overwrite them.
    """

    @nn.compact
    def __call__(self, x):
        width = x.shape[-1:]
        if x.size < 2 * x.shape[-1]:
            raise ValueError(f"ActNorm needs two values in a channel, got {x.shape}")
        loc = self.param("loc", nn.initializers.zeros, width)
        scale = self.param("scale", nn.initializers.ones, width)
        seen = self.variable("batch_stats", "initialized", jnp.zeros, (), bool)
        added_loc = self.variable("batch_stats", "loc", jnp.zeros, width)
        added_scale = self.variable("batch_stats", "scale", jnp.zeros, width)

        x = x.astype(jnp.float32)
        mean = jnp.mean(x, axis=(0, 1, 2))
        deviation = jnp.std(x, axis=(0, 1, 2), ddof=1)  # as torch's
        first = lax.stop_gradient((-mean - loc, 1 / (deviation + 1e-6) - scale))
        kept = added_loc.value, added_scale.value
        added = [jnp.where(seen.value, *pair) for pair in zip(kept, first, strict=True)]
        if not self.is_initializing():
            added_loc.value, added_scale.value = added
            seen.value = jnp.ones_like(seen.value)
        return (scale + added[1]) * (x + (loc + added[0]))


def batch_norm(x, name):
    """BatchNorm in float32 with the statistics of this batch, of all its devices."""
    return nn.BatchNorm(
        use_running_average=False,
        momentum=0.9,
        epsilon=1e-5,
        scale_init=around_one,
        dtype=jnp.float32,
        use_fast_variance=False,
        name=name,
    )(x)


def act_norm(x, name):
    return ActNorm(name=name)(x)


# Name -> (function of array and name, whether the convolution before it has a bias).
NORMS = {"batch": (batch_norm, False), "actnorm": (act_norm, True)}


def norm_of(name):
    """The row of NORMS; ValueError for another name."""
    if name not in NORMS:
        raise ValueError(f"no discriminator norm {name!r}; there are {sorted(NORMS)}")
    return NORMS[name]


class PatchDiscriminator(nn.Module):
    """Picture [B, H, W, 3] -> logits [B, h', w', 1], one per overlapping patch.

    `depth` is the originals' n_layers: convolutions of stride 2, then two of
    stride 1. `norm` is a key of NORMS. BatchNorm takes the statistics of the batch it
    is given: call it for real and for fake pictures separately; its running averages
    are never read in training. They, and what ActNorm took from the first batch, go
    to the mutable collection "batch_stats". Under jit a batch that is spread over
    devices is one batch.
    """

    channels: int = 64
    depth: int = 3
    norm: str = "batch"
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x):
        def conv(h, features, name, stride, bias):
            return nn.Conv(
                features,
                (4, 4),
                strides=stride,
                padding=layers.SAME,
                use_bias=bias,
                kernel_init=normal,
                bias_init=layers.torch_bias(4 * 4 * h.shape[-1]),
                dtype=self.dtype,
                name=name,
            )(h)

        norm, biased = norm_of(self.norm)
        h = nn.leaky_relu(conv(x, self.channels, "conv_0", 2, True), 0.2)
        for i in range(1, self.depth + 1):
            stride = 2 if i < self.depth else 1
            h = conv(h, self.channels * min(2**i, 8), f"conv_{i}", stride, biased)
            h = nn.leaky_relu(norm(h, f"norm_{i}"), 0.2)
        return conv(h, 1, "logits", 1, True).astype(jnp.float32)
