"""A large picture through the f = 8 KL first stage, by `strips`.

  python tests/large_picture.py [--side=512 --whole]

By hand: 2048 x 2048 pixels are 0.1 PFLOP. Random weights of the released widths; prints
one JSON line with seconds, the peak of memory (bytes resident) and, with --whole, the
largest difference from the plain forward pass, which needs much more memory.
"""

import argparse
import json
import os
import pathlib
import re
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]
os.environ.setdefault("JAX_PLATFORMS", "cpu")

# ruff: noqa: E402 - the path comes first
import helpers
import jax.numpy as jnp
import numpy as np
import released_configs
import tqdm

from ldm_jax import strips, system
from ldm_jax.models import autoencoder

KL_F8 = system.arch_of_first_stage(released_configs.first_stage("kl-f8"))


def peak():
    """Most bytes that were resident so far; ru_maxrss would count the parent's, too."""
    status = pathlib.Path("/proc/self/status").read_text()
    return 1024 * int(re.search(r"VmHWM:\s+(\d+) kB", status)[1])


def timed(name, function, *arguments, **keywords):
    """(result, figures) of a call, whose times go by `name`."""
    began = time.perf_counter()
    result = function(*arguments, **keywords)
    took = round(time.perf_counter() - began, 1)
    return result, {f"{name}_seconds": took, f"{name}_peak_bytes": peak()}


def progress(total):
    return tqdm.tqdm(total=total, unit="strip")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", type=int, default=2048, help="pixels")
    parser.add_argument("--rows", type=int, help="of the latent in a strip")
    parser.add_argument("--whole", action="store_true", help="compare")
    given = parser.parse_args()
    net = autoencoder.FIRST_STAGES["kl"](KL_F8)
    x = np.tanh(helpers.normal(0, 1, given.side, given.side, 3))
    shapes = helpers.init_shapes(net, jnp.zeros((1, 64, 64, 3)))
    params = helpers.random_params(shapes)
    told = {"side": given.side, "parameters_peak_bytes": peak()}

    def pass_(name, function, value):
        result, figures = timed(
            name, function, KL_F8, params, value, given.rows, progress
        )
        told.update(figures)
        print(json.dumps(told), file=sys.stderr, flush=True)
        return result

    z = pass_("encode", strips.encode, x).mean
    picture = pass_("decode", strips.decode, z)
    if given.whole:
        mean = helpers.apply(net, params, x, method="encode").mean
        plain = helpers.apply(net, params, jnp.asarray(z), method="decode")
        told["latent_difference"] = helpers.largest_difference(z, mean)
        told["picture_difference"] = helpers.largest_difference(picture, plain)
        told["latent_largest"] = float(np.abs(z).max())
        told["picture_largest"] = float(np.abs(picture).max())
        told["whole_peak_bytes"] = peak()
    print(json.dumps(told))


if __name__ == "__main__":
    main()
