"""Pictures of any size to squares: crops, resizes and flips, as the originals have.

What lies on a picture goes with it: a map of classes and a mask are resized to their
nearest pixels, while boxes stay in shares of the whole picture, and `crop` and `flip`
say what of it is seen (data.layout takes them so).
"""

import dataclasses
from typing import Any

import cv2
import numpy as np
from PIL import Image

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
        """The example with image and MAPS [size, size], crop float32 [4] and flip.

        rng: a numpy Generator, from which all that is random comes.
        """
        height, width = example["image"].shape[:2]
        anywhere, side_of = CROPS[self.crop]
        side = side_of(rng, min(height, width), self.size)
        top, left = (height - side) // 2, (width - side) // 2
        if anywhere:
            top = int(rng.integers(height - side + 1))
            left = int(rng.integers(width - side + 1))
        flip = self.flip and bool(rng.integers(2))
        maps = {
            key: _nearest(example[key][top : top + side, left : left + side], self.size)
            for key in MAPS
            if key in example
        }
        image = example["image"][top : top + side, left : left + side]
        image = RESIZES[self.resize](np.ascontiguousarray(image), (self.size,) * 2)
        seen = {"image": image, **maps}
        if flip:
            seen = {k: np.ascontiguousarray(x[:, ::-1]) for k, x in seen.items()}
        corners = np.array([left, top, left + side, top + side], np.float32)
        crop = corners / np.float32([width, height, width, height])
        told = {"crop": crop, "flip": np.bool_(flip)}
        return {**example, **seen, **told}


def _nearest(numbers, size):
    """The map [size, size] of the pixels in the middle of each part of a square map."""
    side = len(numbers)
    places = ((np.arange(size) + 0.5) * side / size).astype(np.int64)
    return numbers[places][:, places]


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
