"""Composed scenes: several objects and people on a ground plane, endless.

Everything about a scene is known: caption with relations, boxes, segments, instances,
depth and joints. Objects are painted from far to near, and numbered in that order.
"""

import dataclasses

import numpy as np

from ldm_jax.data import backgrounds, captions, labels, masks, sprites, things

AIRCRAFT = labels.CLASSES.index("aircraft")
_WATER = captions.GROUNDS.index("water")
# The longer side of each class in pictures, where it is nearest.
_SIZES = (0.46, 0.48, 0.37, 0.66, 0.55, 0.38, 0.64)
_MOST_COVERED = 0.4
_LEAST_AREA = 0.006
_TRIES = 6
# How many captions say nothing of where things are, one thing and two: in scenes, and
# in lessons.
_SAID = (0.2, 0.6, 0.2)
_SAID_IN_LESSONS = (0.05, 0.35, 0.6)


@dataclasses.dataclass(frozen=True)
class Placed:
    """A thing in the picture: nearness 0..1, and its visible box."""

    thing: things.Thing
    near: float
    box: tuple
    area: int
    joints: np.ndarray | None

    @property
    def centre(self):
        return (self.box[0] + self.box[2]) / 2, (self.box[1] + self.box[3]) / 2


@dataclasses.dataclass(frozen=True, eq=False)
class Canvas:
    """The scene's arrays, painted in place; `full` has each object's solid area."""

    image: np.ndarray
    segmentation: np.ndarray
    depth: np.ndarray
    instances: np.ndarray
    full: list


def _stand(rng, view, thing, near, shape, size):
    """Random left and lower edge, in pixels, of a picture of this shape."""
    height, width = shape
    left = rng.uniform(-0.1 * width, size - 0.9 * width)
    if thing.kind == AIRCRAFT:
        highest, lowest = 0.8 * height, (view.horizon + 0.02) * size
        return round(left), round(rng.uniform(highest, max(highest, lowest)))
    return round(left), round((view.horizon + near * (1 - view.horizon)) * size)


def _shadow(canvas, left, foot, width):
    """Darkens the bare ground under an object."""
    size = len(canvas.image)
    grid = np.arange(size) + 0.5
    dx = (grid - left - width / 2) / (0.5 * width)
    dy = (grid - foot + 0.02 * width) / max(0.12 * width, 1.5)
    far = dx[None] ** 2 + dy[:, None] ** 2
    dark = 0.42 * (1.15 - far).clip(0, 1) * (canvas.instances == 0)
    dark *= canvas.segmentation != labels.SKY
    canvas.image[:] *= 1 - dark[..., None]


def _place(rng, view, canvas, thing, near):
    """Paints a thing where it hides no other too much; its Placed, or None."""
    size = len(canvas.image)
    side = _SIZES[thing.kind] * rng.uniform(0.85, 1.1) * (0.4 + 0.6 * near) * size
    pixels, joints = things.pixels(thing, max(4, round(side)), bool(rng.integers(2)))
    pixels = pixels * np.append(backgrounds.light(view), 1)
    height, width = pixels.shape[:2]
    for _ in range(_TRIES):
        left, foot = _stand(rng, view, thing, near, (height, width), size)
        top = foot - height
        window = slice(max(top, 0), foot), slice(max(left, 0), left + width)
        cut = pixels[max(-top, 0) : size - top, max(-left, 0) : size - left]
        if _fits(canvas, window, cut[..., 3] > 127):
            if thing.kind != AIRCRAFT:
                _shadow(canvas, left, foot, width)
            _paint(canvas, window, cut, thing, near)
            joints = None if joints is None else joints + (left, top)
            return Placed(thing, near, (), 0, joints)
    return None


def _fits(canvas, window, solid):
    """Big enough in the picture, and no earlier object loses too much."""
    area = np.count_nonzero(solid)
    if area < _LEAST_AREA * canvas.instances.size:
        return False
    count = len(canvas.full) + 1
    left = np.bincount(canvas.instances.ravel(), minlength=count)
    lost = np.bincount(canvas.instances[window][solid], minlength=count)
    full = np.array(canvas.full)
    return bool(np.all((left - lost)[1:] >= (1 - _MOST_COVERED) * full))


def _paint(canvas, window, pixels, thing, near):
    alpha = pixels[..., 3:] / 255
    canvas.image[window] = canvas.image[window] * (1 - alpha) + pixels[..., :3]
    solid = pixels[..., 3] > 127
    canvas.full.append(np.count_nonzero(solid))
    canvas.instances[window][solid] = len(canvas.full)
    canvas.segmentation[window][solid] = labels.segment_of(thing.kind)
    canvas.depth[window][solid] = 1 - near


def _compose(rng, split, size, few, people):
    """One try: view, canvas and placed things, or None if too few found room."""
    view = backgrounds.random_view(rng)
    share = 1.0 if people else things.PERSON_SHARE
    chosen = things.draw(rng, split, view.ground == _WATER, few, share)
    blank = np.zeros((size, size), np.uint8)
    canvas = Canvas(*backgrounds.draw(rng, view, size), blank, [])
    nears = np.sort(rng.uniform(0.12, 0.96, len(chosen)))
    order = rng.permutation(len(chosen))
    placed = [
        _place(rng, view, canvas, chosen[k], float(near))
        for k, near in zip(order, nears, strict=True)
    ]
    placed = [_seen(canvas, k, p) for k, p in enumerate(filter(None, placed))]
    names = [p.thing.name for p in placed]
    sprite = any(p.thing.figure is None for p in placed)
    if people and all(p.thing.figure is None for p in placed):
        return None
    if len(placed) < 2 or not sprite or things.forbidden(names) != (split == "heldout"):
        return None
    return view, canvas, placed


def _seen(canvas, k, placed):
    """The placed thing with its visible box and area."""
    visible = canvas.instances == k + 1
    area = int(np.count_nonzero(visible))
    return dataclasses.replace(placed, box=labels.box_of(visible), area=area)


def _relations(rng, placed, shares):
    """Up to two true statements, each about another pair of the placed things.

    Rows (place of the first, place in captions.RELATIONS, place of the second). Shares
    are those of captions that are to have none, one and two.
    """
    count = rng.choice(len(shares), p=shares)
    found = []
    for first in rng.permutation(len(placed)):
        for second in rng.permutation(first):
            a, b = (first, second) if rng.integers(2) else (second, first)
            said = list(_say(placed[a], placed[b]))
            if said and len(found) < count:
                relation = captions.RELATIONS.index(said[rng.integers(len(said))])
                found.append((a, relation, b))
    return found


def _in_words(relations, placed):
    """Rows as of `_relations` as (name, relation, name)."""
    names = [p.thing.name for p in placed]
    return [(names[a], captions.RELATIONS[r], names[b]) for a, r, b in relations]


def _number(thing):
    """Its place among the scene sprites, or labels.PERSON."""
    if thing.figure is not None:
        return labels.PERSON
    return sprites.load().scene_indices.index(thing.cell)


def _say(a, b):
    """What holds of a against b."""
    dx, dy = np.subtract(a.centre, b.centre)
    overlap = min(a.box[2], b.box[2]) - max(a.box[0], b.box[0])
    flying = a.thing.kind == AIRCRAFT, b.thing.kind == AIRCRAFT
    if abs(dx) > 0.15:
        yield "left of" if dx < 0 else "right of"
    if overlap > 0.03 and abs(a.near - b.near) > 0.08 and not any(flying):
        yield "in front of" if a.near > b.near else "behind"
    if flying[0] != flying[1] and abs(dy) > 0.2:
        yield "above" if dy < 0 else "below"


def _visible_joints(canvas, placed):
    """Joints [18, 3]: x and y in 0..1 and 1 where the person itself is seen there."""
    joints = np.zeros((labels.JOINTS, 3), np.float32)
    size = len(canvas.instances)
    for k, one in enumerate(placed, 1):
        if one.joints is None:
            continue
        body = np.pad(canvas.instances == k, 1)
        for row, (x, y) in enumerate(one.joints):
            left, top = int(x), int(y)
            inside = 0 <= x < size and 0 <= y < size
            seen = inside and body[top : top + 3, left : left + 3].any()
            joints[row] = x / size, y / size, seen
    return joints


@dataclasses.dataclass(frozen=True)
class Scenes:
    """Endless composed scenes; see labels.example for the arrays of an item.

    Those of a lesson hold fewer things, and their captions say more of where they are.
    With `people` there is a person in each, else in 15%.
    """

    split: str
    seed: int
    image_size: int
    lesson: bool = False
    people: bool = False

    def __len__(self):
        return labels.ENDLESS

    def __getitem__(self, index):
        rng = labels.rng(self.seed, self.split, index)
        size = self.image_size
        kind = self.lesson, self.people
        while (scene := _compose(rng, self.split, size, *kind)) is None:
            pass
        view, canvas, placed = scene
        by_area = sorted(placed, key=lambda p: -p.area)
        main = next(p.thing for p in by_area if p.thing.figure is None)
        phrases = [p.thing.phrase for p in by_area]
        said = _SAID_IN_LESSONS if self.lesson else _SAID
        relations = _relations(rng, placed, said)
        style = int(rng.integers(captions.STYLES))
        place = view.ground, view.sky, _in_words(relations, placed), style
        return labels.example(
            image=(canvas.image + 0.5).clip(0, 255).astype(np.uint8),
            caption=captions.scene_caption(phrases, *place),
            label=_number(main),
            classes=[p.thing.kind for p in placed],
            things=[_number(p.thing) for p in placed],
            relations=relations,
            instances=canvas.instances,
            segmentation=canvas.segmentation,
            depth=canvas.depth,
            joints=_visible_joints(canvas, placed),
            mask=masks.hole(rng, canvas.instances),
        )
