"""The rules of the section `control`: what does nothing, or cannot work, is refused."""

from ldm_jax import control as control_lib
from ldm_jax import rules

ROLES = ("unet", "first_stage", "cond_stage", "guide")  # of other parameters
# Knobs that do nothing without a hint, and what they must be then.
UNHEARD = {
    "control.channels": (16, 32, 96, 256),
    "control.init": (),
    "control.connections": "zero",
    "control.lite": False,
    "control.only_mid": False,
    "sample.branches": (),
    "sample.hint_strengths": (),
    "sample.hint_weighting": "even",
}
ELEMENTS = {
    "control.hints": str,
    "control.init": str,
    "control.channels": int,
    "sample.branches": str,
    "sample.hint_strengths": (int, float),
}


def control(c):
    """Raises ValueError, naming the key."""
    hints = c.control.hints
    for key, kind in ELEMENTS.items():
        rules.require(
            all(isinstance(value, kind) for value in _at(c, key)),
            f"{key} {_at(c, key)} must hold nothing but "
            f"{'texts' if kind is str else 'numbers'}",
        )
    for key, off in UNHEARD.items():
        rules.require(
            hints or _at(c, key) == off,
            f"{key} {_at(c, key)!r} does nothing where control.hints is empty: it must "
            f"be {off!r}",
        )
    rules.require(
        len(set(hints)) == len(hints) and not set(hints) & set(ROLES),
        f"control.hints {hints} must differ from each other and from {ROLES}",
    )
    for key in ("control.init", "sample.branches", "sample.hint_strengths"):
        rules.require(
            len(_at(c, key)) in (0, len(hints)),
            f"{key} {_at(c, key)} must be empty or have one entry for each of "
            f"control.hints {hints}",
        )
    rules.require(
        not hints or not c.data.latents,
        f"data.latents {c.data.latents!r} must be '': control.hints {hints} are of the "
        "pictures' size, and only what is smaller is kept beside the latents",
    )
    rules.require(
        c.train.init or not c.control.init,
        f"control.init {c.control.init} begins branches over the model of train.init, "
        "which is empty: name that too, or leave it ()",
    )
    if hints:
        _encoder(c)


def _encoder(c):
    channels, factor = c.control.channels, rules.factor(c.first_stage)
    rules.require(
        channels and min(channels) > 0 and 2 ** (len(channels) - 1) >= factor,
        f"control.channels {channels} must be widths of as many levels as make a hint "
        f"the first stage's factor {factor} smaller, each but the first by half",
    )
    rules.require(
        c.control.connections in ("zero", "gaussian"),
        f"control.connections {c.control.connections!r} must be 'zero' or 'gaussian'",
    )
    weighting, known = c.sample.hint_weighting, tuple(control_lib.WEIGHTINGS)
    rules.require(
        weighting in known,
        f"sample.hint_weighting {weighting!r} must be "
        f"{', '.join(map(repr, known[:-1]))} or {known[-1]!r}",
    )
    rules.require(
        weighting == "even" or not c.sample.guide,
        f"sample.hint_weighting {weighting!r} tells the null nothing of a hint, and "
        f"sample.guide {c.sample.guide!r} leads away from no null: it must be 'even'",
    )


def _at(c, key):
    section, name = key.split(".")
    return c[section][name]
