"""Numbers about pictures, as functions of numpy arrays.

Pictures are uint8 [N, H, W, 3]; every function takes and returns numpy.
"""

import numpy as np

WINDOW, SIGMA = 11, 1.5  # of SSIM


def psnr(x, y):
    """Peak signal-to-noise ratio of each pair: [N] dB; inf where they are equal."""
    error = np.mean(np.square(x.astype(np.float64) - y), axis=(1, 2, 3))
    with np.errstate(divide="ignore"):
        return 10 * np.log10(255**2 / error)


def ssim(x, y):
    """Structural similarity of each pair: [N], 1 where they are equal.

    Wang et al. (2004): Gaussian window of 11 pixels and sigma 1.5, only where it fits
    into the picture, K1 0.01, K2 0.03; the mean over positions and the three channels.
    """
    if min(x.shape[1:3]) < WINDOW:
        raise ValueError(f"SSIM needs {WINDOW} pixels a side, got {x.shape[1:3]}")
    x, y = x.astype(np.float64), y.astype(np.float64)
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    mean_x, mean_y = blur(x), blur(y)
    var_x = blur(x * x) - mean_x**2
    var_y = blur(y * y) - mean_y**2
    covariance = blur(x * y) - mean_x * mean_y
    light = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    structure = (2 * covariance + c2) / (var_x + var_y + c2)
    return np.mean(light * structure, axis=(1, 2, 3))


def blur(x):
    """SSIM's window over [N, H, W, C], where it fits: [N, H - 10, W - 10, C]."""
    offsets = np.arange(WINDOW) - WINDOW // 2
    weights = np.exp(-(offsets**2) / (2 * SIGMA**2))
    weights /= weights.sum()
    for axis in (1, 2):
        view = np.lib.stride_tricks.sliding_window_view(x, WINDOW, axis=axis)
        x = view @ weights
    return x


def judge(references, samples, own):
    """How many references are nearer to each sample than its own one: int [N].

    references [R, D] and samples [N, D] are features of unit length, near by their
    cosine. own [N] says which reference a sample should be. A tie counts against the
    sample, so that features that say nothing give the last place.
    """
    nearness = samples @ references.T
    mine = np.take_along_axis(nearness, np.asarray(own)[:, None], axis=1)
    return np.sum(nearness >= mine, axis=1) - 1


def border_colour(images, width=2):
    """The median colour of each picture's frame of `width` pixels: [N, 3]."""
    inside = np.zeros(images.shape[1:3], bool)
    inside[width:-width, width:-width] = True
    return np.median(images[:, ~inside], axis=1)


def nearest_colour(colours, palette):
    """For each of [N, 3] the row of the palette [P, 3] with the least distance: [N]."""
    difference = np.asarray(colours, float)[:, None] - np.asarray(palette, float)
    return np.argmin(np.sum(difference**2, axis=-1), axis=1)
