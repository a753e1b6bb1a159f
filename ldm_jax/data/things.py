"""What may stand in a scene: sprites of six classes and drawn people."""

import dataclasses
import functools

import numpy as np

from ldm_jax.data import captions, labels, mannequin, sprites

_PERSON = labels.CLASSES.index("person")
_AIRCRAFT = labels.CLASSES.index("aircraft")
PERSON_SHARE = 0.19  # of the scenes on land: 15 % of all
_AFLOAT = ("duck", "swan", "goose", "turtle", "crocodile", "hippopotamus", "frog")
_SHARES = (0.34, 0.15, 0.12, 0.14, 0.17, 0.08)  # of the sprite classes


@dataclasses.dataclass(frozen=True)
class Thing:
    """What may stand in a scene: a sprite, or a figure (then cell is -1)."""

    name: str
    phrase: str
    kind: int
    cell: int
    figure: mannequin.Figure | None = None


@functools.cache
def _pools(water):
    """For each sprite class the things that fit on this ground."""
    loaded = sprites.load()
    pools = [[] for _ in sprites.SCENE_CLASSES]
    for cell, kind in zip(loaded.scene_indices, loaded.scene_class, strict=True):
        name, part = loaded.names[cell], loaded.subcategories[cell]
        floats = part in ("animal-marine", "transport-water") or name in _AFLOAT
        if kind == _AIRCRAFT or floats == water:
            thing = Thing(name, captions.with_article(name), kind, cell)
            pools[kind].append(thing)
    return pools


def _draw_sprite(rng, water):
    pools = _pools(water)
    share = np.array([s * bool(pool) for s, pool in zip(_SHARES, pools, strict=True)])
    pool = pools[rng.choice(len(pools), p=share / share.sum())]
    return pool[rng.integers(len(pool))]


def _draw_person(rng):
    figure = mannequin.random_figure(rng)
    phrase = captions.person(figure.pose, figure.shirt, figure.trousers)
    return Thing("person", phrase, _PERSON, -1, figure)


def forbidden(names):
    """Whether any two of the names are a held-out pair."""
    return any(captions.held_out(a, b) for i, a in enumerate(names) for b in names[:i])


@functools.cache
def _held_out_pairs(water):
    """Every held-out pair of sprites, and the names held out beside a person."""
    things = [thing for pool in _pools(water) for thing in pool]
    pairs = [
        (a, b)
        for i, a in enumerate(things)
        for b in things[:i]
        if captions.held_out(a.name, b.name)
    ]
    return pairs, [t for t in things if captions.held_out("person", t.name)]


def _first_things(rng, split, water, people):
    """What a scene starts from: one thing, or a held-out pair."""
    person = not water and rng.random() < people
    if split == "train":
        return [_draw_person(rng) if person else _draw_sprite(rng, water)]
    pairs, beside_person = _held_out_pairs(water)
    if person:
        return [_draw_person(rng), beside_person[rng.integers(len(beside_person))]]
    return list(pairs[rng.integers(len(pairs))])


def draw(rng, split, water, few=False, people=PERSON_SHARE):
    """2 to 5 different things; no held-out pair in 'train', at least one otherwise.

    Every number is as frequent as the others; with few, it is the smaller of two drawn.
    people: the share of scenes on land with a person.
    """
    count = min(rng.integers(2, labels.MAX_OBJECTS + 1, size=2 if few else 1))
    things = _first_things(rng, split, water, people)
    while len(things) < count:
        new = _draw_sprite(rng, water)
        names = [thing.name for thing in things]
        fits = split == "heldout" or not forbidden([*names, new.name])
        if fits and new.name not in names:
            things.append(new)
    return things


def pixels(thing, side, flip):
    """The thing with its longer side (a person's height) of `side` pixels.

    Returns RGBA uint8 [h, w, 4], premultiplied, and joints [18, 2] in it or None.
    """
    if thing.figure is not None:
        return mannequin.draw(thing.figure, side)
    wide = sprites.aspect(thing.cell)
    width, height = side * min(wide, 1), side * min(1 / wide, 1)
    width, height = max(1, round(width)), max(1, round(height))
    return sprites.draw(thing.cell, width, height, flip, tight=True), None
