"""The shapes of networks, traced once for each model: what such tests wait for."""

import json

from ldm_jax import system
from ldm_jax.exchange import released

TRACED = {}


def once(monkeypatch):
    """Until the test ends, the same sections of a config give what they gave before."""
    for module, name in (
        (released, "parameter_shapes"),
        (released, "control_rows"),
        (system, "condition_shapes"),
    ):
        monkeypatch.setattr(module, name, remembering(getattr(module, name)))


def remembering(trace):
    def run(config, *more):
        told = config.to_dict()
        parts = [told.get(key) for key in ("first_stage", "cond_stage", "unet")]
        parts[0].pop("weights", None)
        key = json.dumps([trace.__name__, config.task, *parts, *more])
        if key not in TRACED:
            TRACED[key] = trace(config, *more)
        return TRACED[key]

    return run
