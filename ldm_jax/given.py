"""What a model is given beside a prompt, from files: pictures, masks, maps, layouts."""

import pathlib

import numpy as np
from PIL import Image

from ldm_jax import class_names, control
from ldm_jax.data import decoding, hints, layout

# The flags that each kind of cond_stage needs.
NEEDS = {
    "layout": ("layout",),
    "segmentation": ("segmentation",),
    "low_res": ("image",),
}
# What is found in a picture itself; and the hints that are lines on black.
FOUND = {"canny": hints.canny, "hough": hints.hough, "scribble": hints.scribble}
LINES = (*FOUND, "hed", "fake_scribble")
HOLES = ("mask", "keep", "outpaint")  # one of them says where an --image changes
HINTED = ("hint", "annotate")  # of models with control branches
PURPOSES = {
    "image": "for super-resolution and to change a picture",
    "layout": "of layout-to-image models",
    "segmentation": "of models that take a semantic map",
    **dict.fromkeys(HOLES, "to change a picture, which super-resolution does not"),
}


def read(config, files):
    """{name of a batch: array without its first axis} of what the flags name, or {}.

    files: {"image", "mask", "keep", "layout", "segmentation": path or None, "outpaint":
    (left, top, right, bottom) in pixels or None, "hint": paths, "annotate": whether
    those are pictures of which hints are to be made}. Raises ValueError where the model
    takes no such file, one is missing, is no picture, or what is in it does not fit;
    FileNotFoundError.
    """
    section = config.cond_stage
    needed, changes = NEEDS.get(section.kind, ()), section.kind != "low_res"
    known = (*needed, "image", *HOLES) if changes else needed
    for name, path in files.items():
        if name in HINTED:
            continue
        if path and name not in known:
            raise ValueError(f"--{name} is {PURPOSES[name]}; this model is none")
        if not path and name in needed:
            wanted = " and ".join(f"--{name}=FILE" for name in needed)
            raise ValueError(f"this model draws what it is given: name {wanted}")
    told = _changed(config, files) if changes else {}
    if section.kind == "low_res":
        told["low_res"] = _low_res(config, files["image"])
    if section.kind == "segmentation":
        told["segmentation"] = _segmentation(config, files["segmentation"])
    if section.kind == "layout":
        told["tokens"] = _layout(config, files["layout"])
    return told | _hints(config, files.get("hint", ()), files.get("annotate", False))


def _hints(config, paths, annotate):
    """{the batch's name of a hint: uint8 [S, S, 3]}, none or all of a model's."""
    known = config.control.hints
    if annotate and not paths:
        raise ValueError("--annotate makes hints of pictures: name them by --hint")
    if len(paths) not in (0, len(known)):
        told = f"hears {', '.join(known)}" if known else "hears none: name --control"
        raise ValueError(
            f"{len(paths)} pictures are given as --hint, and this model {told}; one is "
            "due for each, in that order"
        )
    return {
        control.key(name): _hint(name, path, config.data.image_size, annotate)
        for name, path in zip(known, paths, strict=False)
    }


def _hint(name, path, size, annotate):
    """The middle square of a hint, or of what is found in a picture."""
    if annotate:
        return found(name, path, size)
    picture = np.asarray(_opened("hint", path, _on_black))
    side = min(picture.shape[:2])
    top, left = ((length - side) // 2 for length in picture.shape[:2])
    hint = picture[top : top + side, left : left + side]
    if name in LINES and np.mean(hint > 127) > 0.5:
        raise ValueError(
            f"--hint {path} is mostly white, and {name} has white lines on black: "
            "invert it, or make a hint of a picture by --annotate"
        )
    return hint if side == size else hints.HINTS[name].resize(hint, size)


def found(name, path, size, thresholds=()):
    """uint8 [size, size, 3]: the hint of a picture file's middle square.

    thresholds: of canny, low and high, where they are not its own.
    """
    if name not in FOUND:
        raise ValueError(
            f"{', '.join(FOUND)} are found in pictures, and --hint {path} is of {name}:"
            " make it by python -m ldm_jax.hints"
        )
    picture = _opened("hint", path, decoding.picture)
    square = _square(picture, size, Image.Resampling.LANCZOS)
    return FOUND[name](square, *thresholds)


def _on_black(data):
    return decoding.picture(data, ground=decoding.BLACK)


def _changed(config, files):
    """The picture to begin with or to keep in part, and where it is drawn anew."""
    strength, paints = config.sample.strength, bool(config.cond_stage.inpaint)
    holes = [name for name in HOLES if files.get(name)]
    if paints and not (files["image"] and holes):
        raise ValueError(
            "this model draws what it is given: name --image=FILE and --mask=FILE"
        )
    if not files["image"]:
        if holes or strength < 1:
            what = f"--{holes[0]}" if holes else f"--strength={strength}"
            raise ValueError(f"{what} changes a picture: name it by --image=FILE")
        return {}
    if len(holes) > 1:
        raise ValueError(f"--{' and --'.join(holes)} exclude each other: name one")
    if not holes and strength == 1:
        raise ValueError(
            "nothing says what is to change of --image: name the hole by --mask=FILE, "
            "or let all of it change by --strength=0.6"
        )
    picture = _opened("image", files["image"], decoding.picture)
    size = config.data.image_size
    if not holes:
        return {"image": _square(picture, size, Image.Resampling.LANCZOS)}
    if files.get("outpaint"):
        picture, where = _extended(picture, files["outpaint"])
    else:
        where = _where(holes[0], files, picture)
    return {
        "image": _square(picture, size, Image.Resampling.LANCZOS),
        "mask": _square(where, size, Image.Resampling.NEAREST),
    }


def _where(flag, files, picture):
    """The hole: what is white in --mask, what is black in --keep."""
    found = _opened(flag, files[flag], decoding.mask)
    if picture.size != found.size:
        raise ValueError(
            f"--image {files['image']} is {picture.size}, --{flag} {files[flag]} is "
            f"{found.size}: they must have one size, or the hole would lie elsewhere"
        )
    hole = np.asarray(found)
    if len(np.unique(hole)) == 1 and hole.flat[0] == (flag == "keep"):
        raise ValueError(f"--{flag} {files[flag]} leaves nothing to paint")
    return Image.fromarray(1 - hole if flag == "keep" else hole)


def _extended(picture, margins):
    """A larger picture, which repeats its outermost pixels, and where it is larger."""
    left, top, right, bottom = margins
    before = picture.size
    after = (before[0] + left + right, before[1] + top + bottom)
    if min(margins) < 0 or not any(margins) or after[0] != after[1]:
        raise ValueError(
            f"--outpaint {margins} adds to the left, top, right and bottom of {before} "
            f"pixels, which makes {after}: it must add something, and make a square"
        )
    around = ((top, bottom), (left, right))
    hole = np.pad(np.zeros(before[::-1], np.uint8), around, constant_values=1)
    larger = np.pad(np.asarray(picture), (*around, (0, 0)), "edge")
    return Image.fromarray(larger), Image.fromarray(hole)


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
