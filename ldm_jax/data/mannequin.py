"""A drawn person with 18 known joints: capsule limbs and clothes by colour name.

Body coordinates: height 1, x to the picture's right from the body's middle, y down
from the crown. The joints are COCO's as OpenPose orders them; the person faces us,
so the right arm is on the picture's left.
"""

import dataclasses

import numpy as np

from ldm_jax.data import captions, masks

JOINTS = (
    ("nose", "neck", "right_shoulder", "right_elbow", "right_wrist")
    + ("left_shoulder", "left_elbow", "left_wrist", "right_hip", "right_knee")
    + ("right_ankle", "left_hip", "left_knee", "left_ankle", "right_eye")
    + ("left_eye", "right_ear", "left_ear")
)
CLOTHES = tuple(captions.COLOURS)
_SKINS = ((255, 214, 180), (232, 184, 138), (196, 140, 96), (140, 92, 62), (92, 60, 44))
_HAIRS = ((40, 28, 24), (110, 68, 36), (226, 186, 96), (170, 74, 36), (150, 150, 150))
_HEAD, _NECK, _ARM, _LEG = 0.105, 0.045, 0.042, 0.055
_REACH = {"upper_arm": 0.15, "forearm": 0.14, "thigh": 0.2, "shin": 0.19}


@dataclasses.dataclass(frozen=True)
class Figure:
    """One person: what is worn, and joints float [18, 2] in body coordinates."""

    pose: str
    shirt: str
    trousers: str
    skin: tuple
    hair: tuple
    joints: np.ndarray


def random_figure(rng):
    pose = captions.POSES[rng.integers(len(captions.POSES))]
    shirt, trousers = (CLOTHES[i] for i in rng.choice(len(CLOTHES), 2, replace=False))
    skin, hair = _SKINS[rng.integers(len(_SKINS))], _HAIRS[rng.integers(len(_HAIRS))]
    return Figure(pose, shirt, trousers, skin, hair, _joints(rng, pose))


def _arm_angles(rng, pose):
    """Degrees outward from straight down: (upper arm, forearm), right then left."""
    down = rng.uniform((8, 0), (28, 22), (2, 2))
    up = rng.uniform((105, 145), (150, 190), (2, 2))
    raised = {"cheering": (True, True), "waving": (True, False)}.get(pose, (False,) * 2)
    if pose == "waving" and rng.integers(2):
        raised = raised[::-1]
    if pose == "walking":
        down[0, 1], down[1, 1] = rng.uniform(25, 70), rng.uniform(-40, -10)
    return np.where(np.array(raised)[:, None], up, down)


def _leg_angles(rng, pose):
    """As _arm_angles, for thigh and shin."""
    if pose == "walking":
        step = rng.uniform(14, 26), rng.uniform(2, 10)
        legs = np.array([step, (rng.uniform(10, 20), rng.uniform(-4, 8))])
        return legs[:: rng.choice((-1, 1))]
    return rng.uniform((2, 0), (9, 6), (2, 2))


def _joints(rng, pose):
    at = {"nose": (0, 0.125), "neck": (0, 0.25)}
    arms, legs = _arm_angles(rng, pose), _leg_angles(rng, pose)
    for row, (side, sign) in enumerate((("right", -1), ("left", 1))):
        at[f"{side}_eye"] = sign * 0.04, 0.1
        at[f"{side}_ear"] = sign * 0.095, 0.115
        limb = ("shoulder", "elbow", "wrist"), ("upper_arm", "forearm"), arms[row]
        _bend(at, side, sign, (sign * 0.1, 0.275), limb)
        limb = ("hip", "knee", "ankle"), ("thigh", "shin"), legs[row]
        _bend(at, side, sign, (sign * 0.055, 0.565), limb)
    return np.array([at[name] for name in JOINTS])


def _bend(at, side, sign, root, limb):
    """Adds a limb's three joints to `at`, from its root outward."""
    names, bones, angles = limb
    at[f"{side}_{names[0]}"] = point = root
    for name, bone, angle in zip(names[1:], bones, np.radians(angles), strict=True):
        x, y = sign * np.sin(angle) * _REACH[bone], np.cos(angle) * _REACH[bone]
        at[f"{side}_{name}"] = point = point[0] + x, point[1] + y


def _parts(figure):
    """(start, end, radius, colour) capsules, back to front."""
    at = dict(zip(JOINTS, figure.joints, strict=True))
    shirt, trousers = captions.COLOURS[figure.shirt], captions.COLOURS[figure.trousers]
    parts = []
    for side, sign in (("right", -1), ("left", 1)):
        hip, knee, ankle = (at[f"{side}_{j}"] for j in ("hip", "knee", "ankle"))
        toe = ankle + np.array((sign * 0.025, 0.022))
        parts += [
            (ankle, toe, 0.036, (70, 50, 46)),
            (knee, ankle, _LEG - 0.012, trousers),
        ]
        parts += [(hip, knee, _LEG, trousers)]
    waist = np.array((0, 0.53))
    for x in (-0.045, 0.045):
        parts += [((x * 1.6, 0.3), waist + (x, 0), 0.065, shirt)]
    parts += [(at["neck"], (0, 0.2), _NECK, figure.skin)]
    for side in ("right", "left"):
        shoulder, elbow, wrist = (
            at[f"{side}_{j}"] for j in ("shoulder", "elbow", "wrist")
        )
        parts += [
            (elbow, wrist, _ARM - 0.008, figure.skin),
            (shoulder, elbow, _ARM, shirt),
        ]
        parts += [
            (wrist, wrist, _ARM, figure.skin),
            (at[f"{side}_ear"],) * 2 + (0.022, figure.skin),
        ]
    return parts


def _paint(layer, distance, radius, colour, unit):
    """Lays a shape with a shaded rim over premultiplied RGBA in 0..1, in place."""
    alpha = ((radius - distance) * unit + 0.5).clip(0, 1)[..., None]
    shade = 1.06 - 0.3 * (distance / radius).clip(0, 1)[..., None] ** 2
    layer *= 1 - alpha
    layer[..., :3] += alpha * (np.array(colour) / 255 * shade).clip(0, 1)
    layer[..., 3:] += alpha


def draw(figure, height):
    """RGBA uint8 [h, w, 4], premultiplied and cut to size, and joints [18, 2] in it.

    height is that of the body in pixels; raised arms make the picture taller.
    """
    x = (np.arange(round(1.1 * height)) + 0.5) / height - 0.55
    y = (np.arange(round(1.25 * height)) + 0.5) / height - 0.2
    layer = np.zeros((len(y), len(x), 4))
    for start, end, radius, colour in _parts(figure):
        near = masks.near_segment(x, y, np.asarray(start), np.asarray(end))
        _paint(layer, near, radius, colour, height)
    _paint_head(layer, x, y, figure, height)
    rows = np.flatnonzero((layer[..., 3] > 0.05).any(1))
    columns = np.flatnonzero((layer[..., 3] > 0.05).any(0))
    left, top = columns[0], rows[0]
    pixels = layer[top : rows[-1] + 1, left : columns[-1] + 1]
    joints = (figure.joints + (0.55, 0.2)) * height - (left, top)
    return (pixels * 255 + 0.5).astype(np.uint8), joints


def _paint_head(layer, x, y, figure, unit):
    """Head, hair over its upper part, eyes and a smile."""
    middle = np.array((0, _HEAD))
    round_head = masks.near_segment(x, y, middle, middle)
    _paint(layer, round_head, _HEAD, figure.skin, unit)
    # Hair: the part of the head outside a lower, equal disc.
    lower = masks.near_segment(x, y, middle + (0, 0.075), middle + (0, 0.075))
    _paint(layer, np.maximum(round_head, 2 * _HEAD - lower), _HEAD, figure.hair, unit)
    at = dict(zip(JOINTS, figure.joints, strict=True))
    for eye in (at["right_eye"], at["left_eye"]):
        _paint(
            layer,
            masks.near_segment(x, y, eye, eye + (0, 0.012)),
            0.014,
            (30, 24, 24),
            unit,
        )
    mouth = np.array((-0.025, 0.155)), np.array((0.025, 0.155))
    _paint(layer, masks.near_segment(x, y, *mouth), 0.009, (150, 60, 60), unit)
