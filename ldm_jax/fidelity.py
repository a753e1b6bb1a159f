"""Do pictures show what their captions say? Judged by VGG16 on the 266 scene sprites.

The prompts name one sprite on one of the palette's colours. A picture is compared with
all 266 sprites, each drawn plainly on the prompt's colour: the background is the same
in all of them, so that only the object decides which ones are nearest.

  own_in_5     share of pictures whose own sprite is among the 5 nearest
  own_nearest  share where it is the nearest
  colour       share whose frame is nearest to the prompted colour of the palette
"""

import dataclasses
import functools
import zlib

import jax
import jax.numpy as jnp
import numpy as np

from ldm_jax import cli, evaluation, frozen, generation, pictures, reconstruction
from ldm_jax import prompts as prompts_lib
from ldm_jax.data import captions, singles, sprites
from ldm_jax.models import perceptual

CELLS = 4  # a side, of the grid that activations are averaged over
NEAR = 5


@dataclasses.dataclass(frozen=True)
class Prompts:
    """What to draw: places in the scene sprites and in the palette, int [n] each."""

    labels: np.ndarray
    colours: np.ndarray

    def captions(self):
        loaded = sprites.load()
        return [
            captions.single_caption(
                loaded.names[loaded.scene_indices[label]], singles.COLOUR_NAMES[colour]
            )
            for label, colour in zip(self.labels, self.colours, strict=True)
        ]

    def held_out(self):
        """Which pairs of object and colour no training picture shows: bool [n]."""
        pairs = {tuple(pair) for pair in singles.pairs("heldout")}
        own = zip(self.labels.tolist(), self.colours.tolist(), strict=True)
        return np.array([pair in pairs for pair in own], bool)

    def shuffled(self):
        """The same prompts in another order: judged by these, pictures show chance."""
        order = np.random.default_rng(0).permutation(len(self.labels))
        return Prompts(self.labels[order], self.colours[order])


def prompts(names, seeds):
    """The first `names` sprites by hash of the name, `seeds` of each in a row.

    The palette's colours follow one another, so that all are equally frequent.
    """
    loaded = sprites.load()
    cells = loaded.scene_indices
    if not 1 <= names <= len(cells):
        raise ValueError(f"names {names} must be between 1 and {len(cells)}")
    by_hash = sorted(range(len(cells)), key=lambda i: _hash(loaded.names[cells[i]]))
    labels = np.repeat(by_hash[:names], seeds)
    return Prompts(labels, np.arange(len(labels)) % len(singles.COLOUR_NAMES))


def _hash(name):
    return zlib.crc32(name.encode()), name


def real(asked, size):
    """The prompts drawn with the training set's places: uint8 [n, S, S, 3]."""
    gen = np.random.default_rng(0)
    images = []
    for label, colour in zip(asked.labels, asked.colours, strict=True):
        place = {
            "scale": gen.uniform(*singles.SCALES),
            "offset": gen.uniform(-singles.SHIFT, singles.SHIFT, 2),
        }
        images.append(_plain(label, colour, size, **place))
    return np.stack(images)


def gallery(colour, size):
    """All scene sprites on one colour: uint8 [266, S, S, 3]."""
    count = len(sprites.load().scene_indices)
    return np.stack([_plain(label, colour, size) for label in range(count)])


def _plain(label, colour, size, **place):
    cell = sprites.load().scene_indices[label]
    return singles.single(cell, singles.COLOUR_NAMES[colour], size, **place)[0]


@functools.partial(jax.jit, static_argnames="net")
def describe(params, images, net="vgg16"):
    """uint8 [B, S, S, 3] -> features of unit length, float32 [B, D].

    Each tap is averaged over 4 x 4 cells, scaled to unit length, and all three count
    alike. Chosen on real pictures, before there was a model, when pictures were still
    mirrored and the nearer of two views counted, from single and several taps, 1, 2
    and 4 cells, plain, centred and channel-normalised activations: all find the own
    sprite at the training set's places, and this one also at twice those ranges (100%
    nearest), shrunk to 16 px and back (94%) and under noise of 25 grey levels (91%).
    One cell a side, or relu5_3 alone, falls below 50% there.
    """
    taps = perceptual.features(params, pictures.to_float(images), net)
    parts = [_coarse(taps[tap]) for tap in reconstruction.TAPS]
    return jnp.concatenate(parts, axis=-1) / np.sqrt(len(parts))


def _coarse(h):
    batch, height, width, channels = h.shape
    if height % CELLS or width % CELLS:
        raise ValueError(f"activations of {height}x{width} do not divide by {CELLS}")
    cells = h.reshape(
        batch, CELLS, height // CELLS, CELLS, width // CELLS, channels
    ).mean((2, 4))
    flat = cells.reshape(batch, -1)
    return flat / (jnp.linalg.norm(flat, axis=-1, keepdims=True) + 1e-10)


def features(images, bar, batch_size=16):
    """`describe` in batches of one size: uint8 [N, S, S, 3] -> float32 [N, D]."""
    params = _judge()
    rows = []
    for start in range(0, len(images), batch_size):
        place = np.minimum(np.arange(start, start + batch_size), len(images) - 1)
        rows.append(np.asarray(describe(params, images[place])))
        bar.update(min(batch_size, len(images) - start))
    return np.concatenate(rows)[: len(images)]


@functools.cache
def _judge():
    return jax.device_put(frozen.perceptual("vgg16"))


def require_judge(size):
    """Raises, before anything is drawn, where pictures of this size have no judge."""
    if size % (16 * CELLS):
        raise ValueError(f"image_size {size} must be a multiple of {16 * CELLS}")
    _judge()


def ranks(sets, size, bar):
    """How many sprites are nearer than the own one: {name: int [n]}.

    sets: {name: (features [n, D], Prompts)}. Each colour's gallery is described once.
    """
    found = {
        name: np.zeros(len(asked.labels), int) for name, (_, asked) in sets.items()
    }
    used = np.unique(np.concatenate([asked.colours for _, asked in sets.values()]))
    for colour in used:
        references = features(gallery(colour, size), bar)
        for name, (seen, asked) in sets.items():
            here = asked.colours == colour
            own = asked.labels[here]
            found[name][here] = evaluation.judge(references, seen[here], own)
    return found


def colours_right(images, asked):
    """Whether each picture's frame is nearest to the prompt's colour: bool [n]."""
    palette = [captions.COLOURS[name] for name in singles.COLOUR_NAMES]
    seen = evaluation.border_colour(images)
    return evaluation.nearest_colour(seen, palette) == asked.colours


def shares(rank, right):
    return {
        "n": len(rank),
        "own_in_5": float(np.mean(rank < NEAR)),
        "own_nearest": float(np.mean(rank == 0)),
        "colour": float(np.mean(right)),
    }


def compare(asked, drawn, ceiling, bar):
    """The figures of drawn pictures, beside ceiling, chance and held-out prompts.

    asked: Prompts; drawn, ceiling: uint8 [n, S, S, 3], the model's pictures and real
    ones after the first stage.
    """
    seen, other = features(drawn, bar), asked.shuffled()
    sets = {"drawn": (seen, asked), "shuffled": (seen, other)}
    sets["ceiling"] = (features(ceiling, bar), asked)
    found = ranks(sets, drawn.shape[1], bar)
    right, kept = colours_right(drawn, asked), asked.held_out()
    return shares(found["drawn"], right) | {
        "ceiling": shares(found["ceiling"], colours_right(ceiling, asked)),
        "shuffled": shares(found["shuffled"], colours_right(drawn, other)),
        "held_out": shares(found["drawn"][kept], right[kept]) if kept.any() else None,
    }


def evaluate(model, names, seeds, seed, batch_size, progress):
    """(figures, sheet rows): generation.Model -> dict, uint8 [n, 2, S, S, 3].

    The rows hold each generated picture and its sprite. progress(total) makes a bar.
    """
    size = model.config.data.image_size
    require_judge(size)
    asked = prompts(names, seeds)
    count = len(asked.labels)
    galleries = len(np.unique(asked.colours)) * len(sprites.load().scene_indices)
    with progress(4 * count + galleries) as bar:
        drawn = draw(model, asked.captions(), seed, batch_size, bar)
        keys = generation.keys(seed, np.arange(count))
        truth = real(asked, size)
        ceiling = reconstruction.through(model, truth, keys, batch_size, bar)
        figures = compare(asked, drawn, ceiling, bar)
    return figures, np.stack([drawn, truth], axis=1)


def draw(model, texts, seed, batch_size, bar):
    """The model's pictures of n texts, which one without a condition ignores.

    uint8 [n, S, S, 3]; raises FloatingPointError where numbers are not finite.
    """
    blind = model.config.cond_stage.kind == "none"
    batch = {} if blind else prompts_lib.arrays(model, texts, warn=cli.say)
    return _drawn(model, batch, len(texts), seed, batch_size, bar)


def draw_told(model, examples, seed, batch_size, bar, leave=()):
    """The same of n examples, each told what `inputs.Prepare` says of one.

    Of the picture itself in-painting alone is told, and no more than is around a hole.
    leave: names of what is not told, such as a hint.
    """
    names = set(model.system.heldout).difference(leave)
    if not model.config.cond_stage.inpaint:
        names.discard("image")
    batch = {name: np.stack([e[name] for e in examples]) for name in names}
    return _drawn(model, batch, len(examples), seed, batch_size, bar)


def _drawn(model, batch, count, seed, batch_size, bar):
    keys, images = generation.keys(seed, np.arange(count)), []
    for x in generation.generate(model, batch, keys, batch_size):
        if not np.isfinite(x).all():
            raise FloatingPointError("the model draws pictures that are not finite")
        images.append(np.asarray(pictures.to_uint8(x)))
        bar.update(len(x))
    return np.concatenate(images)
