"""How well a picture obeys the lines it was told to draw."""

import math

import cv2
import numpy as np


def edge_f1(seen, told, reach=1):
    """F1 of the lines seen against those told, 0 to 1.

    Both uint8 [H, W] or [H, W, 3], lines above 127. A pixel counts as found if the
    other has one at most `reach` pixels off, diagonals too. Precision is the share of
    seen pixels that are found so, recall that of told ones. 1 if both are empty, 0 if
    one is.
    """
    seen, told = _lines(seen, told)
    if not seen.any() or not told.any():
        return float(seen.any() == told.any())
    brush = np.ones((2 * reach + 1,) * 2, np.uint8)
    precision = cv2.dilate(told, brush)[seen > 0].mean()
    recall = cv2.dilate(seen, brush)[told > 0].mean()
    return float(2 * precision * recall / max(precision + recall, 1e-12))


def chamfer(seen, told):
    """Pixels from a line to the nearest one of the other: the mean of both ways.

    Each way is the mean over the lines' pixels. 0 if both are empty, the diagonal if
    one is. Pictures as of `edge_f1`.
    """
    seen, told = _lines(seen, told)
    if not seen.any() or not told.any():
        return 0.0 if seen.any() == told.any() else math.hypot(*seen.shape)
    return (_off(seen, told) + _off(told, seen)) / 2


def _off(lines, others):
    """Mean distance of the pixels of lines from the nearest one of others."""
    far = cv2.distanceTransform(1 - others, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return float(far[lines > 0].mean())


def _lines(*pictures):
    """uint8 [H, W] each, 1 on lines."""
    flat = [p if p.ndim == 2 else p.max(-1) for p in map(np.asarray, pictures)]
    if flat[0].shape != flat[1].shape:
        raise ValueError(f"pictures of {flat[0].shape} and {flat[1].shape} differ")
    return [np.uint8(p > 127) for p in flat]
