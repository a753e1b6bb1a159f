"""What a model is given, drawn: the pictures of a batch beside what goes with them."""

import functools
import textwrap

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ldm_jax import class_names, inputs, names, pictures, tokenizers
from ldm_jax.data import labels, layout

SIDE = 160  # pixels of a panel, at least
LINE = 12  # pixels of a line of text
PAD = 4
FONT = ImageFont.load_default(LINE - 2)
# Colours that are told apart, one for each segment; instances use them too.
PALETTE = np.array(
    [
        *((230, 25, 75), (60, 180, 75), (255, 225, 25), (0, 130, 200)),
        *((245, 130, 48), (145, 30, 180), (70, 240, 240), (240, 50, 230)),
        *((210, 245, 60), (128, 128, 0), (0, 0, 128), (128, 128, 128)),
        *((170, 110, 40), (250, 190, 212)),
    ],
    np.uint8,
)


def summary(batch):
    """One line for each key: shape, dtype and range."""
    return "\n".join(
        f"{key:<14}{x.shape!s:<20}{x.dtype!s:<9}{x.min():g} .. {x.max():g}"
        for key, x in batch.items()
    )


def boxes(image, example):
    """The picture with the boxes in use, each with its class."""
    drawn = Image.fromarray(image)
    pen = ImageDraw.Draw(drawn)
    for k, box in enumerate(example["boxes"]):
        if box.any():
            left, top, right, bottom = box * len(image)
            colour = tuple(PALETTE[k % len(PALETTE)].tolist())
            pen.rectangle((left, top, right - 1, bottom - 1), outline=colour, width=2)
            if "classes" in example:
                name = labels.CLASSES[example["classes"][k]]
                pen.text((left + 3, top + 1), name, colour, FONT)
    return np.asarray(drawn)


def joints(image, example):
    """The picture with a dot on every joint that is visible."""
    drawn = Image.fromarray(image)
    pen = ImageDraw.Draw(drawn)
    for x, y, visible in example["joints"]:
        if visible:
            pen.circle((x * len(image), y * len(image)), 3, fill=(255, 0, 0))
    return np.asarray(drawn)


def coloured(key):
    """A panel that tints the picture by the numbers of a map; 0 stays as it is."""

    def panel(image, example):
        numbers = enlarge(example[key], len(image))
        tinted = image // 2 + PALETTE[numbers % len(PALETTE)] // 2
        return np.where(numbers[..., None] > 0, tinted, image)

    return panel


def depth(image, example):
    """The depth, near white and far black."""
    grey = (255 * (1 - enlarge(example["depth"], len(image)))).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=-1)


def hole(image, example):
    """The picture, grey in the hole."""
    return np.where(enlarge(example["mask"], len(image))[..., None] > 0, 128, image)


# Key of a batch -> panel (enlarged picture, example) -> picture of that size.
PANELS = {
    "boxes": boxes,
    "segmentation": coloured("segmentation"),
    "instances": coloured("instances"),
    "depth": depth,
    "joints": joints,
    "mask": hole,
    "low_res": lambda image, example: enlarge(example["low_res"], len(image)),
}


def enlarge(x, side):
    """[H, W, ...] -> [side, side, ...], pixels repeated; side a multiple of both."""
    times = side // len(x)
    return x.repeat(times, axis=0).repeat(times, axis=1)


def cell(example, said_by):
    """One example: its picture, a panel for each further key, its text below."""
    image = np.asarray(pictures.to_uint8(pictures.to_float(example["image"])))
    image = enlarge(image, -(-SIDE // len(image)) * len(image))
    panels = [image]
    panels += [draw(image, example) for key, draw in PANELS.items() if key in example]
    picture = np.concatenate(panels, axis=1).astype(np.uint8)
    said = [f"label {example['label']}"] if "label" in example else []
    if "tokens" in example:
        said.append(said_by(example["tokens"]))
    lines = textwrap.wrap(" ".join(said), picture.shape[1] // 6)
    return picture, lines


def reader(config):
    """(tokens of one example) -> what they say; None where a model has no tokens."""
    section = config.cond_stage if config.task == "latent_diffusion" else None
    if section and section.kind in tokenizers.SPOKEN:
        return tokenizers.load(section).sentence
    return functools.partial(_layout, config) if section else None


def _layout(config, tokens):
    """The objects of a layout's tokens and its crop, corners in hundredths."""
    names, section = class_names.of(config), config.cond_stage
    told = layout.objects_of(tokens, section.vocab, section.classes)
    kinds, boxes, flags, crop = told
    said = [
        f"{names[kind]}{'*' * bool(flag)} {corners(box)}"
        for kind, box, flag in zip(kinds, boxes, flags, strict=True)
    ]
    return "; ".join([*said, f"crop {corners(crop)}"])


def corners(box):
    return " ".join(f"{100 * value:.0f}" for value in box)


def sheet(batch, said_by=None):
    """uint8 [H, W, 3]: a cell for every example of a batch as the model is given it.

    said_by: `reader` of the config, if the batch has tokens.
    """
    count = len(batch["image"])
    examples = [{key: x[i] for key, x in batch.items()} for i in range(count)]
    cells = [cell(example, said_by) for example in examples]
    text = PAD + LINE * max(len(lines) for _, lines in cells)
    drawn = []
    for picture, lines in cells:
        canvas = np.full((len(picture) + text, picture.shape[1], 3), 255, np.uint8)
        canvas[: len(picture)] = picture
        canvas = Image.fromarray(canvas)
        words = "\n".join(lines)
        ImageDraw.Draw(canvas).text((2, len(picture) + 1), words, 0, FONT)
        drawn.append(np.asarray(canvas))
    height, width, _ = drawn[0].shape
    columns = max(1, round((count * height / width) ** 0.5))  # about as high as wide
    return pictures.grid(np.stack(drawn), columns, PAD)


def first_batch(config, keys, count):
    """`count` examples of the first training batches, as the model is given them."""
    if config.data.latents:
        raise ValueError(
            f"data.latents {config.data.latents!r} has no pictures to draw: "
            "--config.data.latents= --config.data.texts=False draws those that it was "
            "made from"
        )
    prepare, rng = inputs.prepare(config), np.random.default_rng(config.seed)
    example = prepare(inputs.source(config, "train")[0], rng)
    arrays = {key: x for key, x in example.items() if not isinstance(x, str)}
    keys = [key for key in dict.fromkeys(keys) if names.pick(arrays, key) is not None]
    parts = []
    with inputs.batches(config, keys) as batches:
        while sum(len(part["image"]) for part in parts) < count:
            parts.append(next(batches))
    return {key: np.concatenate([p[key] for p in parts])[:count] for key in keys}
