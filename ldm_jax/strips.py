"""The first stage over a large picture at bounded memory, with the plain pass's result.

Activations lie on the host as strips of full width, and the network runs layer by layer
over them: a convolution sees one row of each neighbour, a GroupNorm has the statistics
of the whole picture, and attention the keys and values of every pixel. The device holds
a few strips (and those keys and values) at a time. The host holds at most two
activations of the finest level, or the one that the decoder enlarged for it: with the
released shapes in float32 8 bytes times Arch.channels for each pixel of the picture.
The process takes more: 7.4 GiB in all for 2048 x 2048 pixels, where that is 4.0.
"""

import dataclasses
import functools

from einops import rearrange
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import tqdm

from ldm_jax.models import attention, autoencoder, layers, quantize
from ldm_jax.weights import walks

PIXELS = 2**17  # of the picture in a strip; bounds the device's memory
SILENT = functools.partial(tqdm.tqdm, disable=True)  # a bar nobody sees
PASSES = {"res": 2, "attn": 2, "resample": 1}  # over the strips, for each block


@dataclasses.dataclass
class Strips:
    """An activation [B, H, W, C] in parts, top to bottom; a part used up is None."""

    parts: list  # numpy [B, h, W, C]; h may be smaller in the last one
    moments: list  # of each part the (mean, variance) of its rows, [B, h, C] each

    def add(self, part, *moments):
        self.parts.append(np.asarray(part))
        self.moments.append([np.asarray(x) for x in moments])


def encode(arch, params, x, rows=None, progress=SILENT):
    """`encode` of an autoencoder: x [B, H, W, 3] -> Posterior or Point, in numpy.

    params: of the first stage; rows: of the latent in a strip, by default of PIXELS;
    progress(total=n) makes a bar. Raises ValueError where the factor does not divide
    H and W.
    """
    f = arch.factor
    height, width = x.shape[1:3]
    if height % f or width % f:
        raise ValueError(
            f"{height} x {width} pixels are no multiples of the factor, {f}: pad them"
        )
    rows = rows or max(1, PIXELS // (width * f))
    parts = _split(np.asarray(x, np.float32), rows * f)
    h = _network(arch, params["encoder"], parts, [*walks.encoder(arch)], progress)
    moments = _pointwise(params["quant_conv"], h, arch.dtype).astype(np.float32)
    if arch.codes:
        return autoencoder.Point(moments)
    mean, logvar = np.split(moments, 2, axis=-1)
    return autoencoder.Posterior(mean, np.clip(logvar, -30.0, 20.0))


def decode(arch, params, z, rows=None, progress=SILENT):
    """`decode` of an autoencoder: z [B, h, w, c] -> x [B, h * f, w * f, 3], numpy.

    Arguments as of `encode`; a codebook quantises z first.
    """
    rows = rows or max(1, PIXELS // (z.shape[2] * arch.factor**2))
    if arch.codes:
        table = params["codebook"]["codes"]["embedding"]
        z = jnp.asarray(table)[quantize.nearest(table, z)]
    z = _pointwise(params["post_quant_conv"], z, arch.dtype)
    blocks = [*walks.decoder(arch)]
    x = _network(arch, params["decoder"], _split(z, rows), blocks, progress)
    return x.astype(np.float32)


def _split(x, rows):
    return [x[:, start : start + rows] for start in range(0, x.shape[1], rows)]


def _network(arch, params, parts, blocks, progress):
    """An encoder or decoder over the parts of its input: its output in one piece."""
    passes = 2 + sum(PASSES[block.kind] for block in blocks)
    with progress(total=passes * len(parts)) as bar:
        run = Run(arch, bar)
        h = run.conv(params["conv_in"], Strips(parts, []))
        for block in blocks:
            h = BLOCKS[block.kind](run, params[block.ours], h, block.side)
        h = run.conv(params["conv_out"], h, run.norm(params["norm_out"], h))
    return np.concatenate(h.parts, axis=1)


@dataclasses.dataclass(frozen=True)
class Run:
    """One passage through a network: its shape, and the bar that counts the strips."""

    arch: autoencoder.Arch
    bar: object

    def norm(self, params, x):
        return whole_norm(params, x.moments, self.arch.groups)

    def windows(self, x):
        """(number, window) of each part, which the caller may meanwhile replace.

        A window is the row above, the part, the row below and whether these two are in
        the picture. Outside they are zero, as a convolution pads: after the norm.
        """
        outside = np.zeros_like(x.parts[0][:, :1])
        above, last = outside, len(x.parts) - 1
        for i, part in enumerate(x.parts):
            below = outside if i == last else x.parts[i + 1][:, :1]
            inside = np.array([i > 0, i < last], np.float32)
            yield i, (above, part, below, inside)
            above = part[:, -1:].copy()  # a view would keep the part in memory
            self.bar.update(1)

    def conv(self, params, x, norm=None, way="same"):
        """A convolution, after SiLU of a norm if one is given; x is used up."""
        y = Strips([], [])
        for i, window in self.windows(x):
            y.add(*_convolve(params, norm, window, None, way, self.arch.dtype))
            x.parts[i] = None
        return y


def whole_norm(params, moments, groups):
    """(mean, factor, bias) [B, 1, 1, C] of a GroupNorm over all rows of a picture.

    In float64 from the rows' own means and variances: neither a sum of squares nor a
    long sum in float32 is ever taken.
    """
    mean, variance = (
        rearrange(np.concatenate(x, axis=1), "b h (g c) -> b h g c", g=groups)
        for x in zip(*moments, strict=True)
    )
    centre = mean.mean((1, 3), np.float64, keepdims=True)
    variance = variance.mean((1, 3), np.float64, keepdims=True)
    variance += np.square(mean - centre).mean((1, 3), keepdims=True)
    each = mean.shape[-1]
    centre, variance = (np.repeat(x[:, :, :, 0], each, -1) for x in (centre, variance))
    scale, bias = (np.asarray(params[name], np.float64) for name in ("scale", "bias"))
    found = (centre, scale / np.sqrt(variance + autoencoder.EPSILON), bias[None, None])
    return tuple(np.float32(x)[:, None] for x in found)


def normed(x, norm):
    mean, scale, bias = norm
    return (x.astype(jnp.float32) - mean) * scale + bias


def with_moments(x):
    """x and the mean and variance of its rows, each [B, h, C]."""
    wide = x.astype(jnp.float32)
    return x, jnp.mean(wide, axis=2), jnp.var(wide, axis=2)


def _conv(params, x, dtype, columns=(1, 1), stride=1):
    """A 3x3 convolution that pads columns only: the rows are there."""
    return nn.Conv(
        params["kernel"].shape[-1],
        (3, 3),
        strides=stride,
        padding=((0, 0), columns),
        dtype=dtype,
    ).apply({"params": params}, x)


# How a convolution goes over a part with its two neighbouring rows.
WAYS = {
    "same": _conv,
    "down": lambda params, x, dtype: _conv(params, x[:, 1:], dtype, (0, 1), 2),
    "up": lambda params, x, dtype: _conv(params, layers.nearest_up(x)[:, 1:-1], dtype),
}


@functools.partial(jax.jit, static_argnames=("way", "dtype"))
def _convolve(params, norm, window, residual, way, dtype):
    """The part of a convolution's output that belongs to a window, and its moments."""
    above, part, below, inside = window

    def active(x):
        return x if norm is None else nn.silu(normed(x, norm))

    rows = [active(above) * inside[0], active(part), active(below) * inside[1]]
    y = WAYS[way](params, jnp.concatenate(rows, axis=1), dtype)
    return with_moments(y if residual is None else residual + y)


@functools.partial(jax.jit, static_argnames=("dtype",))
def _dense(params, x, dtype):
    features = params["kernel"].shape[-1]
    return nn.Dense(features, dtype=dtype).apply({"params": params}, x)


def _pointwise(params, x, dtype):
    return np.asarray(_dense(params, x, dtype))


@functools.partial(jax.jit, static_argnames=("dtype",))
def _skip(params, x, dtype):
    net = nn.Conv(params["kernel"].shape[-1], (1, 1), padding="VALID", dtype=dtype)
    return net.apply({"params": params}, x)


@functools.partial(jax.jit, static_argnames=("dtype", "of"))
def _project(params, norm, part, dtype, of):
    """What `of` ("q", "k", "v") says of each pixel: [B, h * W, 1, C], one head."""
    x = rearrange(normed(part, norm), "b h w c -> b (h w) 1 c")
    places = ["qkv".index(name) for name in of]
    split = {name: jnp.split(leaf, 3, axis=-1) for name, leaf in params.items()}
    return [
        _dense({name: leaves[i] for name, leaves in split.items()}, x, dtype)
        for i in places
    ]


@functools.partial(jax.jit, static_argnames=("dtype",))
def _attended(params, norm, part, keys, values, dtype):
    """A part after an attention block, and its moments."""
    (q,) = _project(params["qkv"], norm, part, dtype, "q")
    h = attention.attend(q, keys, values)
    h = _dense(params["proj_out"], h[:, :, 0], dtype)
    return with_moments(part + h.reshape(part.shape))


def _res(run, params, x, side):
    del side
    dtype, h, y = run.arch.dtype, Strips([], []), Strips([], [])
    norm = run.norm(params["norm_in"], x)
    for i, window in run.windows(x):
        h.add(*_convolve(params["conv_in"], norm, window, None, "same", dtype))
        if "skip" in params:  # in place of the input, so that it need not be kept
            x.parts[i] = np.asarray(_skip(params["skip"], window[1], dtype))
    norm = run.norm(params["norm_out"], h)
    for i, window in run.windows(h):
        y.add(
            *_convolve(params["conv_out"], norm, window, x.parts[i], "same", dtype),
        )
        x.parts[i] = h.parts[i] = None
    return y


def _attn(run, params, x, side):
    del side
    dtype, norm = run.arch.dtype, run.norm(params["norm"], x)
    found = []
    for part in x.parts:
        found.append(_project(params["qkv"], norm, part, dtype, "kv"))
        run.bar.update(1)
    keys, values = (jnp.concatenate(each, axis=1) for each in zip(*found, strict=True))
    del found
    y = Strips([], [])
    for i, part in enumerate(x.parts):
        y.add(*_attended(params, norm, part, keys, values, dtype))
        x.parts[i] = None
        run.bar.update(1)
    return y


def _resample(run, params, x, side):
    return run.conv(params, x, way=side)


BLOCKS = {"res": _res, "attn": _attn, "resample": _resample}
