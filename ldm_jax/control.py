"""How loud each connection of a control branch is, and what a batch calls its hints.

A branch adds to every skip of the UNet and to its middle, in that order. Guidance asks
twice, with the condition (told) and without (untold); each weighting says what both
hear:

  even        both hear all of it
  guess       the original's "guess mode": the untold nothing, the told less of what is
              shallow, 0.825^(n - 1 - i) of connection i of n
  resolution  CFG resolution weighting (Zhang et al., 2023, section 3.4): the untold
              nothing, the told 64 / h_i of a connection that is h_i latent pixels high.
              The paper's latents are 64 high; of others it is their own height
"""

import numpy as np

from ldm_jax import names

HINT = "hint_"  # how the names of hints begin in a batch
FADING = 0.825  # of guess mode, from the deepest connection to the next


def key(name):
    """What a batch calls the hint of a branch: uint8 [B, H, W, 3]."""
    return f"{HINT}{name}"


def shrinking(mult, blocks):
    """How many times smaller than z_t the connections are: numpy [n].

    mult, blocks: of the UNet. Stable Diffusion's 13: three 1s, 2s and 4s, and four 8s.
    """
    levels = np.arange(len(mult)).repeat(blocks + 1)
    return 2.0 ** np.append(levels, len(mult) - 1)


def even(smaller):
    return np.ones_like(smaller), np.ones_like(smaller)


def guess(smaller):
    depth = np.arange(len(smaller))[::-1]
    return FADING**depth, np.zeros_like(smaller)


def resolution(smaller):
    return smaller, np.zeros_like(smaller)


# name in a config -> smaller [n] -> (told [n], untold [n])
WEIGHTINGS = {"even": even, "guess": guess, "resolution": resolution}


def strengths(mult, blocks, weighting="even", only_mid=False):
    """{"told", "untold"}: float32 [n], what each connection is multiplied by.

    only_mid: nothing is added to the skips (the originals' only_mid_control).
    """
    told, untold = names.pick(WEIGHTINGS, weighting)(shrinking(mult, blocks))
    if only_mid:
        told[:-1] = untold[:-1] = 0
    return {"told": np.float32(told), "untold": np.float32(untold)}
