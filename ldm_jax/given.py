"""What a model is given beside a prompt, from files: pictures, masks, maps, layouts."""

import pathlib

import numpy as np
from PIL import Image

from ldm_jax import class_names
from ldm_jax.data import decoding, layout

# The flags that each kind of cond_stage needs, and those of cond_stage.inpaint.
NEEDS = {
    "layout": ("layout",),
    "segmentation": ("segmentation",),
    "low_res": ("image",),
}
TO_FILL = ("image", "mask")
PURPOSES = {
    "image": "for in-painting and super-resolution",
    "mask": "for in-painting",
    "layout": "of layout-to-image models",
    "segmentation": "of models that take a semantic map",
}


def read(config, files):
    """{name of a batch: array without its first axis} of what the flags name, or {}.

    files: {"image", "mask", "layout", "segmentation": path or None}. Raises ValueError
    where the model takes no such file, one is missing, is no picture, or what is in it
    does not fit; FileNotFoundError.
    """
    section = config.cond_stage
    needed = NEEDS.get(section.kind, ()) + (TO_FILL if section.inpaint else ())
    for name, path in files.items():
        if path and name not in needed:
            raise ValueError(f"--{name} is {PURPOSES[name]}; this model is none")
        if not path and name in needed:
            wanted = " and ".join(f"--{name}=FILE" for name in needed)
            raise ValueError(f"this model draws what it is given: name {wanted}")
    told = {}
    if section.inpaint:
        told |= _hole(config.data.image_size, files["image"], files["mask"])
    if section.kind == "low_res":
        told["low_res"] = _low_res(config, files["image"])
    if section.kind == "segmentation":
        told["segmentation"] = _segmentation(config, files["segmentation"])
    if section.kind == "layout":
        told["tokens"] = _layout(config, files["layout"])
    return told


def _hole(size, image, mask):
    """image uint8 [S, S, 3] and mask uint8 [S, S], 1 in the hole.

    Both files are cut to their middle square and resized.
    """
    there = _opened("image", image, decoding.picture)
    where = _opened("mask", mask, decoding.mask)
    if there.size != where.size:
        raise ValueError(
            f"--image {image} is {there.size}, --mask {mask} is {where.size}: they "
            "must have one size, or the hole would lie elsewhere"
        )
    hole = _square(where, size, Image.Resampling.NEAREST)
    return {"image": _square(there, size, Image.Resampling.LANCZOS), "mask": hole}


def _low_res(config, path):
    """uint8 [s, s, 3]: the middle square, pixel by pixel."""
    factor, size = 2**config.cond_stage.stages, config.data.image_size
    picture = _opened("image", path, decoding.picture)
    side = min(picture.size)
    if side * factor != size:
        raise ValueError(
            f"--image {path} has a shorter side of {side} pixels, of which this model "
            f"makes {side * factor}: --image_size={side * factor} takes it as it is, "
            f"for --image_size={size} shrink or enlarge it to {size // factor}"
        )
    return _square(picture, side, Image.Resampling.NEAREST)


def _segmentation(config, path):
    """uint8 [S, S]: the middle square of a map, each pixel the nearest one."""
    numbers = np.asarray(_opened("segmentation", path, decoding.numbers))
    classes, last = config.cond_stage.classes, int(numbers.max())
    if numbers.min() < 0 or last >= classes:
        raise ValueError(
            f"--segmentation {path} has the number {last}; this model knows 0 to "
            f"{classes - 1}: {', '.join(class_names.of(config)[:8])} ..."
        )
    numbers = Image.fromarray(numbers.astype(np.uint8))
    return _square(numbers, config.data.image_size, Image.Resampling.NEAREST)


def _layout(config, path):
    """int32 [length]: a layout's tokens, its objects in their order."""
    section = config.cond_stage
    objects = (section.length - 2) // 3
    classes, boxes, flags, crop = layout.load(path, class_names.of(config), objects)
    told = dict(count=section.classes, vocab=section.vocab, objects=objects)
    return layout.tokens(classes, boxes, flags=flags, crop=crop.tolist(), **told)


def _opened(flag, path, decode):
    """The picture of a flag's file, as training would read it."""
    try:
        return Image.fromarray(decode(pathlib.Path(path).read_bytes()))
    except decoding.Unreadable as error:
        raise ValueError(f"--{flag} {path}: {error}") from error


def _square(picture, size, resample):
    side = min(picture.size)
    left, top = ((length - side) // 2 for length in picture.size)
    picture = picture.crop((left, top, left + side, top + side))
    return np.asarray(picture.resize((size, size), resample))
