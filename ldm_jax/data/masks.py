"""Holes for in-painting: an object's outline, boxes, strokes; LaMa's random ones."""

import functools

import numpy as np

from ldm_jax import names


def hole(rng, instances):
    """uint8 [S, S], 1 in the hole: an object (a little grown), a box or strokes."""
    kind = rng.integers(3)
    count = int(instances.max())
    if kind == 0 and count:
        return _grow(instances == rng.integers(1, count + 1)).astype(np.uint8)
    size = len(instances)
    return (_box(rng, size) if kind == 1 else _strokes(rng, size)).astype(np.uint8)


def _grow(mask):
    """The mask and every pixel within two steps of it."""
    wide = mask.copy()
    for _ in range(max(1, len(mask) // 32)):
        ring = wide.copy()
        ring[1:] |= wide[:-1]
        ring[:-1] |= wide[1:]
        ring[:, 1:] |= wide[:, :-1]
        ring[:, :-1] |= wide[:, 1:]
        wide = ring
    return wide


def _box(rng, size):
    width, height = rng.integers(size // 5, size // 2 + 1, 2)
    x, y = rng.integers(0, size - width + 1), rng.integers(0, size - height + 1)
    mask = np.zeros((size, size), bool)
    mask[y : y + height, x : x + width] = True
    return mask


def _strokes(rng, size):
    """A polygon line of random turns with a round brush."""
    grid = np.arange(size) + 0.5
    mask = np.zeros((size, size), bool)
    point = rng.uniform(0.15, 0.85, 2) * size
    for _ in range(rng.integers(2, 5)):
        angle = rng.uniform(0, 2 * np.pi)
        step = rng.uniform(0.2, 0.5) * size
        end = (point + step * np.array((np.cos(angle), np.sin(angle)))).clip(0, size)
        mask |= near_segment(grid, grid, point, end) < rng.uniform(0.04, 0.1) * size
        point = end
    return mask


def near_segment(x, y, start, end):
    """Distance of every pixel (x [W], y [H]) to a segment: float [H, W]."""
    along = np.subtract(end, start)
    length = max(float(along @ along), 1e-12)
    dx, dy = x[None] - start[0], y[:, None] - start[1]
    share = ((dx * along[0] + dy * along[1]) / length).clip(0, 1)
    return np.hypot(dx - share * along[0], dy - share * along[1])


def free(rng, size, kind, most=0.95):
    """uint8 [S, S], 1 in the hole: a random hole that knows nothing of the picture.

    kind: of FREE. LaMa, whose protocol LDM follows, trains with "lama" and evaluates by
    strokes of all widths (medium and thick with 3 boxes to 10) of which none covers
    more than most = 0.5. Its training knows no bound; here there is always a hole and
    something around it.
    """
    draw = names.pick(FREE, kind)
    if size < 16 or not 0.25 <= most <= 1:
        raise ValueError(f"size {size} must be 16 or more, most {most} in 0.25 to 1")
    mask = draw(rng, size)
    while mask.all() or not 0 < mask.mean() <= most:
        mask = draw(rng, size)
    return mask.astype(np.uint8)


def _chains(rng, size, *, count, length, width):
    """Chains of 1 to 5 strokes of a round brush; each stroke has its own width."""
    mask = np.zeros((size, size), bool)
    for _ in range(rng.integers(*count, endpoint=True)):
        point = rng.uniform(0, size, 2)
        for _ in range(rng.integers(1, 5, endpoint=True)):
            angle = rng.uniform(0, 2 * np.pi)
            step = rng.uniform(*length) * size / 256
            end = point + step * np.array((np.cos(angle), np.sin(angle)))
            end = end.clip(0, size)
            _stroke(mask, point, end, rng.uniform(*width) * size / 256)
            point = end
    return mask


def _stroke(mask, start, end, width):
    """Adds to a mask, in place, what is near a segment; a line has at least a pixel."""
    radius = max(width, 1) / 2
    left, top = (np.minimum(start, end) - radius).clip(0).astype(int)
    right, bottom = np.ceil(np.maximum(start, end) + radius).astype(int)
    part = mask[top:bottom, left:right]
    rows, columns = part.shape
    x, y = np.arange(columns) + left + 0.5, np.arange(rows) + top + 0.5
    part |= near_segment(x, y, start, end) < radius


def _boxes(rng, size, *, count, side, margin):
    """Boxes that keep off the edge by a margin."""
    mask = np.zeros((size, size), bool)
    small, large, edge = np.rint(np.array((*side, margin)) * size / 256).astype(int)
    for _ in range(rng.integers(*count, endpoint=True)):
        width, height = rng.integers(small, large, 2, endpoint=True)
        x = rng.integers(edge, size - edge - width, endpoint=True)
        y = rng.integers(edge, size - edge - height, endpoint=True)
        mask[y : y + height, x : x + width] = True
    return mask


def _lama(rng, size):
    """Thick strokes or boxes, one half each: what LaMa trains with."""
    return FREE["thick" if rng.integers(2) else "box"](rng, size)


# Pixels of a picture of 256, from LaMa's configs (advimman/lama): the strokes of
# data_gen/random_{thin,medium,thick}_256.yaml, the boxes of training/data/
# abl-04-256-mh-dist.yaml, whose strokes are those of "thick". A length is 10 and up to
# max_len more, a width 5 and up to max_width more, as in its code. Other than there:
# - all directions are drawn; there 0, 1, 2 or 3 radians to either side of one axis
#   (zero123's copy means degrees, and takes their numbers for radians);
# - counts end at max_times; there strokes got one chain more, added twice;
# - all is drawn from `rng`; there from numpy's global state, which workers share.
FREE = {
    "narrow": functools.partial(_chains, count=(4, 50), length=(10, 50), width=(5, 15)),
    "medium": functools.partial(_chains, count=(4, 5), length=(10, 110), width=(5, 55)),
    "thick": functools.partial(_chains, count=(1, 5), length=(10, 210), width=(5, 105)),
    "box": functools.partial(_boxes, count=(1, 4), side=(30, 150), margin=10),
    "lama": _lama,
}
