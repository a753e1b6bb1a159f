"""Pictures that tell a model what to draw: edges, lines, maps, depth, poses.

The conventions, and so the numbers, are those of ControlNet (Zhang et al., 2023,
arXiv:2302.05543; lllyasviel/ControlNet, annotator/ and gradio_*2image.py): its released
networks know no others. Networks that find edges, depth or people live elsewhere; what
is here turns what they found, or what a drawn scene knows, into the picture. Lines are
white on black. All are uint8 [H, W, 3]; equal generators give equal bytes.
"""

import dataclasses
import math
import typing

import cv2
import numpy as np

from ldm_jax.data import palettes, skeletons, transforms

WHITE = 255
_STROKES = [np.zeros((3, 3), np.uint8) for _ in range(2)] + [np.eye(3, dtype=np.uint8)]
_STROKES[0][1] = _STROKES[1][:, 1] = 1
_STROKES.append(_STROKES[2][::-1])


def canny(image, low=100, high=200):
    """Canny's edges of RGB uint8 [H, W, 3], a pixel wide: annotator/canny.

    OpenCV takes at each pixel the channel with the strongest gradient. The thresholds
    are the originals', of the sum of absolute 3x3 Sobel gradients.
    """
    if not 0 <= low <= high:
        raise ValueError(f"low {low} and high {high} must be 0 <= low <= high")
    return _three(cv2.Canny(_checked(image), low, high))


def hough(image, least=0.05):
    """Straight segments of RGB uint8 [H, W, 3], one pixel wide.

    The originals ask a network, M-LSD, that was taught the wires of rooms and houses
    (and name the result "hough"). This is OpenCV's line segment detector (von Gioi et
    al., 2010) with its own thresholds (false alarms bounded by 1 a picture, gradients
    within 22.5 degrees), so it also finds short ones: those below a share `least` of
    the shorter side are left out.
    """
    gray = cv2.cvtColor(_checked(image), cv2.COLOR_RGB2GRAY)
    found = cv2.createLineSegmentDetector(cv2.LSD_REFINE_ADV).detect(gray)[0]
    lines = np.zeros(image.shape, np.uint8)
    for x0, y0, x1, y1 in () if found is None else found.reshape(-1, 4):
        if math.hypot(x1 - x0, y1 - y0) >= least * min(gray.shape):
            start, end = (int(x0), int(y0)), (int(x1), int(y1))
            cv2.line(lines, start, end, (WHITE,) * 3, 1)
    return lines


def scribble(image):
    """Dark strokes on a light ground, RGB uint8 [H, W, 3], as white ones on black.

    The originals' rule (gradio_scribble2image.py): any channel below 127.
    """
    return _three(WHITE * np.uint8(_checked(image).min(-1) < 127))


def soft(edges):
    """HED's picture of edges float [H, W], 0 to 1: annotator/hed."""
    return _three((np.asarray(edges) * 255).clip(0, 255).astype(np.uint8))


def fake_scribble(edges):
    """As if drawn by hand: thick, even lines from HED's soft uint8 [H, W].

    gradio_fake_scribble2image.py: thinned at deviation 3 and threshold 127, blurred at
    deviation 3, and white wherever something is left (above 4). Deviations are in
    pixels of some 512 a side, whatever the size: on small pictures lines run together.
    """
    thin = WHITE * np.uint8(thinned(edges, 127, 3.0))
    return _three(WHITE * np.uint8(cv2.GaussianBlur(thin, (0, 0), 3.0) > 4))


def thinned(edges, threshold, deviation):
    """bool [H, W]: the ridges of edges [H, W] above a threshold.

    Blurred by a Gaussian, a pixel stays that is the highest of itself and its two
    neighbours in any of four directions: `nms` of annotator/hed.
    """
    smooth = cv2.GaussianBlur(np.float32(edges), (0, 0), deviation)
    ridges = [cv2.dilate(smooth, stroke) == smooth for stroke in _STROKES]
    return np.any(ridges, axis=0) & (smooth > threshold)


def nearness(distance):
    """float32 [H, W], 1 where distance [H, W] is least and 0 where it is most.

    Of any scale. All is 0 where all is as far. Linear, as ldm_jax.data's own depth
    wants it; that of cameras is better given as its negative inverse, as MiDaS does.
    """
    distance = np.asarray(distance, np.float32)
    low, high = distance.min(), distance.max()
    if not np.isfinite(high - low):
        raise ValueError("a depth is not finite: put the farthest distance there")
    return (high - distance) / (high - low if high > low else np.float32(1))


def depth(distance):
    """MiDaS' picture (annotator/midas) of nearness: near is white, far black."""
    return _three((nearness(distance) * 255).astype(np.uint8))


def normal(distance, a=2 * np.pi, threshold=0.1, reach=1000.0):
    """Normals of a distance [H, W] by ControlNet's recipe (annotator/midas).

    (Sobel along x, Sobel along y, a), to length 1, of the nearness; flat where that is
    below threshold. -1 to 1 becomes 0 to 255, and the channels come as (z, y, x): the
    originals show (x, y, z) and feed the network the reverse, which is what this is.

    They take the nearness as MiDaS says it, in no unit: up to thousands, at 384 pixels.
    Here it goes up to `reach` there, so that slopes do not depend on the size. Their
    UI's a and threshold are 6.2 and 0.4.
    """
    near = nearness(distance)
    steep = near * np.float32(reach * min(near.shape) / 384)
    seen = near >= threshold
    x = cv2.Sobel(steep, cv2.CV_32F, 1, 0, ksize=3) * seen
    y = cv2.Sobel(steep, cv2.CV_32F, 0, 1, ksize=3) * seen
    vectors = np.stack([np.full_like(x, a), y, x], axis=-1)
    vectors /= np.linalg.norm(vectors, axis=-1, keepdims=True)
    return (vectors * 127.5 + 127.5).clip(0, 255).astype(np.uint8)


def drawn(regions, rng):
    """A scribble of whole-numbered regions [H, W], as a hand would outline them.

    The paper makes scribbles from HED's edges by strong augmentations (thresholds,
    parts left out, morphology, thinning). Our scenes know their outlines, so there is
    no network to run and nothing is drawn that is no outline; the augmentations are
    these: the outline wanders smoothly by some 1.5 % of the side, it is 1 to 2 pixels
    wide at 64 and in proportion, and up to 40 % of it is left out, in stretches.
    """
    height, width = regions.shape
    side = min(height, width)
    over = lambda coarse: cv2.resize(
        coarse.astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC
    )
    y, x = np.mgrid[:height, :width].astype(np.float32)
    dx, dy = over(rng.normal(0, 0.015 * side, (6, 6, 2))).transpose(2, 0, 1)
    nearest, border = cv2.INTER_NEAREST, cv2.BORDER_REPLICATE
    moved = cv2.remap(np.float32(regions), x + dx, y + dy, nearest, None, border)
    lines = np.zeros((height, width), np.uint8)
    lines[:, :-1] |= WHITE * np.uint8(moved[:, 1:] != moved[:, :-1])
    lines[:-1] |= WHITE * np.uint8(moved[1:] != moved[:-1])
    wide = max(1, round(rng.uniform(1, 2) * side / 64))
    brush = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (wide, wide))
    lines = cv2.dilate(lines, brush)
    field = rng.random((8, 8))
    lines[over(field) < np.quantile(field, rng.uniform(0, 0.4))] = 0
    return _three(lines)


def working_size(height, width, resolution):
    """(height, width) at which the originals work: resize_image of annotator/util.py.

    The shorter side becomes resolution, then both the nearest multiples of 64.
    """
    if min(height, width, resolution) < 1 or resolution < 64:
        raise ValueError(
            f"a picture of {height}x{width} cannot get a shorter side of {resolution}: "
            f"sides are from 1 on, resolutions from 64"
        )
    scale = float(resolution) / min(height, width)
    high, wide = (int(np.round(side * scale / 64)) * 64 for side in (height, width))
    return high, wide


def resized(image, height, width, how=None):
    """uint8 [H, W] or [H, W, C] to a height and width, as the originals do.

    how: of OpenCV. None, for pictures, is Lanczos where they grow and area where they
    shrink; the originals take FLAT for hints of few colours, SMOOTH for others.
    """
    grows = min(height, width) > min(image.shape[:2])
    if how is None:
        how = cv2.INTER_LANCZOS4 if grows else cv2.INTER_AREA
    return cv2.resize(np.ascontiguousarray(image), (width, height), interpolation=how)


FLAT, SMOOTH = cv2.INTER_NEAREST, cv2.INTER_LINEAR


def thin(hint, size):
    """A square hint of lines on black to [size, size, 3]; none is lost or gets paler.

    Where it shrinks, a pixel is the brightest of each channel of those it covers.
    """
    side = len(hint)
    if side <= size:
        return resized(hint, size, size, FLAT)
    edges = np.arange(size) * side // size
    return np.maximum.reduceat(np.maximum.reduceat(hint, edges, axis=0), edges, axis=1)


def flat(hint, size):
    """The same of areas of one colour each: no colour comes between two."""
    return resized(hint, size, size, FLAT)


def smooth(hint, size):
    """The same of what has no jumps."""
    return resized(hint, size, size, None if len(hint) > size else SMOOTH)


def mixed(hint, size):
    """The same of what may be any of these, as data sets of pairs are read."""
    return transforms.resized_hint(hint, (size, size))


def _checked(image):
    """The picture in one piece of memory."""
    image = np.ascontiguousarray(image)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(
            f"a picture of {image.dtype} {list(image.shape)} gives no hint: give RGB "
            f"as uint8 [H, W, 3]"
        )
    return image


def _three(gray):
    """[H, W] -> [H, W, 3]."""
    return np.repeat(gray[..., None], 3, axis=-1)


@dataclasses.dataclass(frozen=True)
class Hint:
    """How a training example gets its hint: make(example, rng) -> uint8 [S, S, 3].

    needs: the keys of the example (labels.example) that it reads; resize: (hint, size),
    how one from a file is made as large as its model's pictures.
    """

    make: typing.Callable
    needs: tuple
    resize: typing.Callable


def _scribble(example, rng):
    # No more than 256 segments and 256 instances, so each pair is a number of its own.
    return drawn(example["segmentation"] + 256.0 * example["instances"], rng)


def _coloured(palette):
    def make(example, rng):
        return palettes.colours(example["segmentation"], palette)

    return Hint(make, ("segmentation",), flat)


def _stored(example, rng):
    return example["hint"]


# One line for each kind of hint; those that draw nothing by chance leave rng alone.
HINTS = {
    "canny": Hint(lambda e, rng: canny(e["image"]), ("image",), thin),
    "hough": Hint(lambda e, rng: hough(e["image"]), ("image",), thin),
    "scribble": Hint(_scribble, ("instances", "segmentation"), thin),
    "segmentation": _coloured(palettes.ADE20K),
    "segments": _coloured(palettes.SEGMENTS),  # the classes of drawn scenes
    "depth": Hint(lambda e, rng: depth(e["depth"]), ("depth",), smooth),
    "normal": Hint(lambda e, rng: normal(e["depth"]), ("depth",), smooth),
    "pose": Hint(
        lambda e, rng: skeletons.pose(e["joints"], *e["image"].shape[:2]),
        ("joints", "image"),
        thin,
    ),
    # What others found in pictures, as a data set of pairs has it.
    **dict.fromkeys(("given", "hed", "fake_scribble"), Hint(_stored, ("hint",), mixed)),
}
