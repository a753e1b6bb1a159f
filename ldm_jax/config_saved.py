"""Configs as text, as they are kept beside weights and in checkpoints."""

import json

import ml_collections

from ldm_jax import config


def to_json(c):
    """The config as text, for checkpoints and weight files."""
    return json.dumps(c.to_dict(), sort_keys=True)


def from_json(text):
    """The checked config that `to_json` wrote."""
    return from_dict(json.loads(text))


def from_dict(tree):
    """The checked config of a nested dict; see `completed`."""
    return config.check(ml_collections.ConfigDict(completed(tree)))


def completed(tree):
    """A saved config as a nested dict of today; JSON's lists become tuples again.

    A knob that is newer than the dict has its base's value, so that older weight
    files still load: the default of a new knob must be what was before it.
    """
    if tree.get("task") not in config.BASES:
        raise ValueError(
            f"task {tree.get('task')!r} must be one of {sorted(config.BASES)}"
        )

    def merged(value, base):
        if isinstance(value, dict):
            base = base if isinstance(base, dict) else {}
            return base | {k: merged(v, base.get(k)) for k, v in value.items()}
        return tuple(value) if isinstance(value, list) else value

    return merged(tree, config.BASES[tree["task"]]().to_dict())
