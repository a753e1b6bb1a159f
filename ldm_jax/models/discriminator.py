"""The patch discriminator of pix2pix (Isola et al., 2017), as VQGAN trains it."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from ldm_jax.models import layers

normal = nn.initializers.normal(0.02)


def around_one(rng, shape, dtype=jnp.float32):
    return 1 + 0.02 * jax.random.normal(rng, shape, dtype)


class PatchDiscriminator(nn.Module):
    """Picture [B, H, W, 3] -> logits [B, h', w', 1], one per overlapping patch.

    `depth` is the originals' n_layers: convolutions of stride 2, then two of
    stride 1. BatchNorm takes the statistics of the batch it is given: call it
    for real and for fake pictures separately. The running averages go to the
    mutable collection "batch_stats" and are never read in training.
    """

    channels: int = 64
    depth: int = 3
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

        h = nn.leaky_relu(conv(x, self.channels, "conv_0", 2, True), 0.2)
        for i in range(1, self.depth + 1):
            stride = 2 if i < self.depth else 1
            h = conv(h, self.channels * min(2**i, 8), f"conv_{i}", stride, False)
            h = nn.BatchNorm(
                use_running_average=False,
                momentum=0.9,
                epsilon=1e-5,
                scale_init=around_one,
                dtype=jnp.float32,
                name=f"norm_{i}",
            )(h)
            h = nn.leaky_relu(h, 0.2)
        return conv(h, 1, "logits", 1, True).astype(jnp.float32)
