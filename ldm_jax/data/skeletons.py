"""People as OpenPose draws them, and the files in which it keeps their joints."""

import json
import math

import cv2
import numpy as np

from ldm_jax.data import labels

# OpenPose's colours of 18 joints, and of the limbs too, in the order of
# mannequin.JOINTS; it knows 19 limbs and draws the first 17.
JOINT_COLOURS = (
    *((255, 0, 0), (255, 85, 0), (255, 170, 0), (255, 255, 0), (170, 255, 0)),
    *((85, 255, 0), (0, 255, 0), (0, 255, 85), (0, 255, 170), (0, 255, 255)),
    *((0, 170, 255), (0, 85, 255), (0, 0, 255), (85, 0, 255), (170, 0, 255)),
    *((255, 0, 255), (255, 0, 170), (255, 0, 85)),
)
LIMBS = (
    *((1, 2), (1, 5), (2, 3), (3, 4), (5, 6), (6, 7), (1, 8), (8, 9), (9, 10)),
    *((1, 11), (11, 12), (12, 13), (1, 0), (0, 14), (14, 16), (0, 15), (15, 17)),
)


def pose(people, height, width):
    """OpenPose's drawing of float [P, 18, 3]: x, y in 0..1, and above 0 where seen.

    annotator/openpose: joints as discs, then limbs as ellipses, each laid over all at
    0.6; limbs miss where an end does. Radius and half width are 4 pixels there at any
    size; here 4 where the shorter side is 512, and in proportion, from 1 on.
    """
    people = np.asarray(people, np.float64).reshape(-1, labels.JOINTS, 3)
    wide = max(1, round(4 * min(height, width) / 512))
    # A little more, so that whole pixels that were divided by a side come back whole.
    points, seen = people[..., :2] * (width, height) + 1e-3, people[..., 2] > 0
    canvas = np.zeros((height, width, 3), np.uint8)
    for joint, colour in enumerate(JOINT_COLOURS):
        for x, y in points[seen[:, joint], joint]:
            cv2.circle(canvas, (int(x), int(y)), wide, colour, thickness=-1)
    for limb, colour in zip(LIMBS, JOINT_COLOURS, strict=False):
        for start, end in points[seen[:, limb].all(1)][:, limb]:
            along, middle = start - end, (start + end) / 2
            half = int(np.hypot(*along) / 2), wide
            angle = int(math.degrees(math.atan2(along[1], along[0])))
            middle = int(middle[0]), int(middle[1])
            outline = cv2.ellipse2Poly(middle, half, angle, 0, 360, 1)
            over = cv2.fillConvexPoly(canvas.copy(), outline, colour)
            canvas = cv2.addWeighted(canvas, 0.4, over, 0.6, 0)
    return canvas


def keypoints(text):
    """float64 [P, 18, 3] of OpenPose's JSON, a text or what was read from it.

    {"people": [{"pose_keypoints_2d": [x, y, confidence] * 18}, ...], "canvas_width",
    "canvas_height"}: COCO's 18 joints in pixels of the canvas. Comes back as `pose`
    takes it: x and y in parts of the sides, and the confidence, 0 where not found.
    Raises ValueError, in words.
    """
    told = json.loads(text) if isinstance(text, (str, bytes)) else text
    match told:
        case {"people": [*people]}:
            size = [told.get(key) for key in ("canvas_width", "canvas_height")]
        case _:
            raise ValueError('it is no JSON of OpenPose: {"people": [...], ...}')
    if not all(_is_number(side) and side >= 1 for side in size):
        raise ValueError(
            f"canvas_width and canvas_height are {size[0]!r} and {size[1]!r}: they say "
            f"of how many pixels x and y are, so both are numbers from 1 on"
        )
    people = [_joints(person, number) for number, person in enumerate(people)]
    people = np.array(people, np.float64).reshape(-1, labels.JOINTS, 3)
    return people / (*size, 1)


def _joints(person, number):
    """The 54 numbers of one of the people."""
    match person:
        case {"pose_keypoints_2d": [*found]}:
            pass
        case _:
            raise ValueError(f"person {number} has no list pose_keypoints_2d")
    if len(found) != 3 * labels.JOINTS:
        count = len(found) / 3
        more = " (BODY_25: run OpenPose with --model_pose COCO)" if count == 25 else ""
        raise ValueError(
            f"person {number} has {len(found)} numbers, not x, y and confidence of "
            f"{labels.JOINTS} joints{more}"
        )
    for place, value in enumerate(found):
        if not _is_number(value):
            raise ValueError(
                f"pose_keypoints_2d[{place}] of person {number} is {value!r}, no number"
            )
    return found


def _is_number(value):
    """Whether JSON's value is a finite number; its true and false are none."""
    real = isinstance(value, (int, float)) and not isinstance(value, bool)
    return real and abs(value) < 1e9  # false of NaN
