"""One picture of any size through a first stage: whole, in patches, or in strips."""

import dataclasses
import pathlib
import struct
import zlib

import flax.linen as nn
import jax
import numpy as np
from PIL import Image, ImageOps

from ldm_jax import names, patches, strips
from ldm_jax import system as system_lib
from ldm_jax.models import autoencoder

# What PIL raises on files that are no picture, or are damaged.
DAMAGE = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error)


@dataclasses.dataclass(frozen=True)
class Stage:
    """A first stage with its parameters on one device."""

    net: nn.Module
    arch: autoencoder.Arch
    params: dict


@dataclasses.dataclass(frozen=True)
class Patches:
    """Pixels of the picture: the side of a patch, and from one patch to the next.

    The originals take the same numbers in pixels of the picture to encode and of the
    latent to decode; here both ways have the same patches.
    """

    patch: int
    stride: int
    tie_breaker: bool = False  # of `patches.over`


def arch(config):
    """The shape of a config's first stage; ValueError where it has none."""
    if config.first_stage.kind == "identity":
        raise ValueError("this config has no first stage: its kind is 'identity'")
    return system_lib.arch_of_first_stage(config)


def stage(model):
    """The Stage of a generation.Model."""
    section, shape = model.config.first_stage, arch(model.config)
    net = names.pick(autoencoder.FIRST_STAGES, section.kind)(shape)
    params = jax.device_put(model.params["first_stage"], jax.local_devices()[0])
    return Stage(net, shape, params)


def read(path):
    """The picture in a file, upright, without transparency: uint8 [H, W, 3].

    Errors name the file: FileNotFoundError, OSError for what is no picture or damaged,
    ValueError for one of more than 8 bits a colour or beyond PIL's limit of size.
    """
    if not pathlib.Path(path).is_file():
        raise FileNotFoundError(f"no picture {path}")
    try:
        with Image.open(path) as opened:
            upright = ImageOps.exif_transpose(opened)
    except DAMAGE as error:
        raise OSError(f"{path} is no picture that can be read: {error}") from error
    except Image.DecompressionBombError as error:
        raise ValueError(f"{path} is too large: {error}") from error
    if upright.mode.startswith(("I", "F")):
        raise ValueError(
            f"{path} has more than 8 bits a colour (mode {upright.mode}): store it "
            "with 8"
        )
    return np.asarray(upright.convert("RGB"))


def grown(x, multiple):
    """x [B, H, W, C] with copies of its last row and column, to multiples of a number.

    The encoder sees them, too: a norm's statistics are those of the grown picture.
    """
    height, width = (-n % multiple for n in x.shape[1:3])
    return np.pad(x, ((0, 0), (0, height), (0, width), (0, 0)), mode="edge")


def restore(stage, x, mode, tiles=None, progress=strips.SILENT):
    """x [B, H, W, 3] encoded, by the posterior's mean, and decoded: the same shape.

    mode: "whole", "patch" (as `tiles`, a Patches, say) or "exact". A size that the
    factor does not divide is `grown` and the result cut. progress(total=n) makes bars.
    """
    run = names.pick(MODES, mode)
    height, width = x.shape[1:3]
    x = grown(np.asarray(x, np.float32), stage.arch.factor)
    return run(stage, x, tiles, progress)[:, :height, :width]


def _applied(stage, method):
    """A method of the network, compiled: array -> numpy."""

    @jax.jit
    def compiled(params, x):
        found = stage.net.apply({"params": params}, x, method=method)
        return found.mean if method == "encode" else found

    return lambda x: np.asarray(compiled(stage.params, x))


def _whole(stage, x, tiles, progress):
    del tiles, progress
    return _applied(stage, "decode")(_applied(stage, "encode")(x))


def _patch(stage, x, tiles, progress):
    f = stage.arch.factor
    size, ways = (tiles.patch, tiles.stride), {"tie_breaker": tiles.tie_breaker}
    encode, decode = (_applied(stage, method) for method in ("encode", "decode"))
    z = patches.over(encode, x, *size, down=f, progress=progress, **ways)
    latent = (n // f for n in size)
    return patches.over(decode, z, *latent, up=f, progress=progress, **ways)


def _exact(stage, x, tiles, progress):
    del tiles
    net = (stage.arch, stage.params)
    z = strips.encode(*net, x, progress=progress).mean
    return strips.decode(*net, z, progress=progress)


MODES = {"whole": _whole, "patch": _patch, "exact": _exact}
