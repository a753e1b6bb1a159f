"""The picture and the mask that an in-painting model is given, from files."""

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError


def read(config, image, mask):
    """{"image": uint8 [S, S, 3], "mask": uint8 [S, S], 1 in the hole}, or {}.

    Both files are cut to their middle square and resized. Raises ValueError where the
    model takes none or one is missing, OSError for a file that is no picture.
    """
    wanted = bool(config.cond_stage.inpaint)
    if not wanted and (image or mask):
        raise ValueError("--image and --mask are for in-painting; this model does none")
    if wanted and not (image and mask):
        raise ValueError("this model fills holes: name --image=FILE and --mask=FILE")
    if not wanted:
        return {}
    size = config.data.image_size
    there, where = _opened(image, "RGB"), _opened(mask, "L")
    if there.size != where.size:
        raise ValueError(
            f"--image {image} is {there.size}, --mask {mask} is {where.size}: they "
            "must have one size, or the hole would lie elsewhere"
        )
    hole = _square(where, size, Image.Resampling.NEAREST)
    shown = _square(there, size, Image.Resampling.LANCZOS)
    return {"image": shown, "mask": (hole > 127).astype(np.uint8)}


def _opened(path, mode):
    """The picture as its camera meant it, upright."""
    try:
        with Image.open(path) as opened:
            return ImageOps.exif_transpose(opened).convert(mode)
    except UnidentifiedImageError as error:
        raise OSError(f"{path} is no picture that can be read") from error


def _square(picture, size, resample):
    side = min(picture.size)
    left, top = ((length - side) // 2 for length in picture.size)
    picture = picture.crop((left, top, left + side, top + side))
    return np.asarray(picture.resize((size, size), resample))
