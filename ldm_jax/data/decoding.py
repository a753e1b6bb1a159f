"""The bytes of picture files as arrays, whatever cameras and the web put into them."""

import io
import struct
import zlib

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

# Of what Pillow can open, all that people keep pictures in; no more code than needed
# sees bytes from elsewhere.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
LARGEST = Image.MAX_IMAGE_PIXELS  # 89 million: Pillow's bound of what may be a bomb
# What decoders raise for bytes that somebody cut, overwrote or made up.
DAMAGED = (OSError, EOFError, SyntaxError, ValueError, TypeError, AttributeError)
DAMAGED += (IndexError, KeyError, OverflowError, struct.error, zlib.error)
WHITE, BLACK = (255, 255, 255, 255), (0, 0, 0, 255)


class Unreadable(ValueError):
    """A file that is no picture, or none that can be trained on; it says why."""


def picture(data, least=1, ground=WHITE):
    """uint8 [H, W, 3] of a file's bytes, upright.

    16 bits become 8, inks and gray colours, what is transparent lies on ground, of what
    moves it is the first frame, and a camera's note of how it was held is followed.
    Raises Unreadable for anything else: a damaged file, one that is cut off, more than
    LARGEST pixels, or a side of less than `least`.
    """
    image = _upright(data, least)
    if image.mode.startswith("I"):
        return np.repeat(_eight_bits(np.asarray(image))[..., None], 3, axis=-1)
    if image.mode == "F":
        raise Unreadable("its numbers are floating: nobody says which is white")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, ground), image)
    return np.asarray(image.convert("RGB"))


def numbers(data):
    """int32 [H, W] of a file's bytes: a map of classes.

    The numbers of a gray picture, or the places of a palette. Raises Unreadable, also
    for colours: which class is which colour stands nowhere, and for JPEG, which
    changes numbers.
    """
    image = _upright(data, least=1)
    if Image.open(io.BytesIO(data), formats=FORMATS).format == "JPEG":
        raise Unreadable("it is JPEG, which changes numbers: keep maps as PNG")
    if image.mode not in ("1", "L", "P") and not image.mode.startswith("I"):
        raise Unreadable(
            f"it is {image.mode}: a map has one number at each pixel, as in a gray PNG "
            "or one with a palette"
        )
    return np.asarray(image).astype(np.int32)


def is_deep(data):
    """Whether a picture's bytes have more than 8 bits for each number."""
    return _upright(data, least=1).mode.startswith("I")


def mask(data):
    """uint8 [H, W] of a file's bytes, 1 in the hole: what is lighter than half.

    Of a mask of nothing but 0 and 1 the hole is 1. Raises Unreadable.
    """
    gray = np.asarray(Image.fromarray(picture(data)).convert("L"))
    return (gray > (127 if gray.max() > 1 else 0)).astype(np.uint8)


def is_plain(data):
    """Whether a readable picture's bytes are what `picture` says without a change."""
    image = Image.open(io.BytesIO(data), formats=FORMATS)
    turned = image.getexif().get(0x0112, 1) != 1
    return image.mode == "RGB" and not turned and not image.has_transparency_data


def _upright(data, least):
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
        if image.width * image.height > LARGEST:
            raise Unreadable(f"more than {LARGEST:,} pixels")
        if min(image.size) < least:
            raise Unreadable(f"{image.width} x {image.height} pixels are too few")
        image.load()
        return ImageOps.exif_transpose(image)
    except Image.DecompressionBombError as error:
        raise Unreadable(f"more than {LARGEST:,} pixels") from error
    except UnidentifiedImageError as error:
        raise Unreadable(f"it is none of {', '.join(FORMATS)}") from error
    except Unreadable:
        raise
    except DAMAGED as error:
        raise Unreadable(f"{type(error).__name__}: {error}") from error


def _eight_bits(values):
    """uint8 of 16-bit numbers, white 65,535."""
    if values.min() < 0 or values.max() > 65_535:
        raise Unreadable(f"its numbers go from {values.min()} to {values.max()}")
    return ((values.astype(np.uint32) * 255 + 32_767) // 65_535).astype(np.uint8)
