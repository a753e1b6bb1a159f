"""What joins a model when it samples: a weaker one as its guide, control branches."""

import jax

from ldm_jax import cli, config_saved, frozen, names, paths, trees
from ldm_jax.data import hints
from ldm_jax.weights import own

BRANCH = "control"  # the role of a control branch in a file of its own


def guide(config):
    """The UNet of another weights file, which must mean the same by what it says."""
    path = paths.resolve(config.sample.guide)
    source, saved, meta = own.open_weights(path)
    _check_alike(config, saved, meta, f"sample.guide {path}")
    return trees.nested(source.tensors).get("unet", {})


def _check_alike(config, saved, meta, name):
    """Raises ValueError where a file's UNet or branch was taught another language."""
    there = config_saved.completed(saved)
    for section, key in (("schedule", None), ("loss", "predicts")):
        ours, theirs = config[section], there.get(section)
        ours = ours[key] if key else ours.to_dict()
        theirs = theirs[key] if key and theirs else theirs
        if ours != theirs:
            raise ValueError(
                f"{name} cannot join this model: its {section} is {theirs}, not {ours}"
            )
    # A released branch says nothing of a first stage: its base has it.
    if meta.get("first_stage", "") not in ("", frozen.digest(config)):
        raise ValueError(
            f"{name} is of the latents of another first stage, {meta['first_stage']}"
        )


def branches(config, shapes, base):
    """{hint: its branch} of sample.branches; shapes: those of all parameters.

    base: the digest of the model. A branch that was trained over another one is told
    of, not refused: over what was tuned from its own base it works.
    """
    found = {}
    for hint, named in zip(config.control.hints, config.sample.branches, strict=True):
        path = paths.resolve(named)
        held, saved, meta = _opened(path)
        _check_alike(config, saved, meta, f"sample.branches {path}")
        there = jax.tree.map(own.as_read, held[BRANCH])
        own.check_tree(there, shapes[hint], f"sample.branches {path}")
        if meta.get("base", base) != base:
            cli.say(
                f"{path} was trained over {meta['base']}, this model is {base}: "
                "ldm_jax.convert --transfer carries a branch over"
            )
        found[hint] = held[BRANCH]
    return found


def _opened(path):
    """(tensors by role, config, meta) of the file of a branch."""
    source, saved, meta = own.open_weights(path)
    held = trees.nested(source.tensors)
    if BRANCH not in held:
        raise ValueError(f"{path} holds no control branch, only {sorted(held)}")
    return held, saved, meta


def with_branches(named):
    """{key of a config: value} for the branches in files, to override a model's.

    named: texts FILE or HINT=FILE; the hint is needed where the file does not say it.
    Raises ValueError where two files cannot be of one model, or a hint is not known.
    """
    if not named:
        return {}
    told, shapes = {}, []
    for text in named:
        hint, file = text.split("=", 1) if "=" in text else ("", text)
        _, saved, meta = _opened(paths.resolve(file))
        hint = hint or meta.get("hint", "")
        if not hint:
            raise ValueError(
                f"{file} does not say which hint it hears: name it, as canny={file}"
            )
        names.pick(hints.HINTS, hint)
        if hint in told:
            raise ValueError(f"two branches hear {hint!r}: {told[hint]} and {file}")
        told[hint] = file
        shapes.append(config_saved.completed(saved)["control"] | {"hints": ()})
    if any(shape != shapes[0] for shape in shapes):
        raise ValueError(
            f"the branches {', '.join(told.values())} differ in their section control, "
            f"{shapes}: those of one model must be alike"
        )
    shape = {f"control.{key}": value for key, value in shapes[0].items()}
    given = {"control.hints": tuple(told), "sample.branches": tuple(told.values())}
    return shape | given
