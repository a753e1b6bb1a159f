"""AlexNet and VGG16 features, and the perceptual distance LPIPS on top of them.

Zhang et al. (2018), version 0.1 (`alex` and `vgg`, linear heads). Pure functions of
a parameter dict {layer: {kernel [kh, kw, in, out], bias [out]}, heads: {tap: [out]}};
`ldm_jax.weights.cache.load(net)` reads the published one.
"""

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

# The released networks see (x - SHIFT) / SCALE: ImageNet's mean and standard deviation,
# carried over to x in [-1, 1].
SHIFT = (-0.030, -0.088, -0.188)
SCALE = (0.458, 0.448, 0.450)

# One row per layer: (name, channels, kernel, stride, padding) is a convolution and a
# ReLU, (window, stride) a max-pooling, and a word taps what came before.
ALEXNET = (
    ("conv1", 64, 11, 4, 2),
    "relu1",
    (3, 2),
    ("conv2", 192, 5, 1, 2),
    "relu2",
    (3, 2),
    ("conv3", 384, 3, 1, 1),
    "relu3",
    ("conv4", 256, 3, 1, 1),
    "relu4",
    ("conv5", 256, 3, 1, 1),
    "relu5",
)


def _vgg16():
    blocks = ((2, 64), (2, 128), (3, 256), (3, 512), (3, 512))
    for i, (depth, channels) in enumerate(blocks, 1):
        if i > 1:
            yield (2, 2)
        for j in range(1, depth + 1):
            yield (f"conv{i}_{j}", channels, 3, 1, 1)
        yield f"relu{i}_{depth}"


NETS = {"alexnet": ALEXNET, "vgg16": tuple(_vgg16())}
SMALLEST = {"alexnet": 31, "vgg16": 16}  # pixels a side that leave the last tap one


def shapes(net):
    """The parameter dict of `net` with jax.ShapeDtypeStruct leaves, float32."""
    array = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.float32)
    tree, heads, width = {}, {}, 3
    for row in layers(net):
        if isinstance(row, str):
            heads[row] = array(width)
        elif len(row) == 5:
            name, channels, kernel, _, _ = row
            shape = array(kernel, kernel, width, channels)
            tree[name] = {"kernel": shape, "bias": array(channels)}
            width = channels
    return {**tree, "heads": heads}


def layers(net):
    if net not in NETS:
        raise ValueError(f"no perceptual network {net!r}; there are {sorted(NETS)}")
    return NETS[net]


def features(params, x, net):
    """Activations after the tapped ReLUs: x [B, H, W, 3] in [-1, 1] -> {tap: array}."""
    smallest = SMALLEST[net] if layers(net) else None
    if min(x.shape[1:3]) < smallest:
        raise ValueError(f"{net} needs pictures of {smallest} px, got {x.shape[1:3]}")
    h = (x - np.array(SHIFT, np.float32)) / np.array(SCALE, np.float32)
    taps = {}
    for row in layers(net):
        if isinstance(row, str):
            taps[row] = h
        elif len(row) == 5:
            name, _, _, stride, padding = row
            h = jax.nn.relu(conv(params[name], h, stride, padding))
        else:
            h = max_pool(h, *row)
    return taps


def conv(layer, x, stride, padding):
    y = lax.conv_general_dilated(
        x,
        layer["kernel"],
        window_strides=(stride, stride),
        padding=((padding, padding),) * 2,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision="highest",  # else accelerators round: 3% of a small distance
    )
    return y + layer["bias"]


def max_pool(x, window, stride):
    dims, strides = (1, window, window, 1), (1, stride, stride, 1)
    return lax.reduce_window(x, -jnp.inf, lax.max, dims, strides, "VALID")


def unit(h):
    """h / (|h| + 1e-10) over channels, with a gradient of zero, not NaN, at h = 0."""
    square = jnp.sum(jnp.square(h), axis=-1, keepdims=True)
    positive = square > 0
    norm = jnp.where(positive, jnp.sqrt(jnp.where(positive, square, 1.0)), 0.0)
    return h / (norm + 1e-10)


def distance(heads, a, b, where=None):
    """LPIPS from the taps of two batches of pictures: [B] float32.

    where: what each pixel counts, [B, H, W]; shrunk for each tap. None: all alike.
    """
    total = 0.0
    for tap, weights in heads.items():
        difference = jnp.square(unit(a[tap]) - unit(b[tap]))
        seen = jnp.sum(difference * weights, axis=-1)
        count = jnp.ones_like(seen)
        if where is not None:
            count = jax.image.resize(where.astype(seen.dtype), seen.shape, "linear")
        total += jnp.sum(seen * count, axis=(1, 2)) / jnp.sum(count, axis=(1, 2))
    return total


def lpips(params, x, y, net):
    """The distance of Zhang et al.: x, y [B, H, W, 3] in [-1, 1] -> [B] float32.

    Without the heads' dropout, which the originals' first-stage training leaves on.
    """
    x, y = x.astype(jnp.float32), y.astype(jnp.float32)
    # One after the other: joined, a batch over devices would be dealt out anew.
    return distance(params["heads"], *(features(params, z, net) for z in (x, y)))
