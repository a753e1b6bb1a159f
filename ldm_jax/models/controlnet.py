"""ControlNet (Zhang et al., 2023): a second trunk that listens to a picture.

Its outputs are added to the skips and the middle of a UNet. They pass through
convolutions that start as zero, so that a new branch changes nothing at first.
"""

import flax.linen as nn
import jax.numpy as jnp

from ldm_jax.models import layers
from ldm_jax.models import unet as unet_lib

# Channels and stride of the hint encoder's convolutions; the last one, to the width
# of the trunk, starts as zero. (The paper describes another net than the released one.)
HINT = ((16, 1), (16, 1), (32, 2), (32, 1), (96, 2), (96, 1), (256, 2))


class ControlNet(nn.Module):
    """What is added to a UNet because of a hint: for each skip, then the middle."""

    arch: unet_lib.Arch

    @nn.compact
    def __call__(self, z, t, hint, context=None, vector=None, train=False):
        """hint [B, 8h, 8w, 3] in [0, 1]; the rest as of `unet.Trunk`."""
        arch, dtype = self.arch, jnp.dtype(self.arch.dtype)
        guide = hint.astype(dtype)
        for i, (features, stride) in enumerate(HINT):
            guide = layers.conv(
                guide, features, f"hint_{i}", stride=stride, dtype=dtype
            )
            guide = nn.silu(guide)
        guide = layers.conv(guide, arch.channels, "hint_out", zero=True, dtype=dtype)

        trunk = unet_lib.Trunk(arch, name="trunk")
        h, skips, _ = trunk(z, t, context, vector, guide, train)
        names = [f"zero_{i}" for i in range(len(skips))] + ["zero_mid"]
        return [
            layers.conv(x, x.shape[-1], name, kernel=1, zero=True, dtype=dtype)
            for x, name in zip([*skips, h], names, strict=True)
        ]
