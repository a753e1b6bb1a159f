"""ControlNet (Zhang et al., 2023): a second trunk that listens to a picture.

Its outputs are added to the skips and the middle of a UNet. They pass through
convolutions that start as zero, so that a new branch changes nothing at first.
"""

import flax.linen as nn
import jax.numpy as jnp

from ldm_jax import names
from ldm_jax.models import layers
from ldm_jax.models import unet as unet_lib

# How what connects a branch starts. "gaussian" is the paper's ablation (figure 8): what
# the trunk was copied from is disturbed from the first step.
CONNECTIONS = {
    "zero": layers.zeros,
    "gaussian": nn.initializers.variance_scaling(1.0, "fan_in", "normal"),
}


def hint_convs(channels, factor):
    """[(features, stride)] of the hint encoder's convolutions, all but the last.

    Two at each of the levels `channels`, the second one to the width of the next and,
    until the hint is `factor` times smaller, of stride 2. (16, 32, 96, 256) and 8 are
    the released net; the paper describes another one.
    """
    convs = [(channels[0], 1)]
    for level, wider in enumerate(channels[1:], 1):
        convs += [(channels[level - 1], 1), (wider, 2 if 2**level <= factor else 1)]
    return convs


class ControlNet(nn.Module):
    """What is added to a UNet because of a hint: for each skip, then the middle."""

    arch: unet_lib.Arch
    channels: tuple[int, ...] = (16, 32, 96, 256)  # of the hint encoder, by level
    factor: int = 8  # hint pixels to a latent's
    connections: str = "zero"  # a key of CONNECTIONS
    lite: bool = False  # one convolution in place of each block of the trunk

    @nn.compact
    def __call__(self, z, t, hint, context=None, vector=None, train=False):
        """hint [B, factor h, factor w, 3] in [0, 1]; the rest as of `unet.Trunk`."""
        guide = hint.astype(jnp.dtype(self.arch.dtype))
        for i, (features, stride) in enumerate(hint_convs(self.channels, self.factor)):
            guide = self.conv(guide, features, f"hint_{i}", stride)
            guide = nn.silu(guide)
        guide = self.connect(guide, self.arch.channels, "hint_out", kernel=3)

        if self.lite:
            h, skips = self.light(z, guide)
        else:
            trunk = unet_lib.Trunk(self.arch, name="trunk")
            h, skips, _ = trunk(z, t, context, vector, guide, train)
        names_of_outputs = [f"zero_{i}" for i in range(len(skips))] + ["zero_mid"]
        return [
            self.connect(x, x.shape[-1], name, kernel=1)
            for x, name in zip([*skips, h], names_of_outputs, strict=True)
        ]

    def light(self, z, guide):
        """(h, skips) shaped as those of a trunk: ControlNet-lite, same figure."""
        arch = self.arch
        z = z.astype(jnp.dtype(arch.dtype))
        h = self.conv(z, arch.channels, "light_in") + guide
        skips = [h]
        for level, factor in enumerate(arch.mult):
            width = arch.channels * factor
            for i in range(arch.blocks):
                h = self.conv(nn.silu(h), width, f"light_{level}_{i}")
                skips.append(h)
            if level < len(arch.mult) - 1:
                h = self.conv(nn.silu(h), width, f"light_{level}_down", stride=2)
                skips.append(h)
        return self.conv(nn.silu(h), h.shape[-1], "light_mid"), skips

    def conv(self, x, features, name, stride=1):
        dtype = jnp.dtype(self.arch.dtype)
        return layers.conv(x, features, name, stride=stride, dtype=dtype)

    def connect(self, x, features, name, kernel):
        """A convolution through which the branch, or the hint in it, is heard."""
        return nn.Conv(
            features,
            (kernel, kernel),
            padding=kernel // 2,
            kernel_init=names.pick(CONNECTIONS, self.connections),
            bias_init=layers.zeros,
            dtype=jnp.dtype(self.arch.dtype),
            name=name,
        )(x)


def copied(fresh, unet):
    """A new branch's parameters, with the trunk of the UNet that it is to control."""
    return {**fresh, "trunk": unet["trunk"]} if "trunk" in fresh else fresh
