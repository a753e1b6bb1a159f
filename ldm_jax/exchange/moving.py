"""A control branch carried from the base it was trained over to another one.

The branch's trunk began as its base's; what it learnt is the difference, and that is
added to the other base's trunk (the original's tool_transfer_control.py):

    new = branch + (other base - base)

The hint's encoder and what connects the branch have no counterpart and stay.
"""

import dataclasses

import numpy as np

from ldm_jax.exchange import transfer
from ldm_jax.weights import own

TRUNK, COPY = "unet/trunk/", "control/trunk/"


def moved(branch, base, other, say=print):
    """The transfer.Weights of a branch for `other`, all three not read yet.

    branch: may hold its base too, and then `base` may be None and the other base comes
    with it. Raises ValueError where one of them lacks an array or has another shape,
    and says where the files cannot tell that `base` is the one.
    """
    if not any(path.startswith("control/") for path in branch.held):
        raise ValueError(f"{branch.origin} holds no control branch")
    whole = any(path.startswith(TRUNK) for path in branch.held)
    if base is None and not whole:
        raise ValueError(
            f"{branch.origin} is a branch alone: name the model that it was trained "
            "over by --base"
        )
    base = base or branch
    wanted, given = branch.about.get("base"), base.about.get("digest")
    if wanted and given and wanted != given:
        raise ValueError(
            f"{branch.origin} was trained over {wanted}, and --base is {given}"
        )
    if base is not branch and not (wanted and given):
        silent = base.origin if wanted else branch.origin
        say(
            f"{silent} does not say which base that is: that {branch.origin} was "
            f"trained over {base.origin} is taken from the command line"
        )
    if not any(path.startswith(COPY) for path in branch.held):
        raise ValueError(
            f"{branch.origin} copied no trunk (control.lite): there is nothing to carry"
        )
    stages = (base.about.get("first_stage"), other.about.get("first_stage"))
    if all(stages) and stages[0] != stages[1]:
        raise ValueError(
            f"{base.origin} and {other.origin} are of the latents of two first stages, "
            f"{stages[0]} and {stages[1]}"
        )
    _check_language(branch, other)
    held = {
        path: _moved(path, tensor, base, other)
        for path, tensor in branch.held.items()
        if path.startswith("control/")
    }
    origin = f"{branch.origin} moved from {base.origin} to {other.origin}"
    about = {"hint": branch.about["hint"]} if "hint" in branch.about else {}
    kept = ("digest", "first_stage") if whole else ("first_stage",)
    about |= {key: other.about[key] for key in kept if key in other.about}
    if "digest" in other.about:
        about["base"] = other.about["digest"]
    if not whole:
        return transfer.Weights(branch.config, held, origin, about)
    config = other.config.copy_and_resolve_references()
    config.control.update(branch.config.control)
    return transfer.Weights(config, other.held | held, origin, about)


def _check_language(branch, other):
    """Raises ValueError where the networks were taught to say different things."""
    if other.config.task != branch.config.task:
        raise ValueError(
            f"{other.origin} is of task {other.config.task!r}: no branch goes there"
        )
    for section in ("schedule", "loss"):
        key = "predicts" if section == "loss" else None
        pair = [
            model.config[section][key] if key else model.config[section].to_dict()
            for model in (branch, other)
        ]
        if pair[0] != pair[1]:
            raise ValueError(
                f"{branch.origin} has the {key or section} {pair[0]}, {other.origin} "
                f"{pair[1]}: what one learnt means nothing to the other"
            )


def _moved(path, tensor, base, other):
    if not path.startswith(COPY):
        return tensor
    there = TRUNK + path.removeprefix(COPY)
    pair = []
    for model in (other, base):
        if there not in model.held:
            raise ValueError(f"{model.origin} has no {there}, which the branch copied")
        found = model.held[there]
        if tuple(found.shape) != tuple(tensor.shape):
            raise ValueError(
                f"{there} of {model.origin} is {tuple(found.shape)}, the branch's copy "
                f"{tuple(tensor.shape)}: they must be models of one shape"
            )
        pair.append(found)

    def read():
        new, old = (found.read().astype(np.float32) for found in pair)
        return tensor.read().astype(np.float32) + (new - old)

    floats = np.dtype("float32")
    return own.narrowed(
        {path: dataclasses.replace(tensor, dtype=floats, read=read)}, tensor.dtype
    )[path]
