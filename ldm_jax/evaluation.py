"""Numbers about pictures, features, codes and latents, as functions of numpy arrays.

Pictures are uint8 [N, H, W, 3]; every function takes numpy and returns it or a number.
"""

import math

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


def gradient_energy(images):
    """Mean squared difference of neighbours, along both axes, of each picture: [N].

    Of a reconstruction against its original: below 1 is blurred, above 1 is noisier.
    """
    x = images.astype(np.float64)
    axes = (1, 2)
    return sum(np.mean(np.square(np.diff(x, axis=i)), axis=(1, 2, 3)) for i in axes) / 2


def frechet(a, b):
    """Frechet distance of the Gaussians that fit two sets of features [N, D], [M, D].

    |mean a - mean b|^2 + tr(A + B - 2 (A B)^(1/2)), A and B the covariances. With
    A = R'R and B = S'S the root's trace is the sum of the singular values of R S': no
    root is taken of what rounding left of zeros, as an eigendecomposition of A B would
    where there are fewer pictures than features. Few pictures give too large a value,
    so compare only what was measured on as many.
    """
    if min(len(a), len(b)) < 2:
        raise ValueError(f"a covariance needs two pictures, got {len(a)} and {len(b)}")
    (mean_a, root_a), (mean_b, root_b) = _gaussian(a), _gaussian(b)
    spread = np.sum(root_a**2) + np.sum(root_b**2)
    common = np.linalg.svd(root_a @ root_b.T, compute_uv=False).sum()
    return float(np.sum((mean_a - mean_b) ** 2) + spread - 2 * common)


def _gaussian(features):
    """(mean [D], R [min(N, D), D] with R'R the covariance), float64."""
    x = features.astype(np.float64)
    mean = x.mean(axis=0)
    return mean, np.linalg.qr((x - mean) / np.sqrt(len(x) - 1), mode="r")


def usage(counts):
    """The share of a codebook's codes that were chosen; counts [codes]."""
    return float(np.mean(counts > 0))


def perplexity(counts):
    """exp of the entropy of how often each code was chosen: 1 to the codes' number."""
    share = counts[counts > 0] / counts.sum()
    return float(np.exp(-np.sum(share * np.log(share))))


def moments(z):
    """Count, sum and sum of squares of each channel of [..., C]: float64 [3, C].

    Those of several batches add up.
    """
    z = z.reshape(-1, z.shape[-1]).astype(np.float64)
    return np.stack([np.full(z.shape[-1], len(z)), z.sum(0), np.square(z).sum(0)])


def latent_statistics(total):
    """{'scale', 'latent_mean', 'latent_std'} from the `moments` of all latents.

    mean and std per channel; the scale is one over the std of all values, as the
    originals' scale_by_std, which takes the first batch alone.
    """
    mean, std = _spread(total)
    return {
        "scale": estimate_scale(total),
        "latent_mean": mean.tolist(),
        "latent_std": std.tolist(),
    }


def estimate_scale(total):
    """What latents with these `moments` are to be multiplied by: 1 / std."""
    _, std = _spread(total.sum(axis=1))
    return float(1 / std)


def _spread(total):
    count, added, squares = total
    mean = added / count
    return mean, np.sqrt(np.maximum(squares / count - mean**2, 0))


def rounded(value):
    """Six digits for numbers, None for those that JSON cannot say, at any depth."""
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [rounded(item) for item in value]
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value
