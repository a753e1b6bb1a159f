"""Holes for in-painting: an object's outline, boxes, or thick strokes."""

import numpy as np


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
