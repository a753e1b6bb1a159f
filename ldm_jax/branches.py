"""Control branches in a System: their nets, parameters, hints and how loud they are.

`section` is `config.control`; a branch is called as its hint is, which is its role in
the parameters.
"""

import jax
import jax.numpy as jnp

from ldm_jax import control, denoise
from ldm_jax.models import controlnet


def net(section, arch, factor):
    """The ControlNet for a UNet of that Arch; factor: picture pixels to a latent's."""
    return controlnet.ControlNet(
        arch, section.channels, factor, section.connections, section.lite
    )


def init(branch, rng, cond):
    """A branch's parameters, the trunk drawn; cond: that of one picture, or shapes."""
    told = jax.tree.map(
        lambda x: jnp.zeros(x.shape, x.dtype), (cond.context, cond.vector)
    )
    planes = 0 if cond.concat is None else cond.concat.shape[-1]
    side = 2 ** (len(branch.arch.mult) - 1)  # the smallest that all levels halve
    z_t = jnp.zeros((1, side, side, branch.arch.out_channels + planes))
    hint = jnp.zeros((1, side * branch.factor, side * branch.factor, 3))
    return branch.init(rng, z_t, jnp.zeros(1), hint, *told)["params"]


def shapes(section, size):
    """{name in a batch: (shape, dtype)} of the hints of pictures of that size."""
    return {control.key(name): ((size, size, 3), "uint8") for name in section.hints}


def hinted(section, arch, cond, batch):
    """The Cond with those hints that the batch has."""
    there = [name for name in section.hints if control.key(name) in batch]
    if not there:
        return cond
    hints = {name: batch[control.key(name)] / 255.0 for name in there}
    cond = cond.replace(hints=hints)
    if not section.only_mid:
        return cond
    loud = control.strengths(arch.mult, arch.blocks, only_mid=True)
    return denoise.heard(cond, dict.fromkeys(there, loud), "told")


def loudness(branch, params, z_t, t, cond):
    """{"residual_NAME_00": [B], ...}: root mean squares of what each branch adds."""
    found = {}
    for name in cond.hints or {}:
        for i, x in enumerate(denoise.residuals(branch, name)(params, z_t, t, cond)):
            rms = jnp.sqrt(jnp.mean(jnp.square(x.astype(jnp.float32)), axis=(1, 2, 3)))
            found[f"residual_{name}_{i:02}"] = rms
    return found
