"""Single objects on plain coloured backgrounds, endless and known by (seed, index).

They are never mirrored: a small model would have to learn each object twice.
"""

import dataclasses
import functools

import numpy as np

from ldm_jax.data import captions, labels, masks, sprites

SCALES = (0.75, 0.95)
SHIFT = 0.04
TAGGED = 0.15
COLOUR_NAMES = tuple(captions.COLOURS)


def single(sprite, colour, size, scale=0.85, offset=(0.0, 0.0)):
    """One picture: uint8 [size, size, 3] and the object's alpha, float32 [size, size].

    sprite is a cell of the sheet; colour a name of COLOURS or an RGB triple; scale
    the share of the picture's side that the cell takes; offset (x, y) of its centre
    from the picture's, in picture sides.
    """
    rgb = captions.COLOURS[colour] if isinstance(colour, str) else colour
    side = max(1, round(scale * size))
    centre = [(0.5 + shift) * size - side / 2 for shift in offset]
    left, top = (round(c) for c in centre)
    layer = np.zeros((size, size, 4), np.float32)
    pixels = sprites.draw(sprite, side, side)
    y, x = slice(max(top, 0), top + side), slice(max(left, 0), left + side)
    cut = pixels[max(-top, 0) : size - top, max(-left, 0) : size - left]
    layer[y, x] = cut
    alpha = layer[..., 3] / 255
    image = layer[..., :3] + (1 - alpha[..., None]) * np.asarray(rgb, np.float32)
    return (image + 0.5).clip(0, 255).astype(np.uint8), alpha


@functools.cache
def pairs(split):
    """The (label, colour) numbers of a split, int [n, 2]; the splits share none."""
    loaded = sprites.load()
    names = [loaded.names[i] for i in loaded.scene_indices]
    wanted = {"train": False, "heldout": True}[split]
    return np.array(
        [
            (label, colour)
            for label, name in enumerate(names)
            for colour, said in enumerate(COLOUR_NAMES)
            if captions.held_out(name, said) == wanted
        ]
    )


@dataclasses.dataclass(frozen=True)
class Singles:
    """Endless single objects; see labels.example for the arrays of an item."""

    split: str
    seed: int
    image_size: int

    def __len__(self):
        return labels.ENDLESS

    def __getitem__(self, index):
        rng = labels.rng(self.seed, self.split, index)
        choice = pairs(self.split)
        label, colour = choice[rng.integers(len(choice))]
        loaded = sprites.load()
        cell = loaded.scene_indices[label]
        tags = loaded.tags[cell]
        tag = tags[rng.integers(len(tags))] if tags and rng.random() < TAGGED else None
        place = {
            "scale": rng.uniform(*SCALES),
            "offset": rng.uniform(-SHIFT, SHIFT, 2),
        }
        name = COLOUR_NAMES[colour]
        rgb = np.clip(
            np.array(captions.COLOURS[name]) * rng.uniform(0.96, 1.04), 0, 255
        )
        image, alpha = single(cell, rgb, self.image_size, **place)
        visible = (alpha > 0.5).astype(np.uint8)
        kind = loaded.scene_class[label]
        return labels.example(
            image=image,
            caption=captions.single_caption(loaded.names[cell], name, tag),
            label=label,
            classes=[kind],
            things=[label],
            instances=visible,
            segmentation=np.where(
                visible, labels.segment_of(kind), labels.BACKDROP
            ).astype(np.uint8),
            depth=np.where(visible, 0.5, 1.0).astype(np.float32),
            mask=masks.hole(rng, visible),
        )
