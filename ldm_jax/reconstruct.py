"""One picture of any size through a first stage, and how much of it comes back.

  python -m ldm_jax.reconstruct --image=photo.jpg --mode=exact --out=restored.png

takes the first stage that ships with the project; another one comes from --weights, or
from a run of yours with --config and --workdir. The latent is the posterior's mean.

whole   one forward pass; memory grows with the picture
exact   the same result in strips, at bounded memory: for large pictures
patch   in overlapping patches that know nothing of each other, as LDM did it

Prints one JSON line: PSNR (dB), SSIM, seconds of restoring (compilation included), the
peak of memory in bytes where the system tells it, and of patches `seams`: how much
stronger the error jumps at their borders than elsewhere, 1 for not at all.
"""

import dataclasses
import json
import math
import pathlib
import re
import time

from absl import flags
import numpy as np
import tqdm

from ldm_jax import (
    cli,
    evaluation,
    large,
    names,
    patches,
    pictures,
    reconstruction,
)

IMAGE = flags.DEFINE_string("image", None, "The picture.", required=True)
OUT = flags.DEFINE_string("out", None, "The restored one, a .png.", required=True)
MODE = flags.DEFINE_string("mode", "exact", "whole, patch or exact.")
CONFIG = cli.define_config(required=False)
WORKDIR = cli.define_workdir(required=False)
WEIGHTS = cli.define_weights()
PATCH = flags.DEFINE_integer(
    "patch",
    None,
    "patch: pixels of a side; by default 256, or what fits.",
    lower_bound=1,
)
STRIDE = flags.DEFINE_integer(
    "stride",
    None,
    "patch: pixels from one to the next; by default half a patch.",
    lower_bound=1,
)

TIES = flags.DEFINE_bool(
    "tie_breaker", False, "patch: patches near the picture's border count less."
)

SIDE = 256  # of a patch


def tiles(image, factor):
    """The large.Patches of the flags, checked for a picture; None in other modes."""
    if names.pick(large.MODES, MODE.value) is not large.MODES["patch"]:
        if PATCH.value or STRIDE.value or TIES.value:
            raise ValueError("--patch, --stride, --tie_breaker are of --mode=patch")
        return None
    patch = PATCH.value or min(SIDE, min(image.shape[:2]) // factor * factor)
    stride = STRIDE.value or max(factor, patch // 2 // factor * factor)
    grown = [n + -n % factor for n in image.shape[:2]]
    patches.check(*grown, patch, stride, factor)
    return large.Patches(patch, stride, TIES.value)


def check_out():
    """Raises before any work where the result could not be written."""
    path = pathlib.Path(OUT.value)
    if path.suffix.lower() != ".png":
        raise ValueError(f"--out {path} must end in .png: that is what is written")
    if not path.absolute().parent.is_dir():
        raise FileNotFoundError(f"--out {path}: its folder does not exist")


def figures(restored, image, cut):
    """What the restored picture lost; None for what has no number."""
    pair = restored[None], image[None]
    found = {"psnr": float(evaluation.psnr(*pair)[0])}
    large_enough = min(image.shape[:2]) >= evaluation.WINDOW
    found["ssim"] = float(evaluation.ssim(*pair)[0]) if large_enough else math.nan
    if cut:
        found["seams"] = patches.seams(restored, image, cut.patch, cut.stride)
    told = {
        key: float(f"{value:.6g}") if math.isfinite(value) else None
        for key, value in found.items()
    }
    return told | (dataclasses.asdict(cut) if cut else {})


def peak_memory():
    """Most bytes that were resident, or None where the system does not tell."""
    status = pathlib.Path("/proc/self/status")
    if not status.is_file():
        return None
    return 1024 * int(re.search(r"VmHWM:\s+(\d+) kB", status.read_text())[1])


def progress(total):
    return tqdm.tqdm(total=total, unit=MODE.value.replace("exact", "strip"))


def main(argv):
    del argv
    check_out()
    image = large.read(IMAGE.value)
    given = CONFIG.value, WORKDIR.value, WEIGHTS.value
    config, weights = reconstruction.named(*given)
    model = reconstruction.model(config, WORKDIR.value, weights)
    factor = large.arch(config).factor
    cut = tiles(image, factor)
    stage = large.stage(model)
    began = time.perf_counter()
    x = np.asarray(pictures.to_float(image))[None]
    x_hat = large.restore(stage, x, MODE.value, cut, progress)[0]
    restored = np.asarray(pictures.to_uint8(x_hat))
    took, peak = time.perf_counter() - began, peak_memory()  # judging takes more
    pictures.save_png(OUT.value, restored)
    told = {
        "mode": MODE.value,
        "height": image.shape[0],
        "width": image.shape[1],
        "factor": factor,
        **figures(restored, image, cut),
        "seconds": round(took, 2),
        "peak_memory": peak,
        "weights": model.weights,
    }
    print(json.dumps(told), flush=True)


if __name__ == "__main__":
    cli.run(main)
