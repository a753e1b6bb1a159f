"""The picture and the mask that an in-painting model is given, from files."""

import numpy as np
from PIL import Image, UnidentifiedImageError


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
    hole = _square(mask, "L", size, Image.Resampling.NEAREST)
    shown = _square(image, "RGB", size, Image.Resampling.LANCZOS)
    return {"image": shown, "mask": (hole > 127).astype(np.uint8)}


def _square(path, mode, size, resample):
    try:
        with Image.open(path) as opened:
            picture = opened.convert(mode)
    except UnidentifiedImageError as error:
        raise OSError(f"{path} is no picture that can be read") from error
    side = min(picture.size)
    left, top = ((length - side) // 2 for length in picture.size)
    picture = picture.crop((left, top, left + side, top + side))
    return np.asarray(picture.resize((size, size), resample))
