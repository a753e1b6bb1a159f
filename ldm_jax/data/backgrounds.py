"""Sky and ground of a scene: colours, segments and depth of every pixel."""

import dataclasses

import numpy as np

from ldm_jax.data import captions, labels

# Top and horizon colour of each sky, and the light it throws on everything below.
_SKY = {
    "blue": ((70, 140, 225), (190, 225, 250), (1.0, 1.0, 1.0)),
    "cloudy": ((130, 145, 165), (205, 212, 220), (0.93, 0.94, 0.97)),
    "sunset": ((85, 70, 150), (255, 150, 70), (1.0, 0.9, 0.8)),
    "pink": ((150, 150, 215), (250, 195, 205), (1.0, 0.95, 0.96)),
    "night": ((12, 16, 50), (48, 56, 110), (0.7, 0.74, 0.9)),
}
# Near and far colour of each ground.
_GROUND = {
    "grass": ((70, 150, 50), (150, 200, 110)),
    "sand": ((222, 184, 120), (240, 215, 165)),
    "snow": ((238, 243, 250), (205, 220, 238)),
    "road": ((84, 86, 92), (130, 132, 138)),
    "water": ((28, 105, 160), (100, 175, 210)),
}
_ROUGH = {"grass": 0.16, "sand": 0.08, "snow": 0.04, "road": 0.05, "water": 0.14}
_HILLY = ("grass", "sand", "snow")
_TABLE = 64


@dataclasses.dataclass(frozen=True)
class View:
    """Where a scene is: places in captions.GROUNDS and SKIES, horizon in 0..1."""

    ground: int
    sky: int
    horizon: float


def random_view(rng):
    ground, sky = rng.integers(len(captions.GROUNDS)), rng.integers(len(captions.SKIES))
    return View(int(ground), int(sky), float(rng.uniform(0.32, 0.55)))


def light(view):
    """The colour factor of the sky's light, float32 [3]."""
    return np.array(_SKY[captions.SKIES[view.sky]][2], np.float32)


def nearness(view, y):
    """0 at the horizon, 1 at the lower edge: relative disparity of the ground plane."""
    return ((y - view.horizon) / (1 - view.horizon)).clip(0, 1)


def draw(rng, view, size):
    """Empty scene: image float32 [S, S, 3] in 0..255, segmentation uint8, depth.

    Depth is 1 - disparity, affine in a ground plane's picture row, 1 in the sky.
    """
    centres = ((np.arange(size) + 0.5) / size).astype(np.float32)
    line = view.horizon - _hills(rng, captions.GROUNDS[view.ground], centres)
    # A soft edge of one pixel between sky and ground.
    cover = ((centres[:, None] - line) * size + 0.5).clip(0, 1)[..., None]
    near = nearness(view, centres)
    ground = _ground(rng, view, centres, near) * light(view)
    image = _sky(rng, view, centres) * (1 - cover) + ground * cover
    below = cover[..., 0] > 0.5
    segment = labels.ground_segment(view.ground)
    segmentation = np.where(below, segment, labels.SKY).astype(np.uint8)
    depth = np.where(below, 1 - near[:, None], 1).astype(np.float32)
    return image.astype(np.float32), segmentation, depth


def _hills(rng, ground, x):
    """Height of the land over the horizon at every column, in picture sides."""
    height = rng.uniform(0, 0.035, 3) * (ground in _HILLY)
    waves = rng.uniform((0.5, 1.5, 3), (1.2, 3, 6)), rng.uniform(0, 2 * np.pi, 3)
    angle = 2 * np.pi * waves[0] * x[:, None] + waves[1]
    return (height * (1 + np.sin(angle))).sum(1)


def _jitter(rng, colours):
    """Colours [..., 3] moved a little, together in light and apart in hue."""
    return np.array(colours) * rng.uniform(0.9, 1.06) + rng.uniform(-10, 10, 3)


def _sky(rng, view, centres):
    kind = captions.SKIES[view.sky]
    top, low = _jitter(rng, _SKY[kind][:2])
    share = (centres / view.horizon).clip(0, 1)[:, None, None]
    image = np.broadcast_to(top * (1 - share) + low * share, (*2 * centres.shape, 3))
    if kind == "night":
        return image + _stars(rng, view, centres)
    count = rng.integers(5, 9) if kind == "cloudy" else rng.integers(0, 4)
    cover = _clouds(rng, view, centres, count)[..., None]
    white = np.array((255, 255, 255)) * 0.5 + low * 0.5
    return image * (1 - cover) + white * cover


def _clouds(rng, view, centres, count):
    """Cover in 0..0.85: each cloud is three soft flat discs in a row."""
    clear = np.ones((*2 * centres.shape,))
    for _ in range(count):
        x, y = rng.uniform(0, 1), rng.uniform(0.05, 0.7) * view.horizon
        wide = rng.uniform(0.05, 0.11)
        for step in (-1, 0, 1):
            dx = (centres - x - step * wide) / (wide * rng.uniform(0.8, 1.3))
            dy = (centres - y + (step == 0) * 0.3 * wide) / (wide * 0.6)
            clear *= 1 - 0.8 * np.exp(-((dx[None] ** 2 + dy[:, None] ** 2) ** 2))
    return 0.85 * (1 - clear)


def _stars(rng, view, centres):
    """Additive light of some stars and the moon."""
    x, y = rng.uniform(0.1, 0.9), rng.uniform(0.1, 0.5) * view.horizon
    far = np.hypot(centres[None] - x, centres[:, None] - y)
    glow = 190 * ((0.045 - far) * len(centres) + 0.5).clip(0, 1)
    for x, y in rng.uniform(0, (1, view.horizon), (12, 2)):
        row, column = int(y * len(centres)), int(x * len(centres))
        glow[row, column] += rng.uniform(60, 170)
    return glow[..., None]


def _ground(rng, view, centres, near):
    """Colours of the ground plane, float [S, S, 3]; sky rows are meaningless."""
    kind = captions.GROUNDS[view.ground]
    close, far = _jitter(rng, _GROUND[kind])
    share = near[:, None, None]
    # Coordinates on the plane: u across, v along, both per camera height.
    disparity = np.maximum(near, 0.04)[:, None]
    u = (centres[None] - 0.5) / disparity + 10
    v = np.broadcast_to(1 / disparity, u.shape)
    stretch = (2, 9) if kind == "water" else (7, 7)
    rough = _noise(rng, u * stretch[0], v * stretch[1]) * _ROUGH[kind]
    # Far texture is finer than a pixel: fade it.
    rough = rough * (near[:, None] * 3).clip(0, 1)
    image = (close * share + far * (1 - share)) * (1 + rough[..., None])
    if kind == "road":
        paint = _lanes(rng, u - 10, v, disparity * len(centres))[..., None]
        image = image * (1 - paint) + 235 * paint
    return image


def _noise(rng, u, v):
    """Smooth noise in -1..1 at plane coordinates: bilinear from a random table."""
    table = rng.uniform(-1, 1, (_TABLE, _TABLE))
    column, row = u.astype(int), v.astype(int)
    du, dv = u - column, v - row
    at = (
        table[row % _TABLE, column % _TABLE],
        table[row % _TABLE, (column + 1) % _TABLE],
    )
    row = row + 1
    to = (
        table[row % _TABLE, column % _TABLE],
        table[row % _TABLE, (column + 1) % _TABLE],
    )
    upper, lower = at[0] * (1 - du) + at[1] * du, to[0] * (1 - du) + to[1] * du
    return upper * (1 - dv) + lower * dv


def _lanes(rng, u, v, pixels):
    """Cover of the white lines: a broken middle line and two edge lines."""
    middle, width = rng.uniform(-0.15, 0.15), 0.018
    cover = np.zeros(u.shape)
    for at in (middle - 0.75, middle, middle + 0.75):
        stroke = ((width - np.abs(u - at)) * pixels + 0.5).clip(0, 1)
        broken = (v * 1.6) % 1 < 0.55 if at == middle else 1
        cover = np.maximum(cover, stroke * broken)
    return cover * 0.85
