"""Pictures of any size to squares: crops, resizes and flips, as the originals have.

What lies on a picture goes with it: a map of classes and a mask are resized to their
nearest pixels, a hint as `resized_hint` does, while boxes stay in shares of the whole
picture, and `crop` and `flip` say what of it is seen (data.layout takes them so). A
hint is flipped as a picture; leave that off where its colours say what is left and
right, as those of normals and poses do.
"""

import dataclasses
from typing import Any

import cv2
import numpy as np
from PIL import Image

from ldm_jax.data import decoding

MAPS = ("segmentation", "mask")


def _pil(resampling):
    def resize(image, size):
        return np.asarray(Image.fromarray(image).resize(size, resampling))

    return resize


def _cv(flag):
    return lambda image, size: cv2.resize(image, size, interpolation=flag)


# name -> (uint8 [H, W, 3], (width, height)) -> uint8. LSUN's is Pillow's, which
# filters where it shrinks; that of ImageNet and of faces is OpenCV's, which does not.
RESIZES = {
    "bicubic": _pil(Image.Resampling.BICUBIC),
    "bilinear": _cv(cv2.INTER_LINEAR),
    "cv_bicubic": _cv(cv2.INTER_CUBIC),
    "area": _cv(cv2.INTER_AREA),
    "lanczos": _pil(Image.Resampling.LANCZOS),
}


def _largest(rng, short, size):
    return short


def _any_size(rng, short, size):
    """Of the size that is wanted, or larger: taming-transformers' random-2d."""
    return short if short <= size else int(rng.integers(size, short + 1))


def _half_or_larger(rng, short, size):
    """Half to all of the shorter side: ImageNetSR."""
    return max(1, round(rng.uniform(0.5, 1.0) * short))


# name -> (is it somewhere, or in the middle; (rng, shorter side, size) -> its side).
CROPS = {
    "center": (False, _largest),
    "random": (True, _largest),
    "any_size": (True, _any_size),
    "half_or_larger": (True, _half_or_larger),
}


@dataclasses.dataclass(frozen=True)
class Geometry:
    """What makes an example square; picklable. `steady` is that of validation."""

    size: int
    crop: str = "center"  # a key of CROPS
    resize: str = "bicubic"  # a key of RESIZES
    flip: bool = False  # half of them

    def steady(self):
        return dataclasses.replace(self, crop="center", flip=False)

    def __call__(self, example, rng):
        """The example with image, hint and MAPS [size, size], and crop and flip.

        crop: float32 [4], x0, y0, x1, y1 in shares of the whole; flip: a bool. rng: a
        numpy Generator, from which all that is random comes.
        """
        height, width = example["image"].shape[:2]
        anywhere, side_of = CROPS[self.crop]
        side = side_of(rng, min(height, width), self.size)
        top, left = (height - side) // 2, (width - side) // 2
        if anywhere:
            top = int(rng.integers(height - side + 1))
            left = int(rng.integers(width - side + 1))
        flip = self.flip and bool(rng.integers(2))
        resizes = {"image": RESIZES[self.resize], "hint": resized_hint}
        resizes |= dict.fromkeys(MAPS, nearest)
        seen = {}
        for key in resizes.keys() & example.keys():
            part = example[key][top : top + side, left : left + side]
            seen[key] = resizes[key](np.ascontiguousarray(part), (self.size,) * 2)
        if flip:
            seen = {k: np.ascontiguousarray(x[:, ::-1]) for k, x in seen.items()}
        corners = np.array([left, top, left + side, top + side], np.float32)
        crop = corners / np.float32([width, height, width, height])
        told = {"crop": crop, "flip": np.bool_(flip)}
        return {**example, **seen, **told}


def nearest(numbers, size):
    """[height, width, ...] of the pixels in the middle of each part of [H, W, ...].

    size: (width, height), as RESIZES take it.
    """
    rows, columns = (
        ((np.arange(new) + 0.5) * old / new).astype(np.int64)
        for new, old in zip(reversed(size), numbers.shape, strict=False)
    )
    return numbers[rows][:, columns]


def resized_hint(hint, size):
    """uint8 [height, width, 3] of a hint [H, W, 3]; size: (width, height).

    Hints are thin lines, or areas of one colour each. Where it shrinks, a pixel is the
    mean of those that it covers, so that a line gets paler and has no gaps: of their
    nearest pixels most of it would be lost. Where it grows these are taken: they add no
    colour between two that mean something, and no blur.
    """
    if hint.shape[1] > size[0] or hint.shape[0] > size[1]:
        return RESIZES["area"](hint, size)
    return nearest(hint, size)


def fitted_hint(hint, image):
    """A hint [h, w, 3] of the size of its image [H, W, 3].

    Raises decoding.Unreadable unless their sides are in the same ratio, or in one that
    rounding a side to whole pixels makes of it.
    """
    (h, w), (height, width) = hint.shape[:2], image.shape[:2]
    if abs(h * width - w * height) >= max(h, w, height, width):
        raise decoding.Unreadable(
            f"it has {w} x {h} pixels, its picture {width} x {height}: that is another "
            "ratio, so nobody knows what lies where"
        )
    return hint if (h, w) == (height, width) else resized_hint(hint, (width, height))


@dataclasses.dataclass(frozen=True)
class Cut:
    """Pictures that are read, made square once and for all, as a source; picklable.

    Crop and flip of example i come from (seed, i): every walk sees the same ones.
    """

    source: Any
    geometry: Geometry
    seed: int

    def __len__(self):
        return len(self.source)

    def __getitem__(self, index):
        rng = np.random.default_rng((self.seed, int(index)))
        return self.geometry(self.source[index], rng)
