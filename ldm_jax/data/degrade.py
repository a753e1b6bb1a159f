"""Degradations for super-resolution: from a picture to the smaller one it is told.

The blind ones ("bsr", "bsr_light") are BSRGAN's (Zhang et al., arXiv:2103.14006) as
latent diffusion trains on them (CompVis/latent-diffusion,
ldm/modules/image_degradation): blur, noise, JPEG and two resizes in a random order,
and JPEG again. The others are the single resizes of its ldm/data/imagenet.py.

Kept of the originals, though it looks odd: the light one's kernels of even size, which
move the picture by half a pixel; correlated noise, always at the highest level; widths
of oriented kernels that are variances while those of round ones are deviations; cv2's
resizes without antialias, all but area. Mended: round kernels of even size underflow
there when they are narrow, and the picture turns black (one in 220 of the light ones
at factor 4); narrow oriented ones give NaN; tiny pictures shrink to nothing; sides
that do not divide are cropped with height and width swapped (here they are refused).
"""

import dataclasses
import functools

import cv2
import numpy as np
from PIL import Image

KINDS = (cv2.INTER_LINEAR, cv2.INTER_CUBIC, cv2.INTER_AREA)
HALVED = 0.25  # share of pictures that are halved before all else, at factor 4 only
COMPRESSED = 0.9  # share that passes JPEG among the other steps, too
SHIFTED = 25  # taps of the shifted kernel
# Bicubic with antialias at half the size (MATLAB's): its curve at odd quarters.
HALF = np.array([-3, -9, 29, 111, 111, 29, -9, -3]) / 256


@dataclasses.dataclass(frozen=True)
class Grade:
    """How strong a blind degradation is; all ranges include both ends."""

    blurs: int
    narrower: float  # what the widths of kernels are divided by
    oriented_sides: range  # of oriented kernels
    round_sides: range  # of round ones
    resized: float  # share that a free resize shrinks, not blur and pick
    noise: tuple[int, int]  # standard deviations, of 255
    quality: tuple[int, int]  # of JPEG


HEAVY = Grade(
    blurs=2,
    narrower=1,
    oriented_sides=range(7, 26, 2),
    round_sides=range(7, 26, 2),
    resized=0.75,
    noise=(2, 25),
    quality=(30, 95),
)
LIGHT = Grade(
    blurs=1,
    narrower=4,
    oriented_sides=range(5, 15),
    round_sides=range(5, 8),
    resized=0.8,
    noise=(1, 2),
    quality=(80, 95),
)


def blind(grade, picture, rng, factor):
    """A drawn chain of degradations: uint8 [H, W, 3] -> [H/factor, W/factor, 3]."""
    picture, size = _checked(picture, factor)
    if factor > SHIFTED:
        raise ValueError(
            f"factor {factor} is past {SHIFTED}, the side of the kernel that shifts; "
            f"degrade by less, or by a resize such as 'cv_area'"
        )
    image = np.float32(picture / 255)
    if factor == 4 and rng.random() < HALVED:
        image, factor = halve(image, rng), 2
    steps = {
        "blur": lambda x: blur(x, kernel(grade, rng, factor)),
        "shrink": lambda x: shrink(grade, x, rng, factor),
        "fit": lambda x: _resize(x, size, rng),
        "noise": lambda x: noise(x, rng, grade.noise),
        "jpeg": lambda x: jpeg(x, _whole(rng, grade.quality)),
    }
    for name in order(grade, rng):
        if name != "jpeg" or rng.random() < COMPRESSED:
            image = steps[name](image)
    return _bytes(steps["jpeg"](image))


def order(grade, rng):
    """The steps' names, shuffled; then "shrink" and "fit" trade places if need be."""
    names = ["blur"] * grade.blurs + ["shrink", "fit", "noise", "jpeg"]
    names = [names[i] for i in rng.permutation(len(names))]
    first, second = sorted((names.index("shrink"), names.index("fit")))
    names[first], names[second] = "shrink", "fit"
    return names


def kernel(grade, rng, factor):
    """A drawn kernel, oriented or round alike often: float64 [k, k], sum 1."""
    draw = lambda: 1 - rng.random()  # never 0
    if rng.random() < 0.5:
        widest = (4 + factor) / grade.narrower
        size, angle = rng.choice(grade.oriented_sides), np.pi * rng.random()
        return gaussian(size, (widest * draw(), widest * draw()), angle)
    widest = (2 + 0.2 * factor) / grade.narrower
    variance = (widest * draw()) ** 2
    return gaussian(rng.choice(grade.round_sides), (variance, variance))


def gaussian(size, variances, angle=0.0):
    """Sum 1, around the middle: float64 [size, size].

    variances along and across the axis that `angle` turns from right to down, in
    pixels squared.
    """
    x = np.arange(size) - (size - 1) / 2
    y = x[:, None]
    along = x * np.cos(angle) + y * np.sin(angle)
    across = x * np.sin(angle) - y * np.cos(angle)
    far = along**2 / variances[0] + across**2 / variances[1]
    # From the nearest pixel: at an even size no pixel lies in the middle, and a narrow
    # kernel would vanish.
    weights = np.exp((far.min() - far) / 2)
    return weights / weights.sum()


def blur(image, weights):
    """Convolves an image, mirrored at its edges, with a kernel equal to its half turn.

    At an even size the middle lies between pixels: the picture moves half a pixel up
    and left.
    """
    anchor = ((len(weights) - 1) // 2,) * 2
    return cv2.filter2D(image, -1, weights, anchor=anchor)


def shrink(grade, image, rng, factor):
    """To a size between 1 and 1/(2 factor), freely; or to 1/factor by blur and pick."""
    if rng.random() < grade.resized:
        scale = rng.uniform(1, 2 * factor)
        height, width = (max(1, int(side / scale)) for side in image.shape[:2])
        return _resize(image, (width, height), rng)
    taps = shifted(rng.uniform(0.1, 0.6 * factor), factor)[::-1]  # it correlates
    return cv2.sepFilter2D(image, -1, taps, taps)[::factor, ::factor].clip(0, 1)


def shifted(deviation, factor):
    """One axis of the kernel before every factor-th pixel is taken: float64 [25].

    Its middle, 12, moves back by (factor - 1) / 2, between taps linearly, so that a
    taken pixel stands for the middle of its block.
    """
    taps = np.arange(SHIFTED)
    weights = np.exp(-(((taps - SHIFTED // 2) / deviation) ** 2) / 2)
    weights = np.interp(taps + (factor - 1) / 2, taps, weights)
    return weights / weights.sum()


def halve(image, rng):
    """To half the size: as often by a free resize as by bicubic with antialias."""
    height, width = image.shape[:2]
    if rng.random() < 0.5:
        return _resize(image, (width // 2, height // 2), rng)
    border = cv2.BORDER_REFLECT
    wide = cv2.sepFilter2D(image, -1, HALF, HALF, anchor=(3, 3), borderType=border)
    return wide[::2, ::2].clip(0, 1)


def noise(image, rng, levels):
    """Adds Gaussian noise: 40 % in each channel, 40 % gray, 20 % correlated."""
    level = _whole(rng, levels) / 255
    kind = rng.random()
    shape = image.shape[:2]
    if kind > 0.6:
        drawn = rng.normal(0, level, (*shape, 3))
    elif kind < 0.4:
        drawn = rng.normal(0, level, (*shape, 1))
    else:
        axes = np.linalg.svd(rng.random((3, 3)))[0]
        covariance = abs(axes.T @ np.diag(rng.random(3)) @ axes)
        drawn = rng.multivariate_normal(
            np.zeros(3), (levels[1] / 255) ** 2 * covariance, shape, method="cholesky"
        )
    return (image + drawn.astype(np.float32)).clip(0, 1)


def jpeg(image, quality):
    """An RGB image in [0, 1] through JPEG: OpenCV wants its channels as BGR."""
    pixels = cv2.cvtColor(_bytes(image), cv2.COLOR_RGB2BGR)
    _, encoded = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])
    pixels = cv2.imdecode(encoded, cv2.IMREAD_COLOR)
    return np.float32(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB) / 255)


def _cv(interpolation, picture, rng, factor):
    picture, size = _checked(picture, factor)
    return cv2.resize(picture, size, interpolation=interpolation)


def _pil(filter, picture, rng, factor):
    picture, size = _checked(picture, factor)
    return np.array(Image.fromarray(picture).resize(size, filter))


def _checked(picture, factor):
    """The picture in one piece of memory, and the (width, height) it is brought to."""
    picture = np.ascontiguousarray(picture)
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
        raise ValueError(
            f"a picture of {picture.dtype} {list(picture.shape)} cannot be degraded: "
            f"give RGB as uint8 [H, W, 3]"
        )
    if not isinstance(factor, (int, np.integer)) or factor < 1:
        raise ValueError(f"factor {factor} must be a whole number from 1 on")
    height, width = picture.shape[:2]
    if not height or not width or height % factor or width % factor:
        raise ValueError(
            f"a picture of {height}x{width} does not divide by factor {factor}: crop "
            f"or resize its sides to multiples of {factor}"
        )
    return picture, (width // factor, height // factor)


def _resize(image, size, rng):
    """To (width, height) by a drawn interpolation; bicubic overshoots, hence clip."""
    kind = KINDS[rng.integers(len(KINDS))]
    return cv2.resize(image, size, interpolation=kind).clip(0, 1)


def _whole(rng, ends):
    return int(rng.integers(ends[0], ends[1] + 1))


def _bytes(image):
    return np.rint(image.clip(0, 1) * 255).astype(np.uint8)


# Each (picture uint8 [H, W, 3], rng: numpy Generator, factor) -> uint8 [H/factor,
# W/factor, 3]. Equal generators give equal bytes; the resizes draw nothing.
DEGRADATIONS = {
    "bsr": functools.partial(blind, HEAVY),
    "bsr_light": functools.partial(blind, LIGHT),
    "cv_nearest": functools.partial(_cv, cv2.INTER_NEAREST),
    "cv_bilinear": functools.partial(_cv, cv2.INTER_LINEAR),
    "cv_bicubic": functools.partial(_cv, cv2.INTER_CUBIC),
    "cv_area": functools.partial(_cv, cv2.INTER_AREA),
    "cv_lanczos": functools.partial(_cv, cv2.INTER_LANCZOS4),
    "pil_nearest": functools.partial(_pil, Image.Resampling.NEAREST),
    "pil_bilinear": functools.partial(_pil, Image.Resampling.BILINEAR),
    "pil_bicubic": functools.partial(_pil, Image.Resampling.BICUBIC),
    "pil_box": functools.partial(_pil, Image.Resampling.BOX),
    "pil_hamming": functools.partial(_pil, Image.Resampling.HAMMING),
    "pil_lanczos": functools.partial(_pil, Image.Resampling.LANCZOS),
}
