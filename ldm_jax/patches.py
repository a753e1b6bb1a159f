"""Large pictures in overlapping patches, as LDM's split input works, and their seams.

Each patch goes through the network by itself; where patches overlap their results are
averaged, weighted by the distance to the patch's border. A patch knows nothing of the
rest of the picture, so the result is not the whole picture's: `strips` gives that.
All arrays here are numpy.
"""

import functools

import numpy as np
import tqdm

LEAST, MOST = 0.01, 0.5  # of the weights, the originals' clip_{min,max}_weight
SILENT = functools.partial(tqdm.tqdm, disable=True)  # a bar nobody sees


def weights(height, width):
    """Distance to the nearest border, 0 there and 0.5 in the middle, clipped: [H, W].

    In units of height and width. LDM's `get_weighting` without its tie breaker.
    """
    y, x = (np.arange(n, dtype=np.float32) / max(n - 1, 1) for n in (height, width))
    y, x = np.minimum(y, 1 - y), np.minimum(x, 1 - x)
    return np.clip(np.minimum(y[:, None], x[None]), LEAST, MOST)


def starts(length, patch, stride):
    """Where the patches begin that cover a length; the last may stand out of it."""
    return range(0, max(length - patch, 0) + stride, stride)


def check(height, width, patch, stride, unit=1):
    """Raises ValueError in words where pictures of a size do not go in such patches.

    unit: what patch and stride must be multiples of.
    """
    if not 0 < stride <= patch:
        raise ValueError(
            f"stride {stride} must be at least 1 and at most the patch, {patch}: "
            "between the patches nothing would be restored"
        )
    if patch % unit or stride % unit:
        raise ValueError(
            f"patch {patch} and stride {stride} must be multiples of {unit}, the "
            "factor of the first stage"
        )
    if patch > min(height, width):
        raise ValueError(
            f"a patch of {patch} pixels does not fit into a picture of {height} x "
            f"{width}: take a smaller patch"
        )


def over(run, x, patch, stride, *, up=1, down=1, tie_breaker=False, progress=SILENT):
    """run(x) put together from patches: [B, H, W, C] -> [B, H', W', D].

    run: [B, patch, patch, C] -> [B, p, p, D]; every length becomes up / down of it.
    Where the patches do not tile, x grows at the bottom and right by copies of its last
    row and column, and the result is cut; the originals need sizes that tile.
    tie_breaker: a patch also counts by its own distance to the border of the picture,
    the originals' `tie_braker`. progress(total=n) makes a bar.
    """
    height, width = x.shape[1:3]
    check(height, width, patch, stride, down)
    tops, lefts = (starts(n, patch, stride) for n in (height, width))
    more = [
        (0, places[-1] + patch - n) for places, n in ((tops, height), (lefts, width))
    ]
    x = np.pad(x, ((0, 0), *more, (0, 0)), mode="edge")
    ties = weights(len(tops), len(lefts))
    if not tie_breaker:
        ties = np.ones_like(ties)

    def scaled(length):
        return length * up // down

    size = scaled(patch)
    weight, total = weights(size, size), None
    norm = np.zeros([scaled(n) for n in x.shape[1:3]], np.float32)
    with progress(total=ties.size) as bar:
        for (i, j), tie in np.ndenumerate(ties):
            top, left = tops[i], lefts[j]
            y = np.asarray(run(x[:, top : top + patch, left : left + patch]))
            if total is None:
                total = np.zeros((len(y), *norm.shape, y.shape[-1]), np.float32)
            rows, columns = (slice(scaled(n), scaled(n) + size) for n in (top, left))
            total[:, rows, columns] += y * (weight * tie)[..., None]
            norm[rows, columns] += weight * tie
            bar.update(1)
    total /= norm[..., None]
    return total[:, : scaled(height), : scaled(width)]


def lines(length, patch, stride):
    """Where a patch begins or ends inside a length: bool [length - 1].

    Entry i is the line between pixels i and i + 1.
    """
    found = np.zeros(length - 1, bool)
    for start in starts(length, patch, stride):
        for edge in (start, start + patch):
            if 0 < edge < length:
                found[edge - 1] = True
    return found


def seams(restored, original, patch, stride):
    """How much stronger the error jumps at the patches' borders than elsewhere.

    The mean absolute difference of restored - original between neighbouring pixels
    across a border, over the same everywhere else: 1 is no seam. What the picture
    itself shows at a border cancels. Pictures [H, W, C]; nan where there is no border.
    """
    error = np.asarray(restored, np.float64) - np.asarray(original, np.float64)
    at, elsewhere = [], []
    for axis in (0, 1):
        jumps = np.moveaxis(np.abs(np.diff(error, axis=axis)), axis, 0)
        border = lines(error.shape[axis], patch, stride)
        at.append(jumps[border].ravel())
        elsewhere.append(jumps[~border].ravel())
    at, elsewhere = np.concatenate(at), np.concatenate(elsewhere)
    if not (at.size and elsewhere.size):
        return float("nan")
    if at.mean() == elsewhere.mean():  # also where both are 0
        return 1.0
    with np.errstate(divide="ignore"):
        return float(at.mean() / elsewhere.mean())
