"""What joins a model when it samples: a weaker one as its guide, control branches."""

import jax

from ldm_jax import cli, config_saved, frozen, names, paths, trees
from ldm_jax.data import hints
from ldm_jax.weights import own

# Of the section `control`, what branches of one model have alike.
ALIKE = ("channels", "lite", "only_mid")


def guide(config):
    """The UNet of another weights file, which must mean the same by what it says."""
    path = paths.resolve(config.sample.guide)
    source, saved, meta = own.open_weights(path)
    _check_alike(config, saved, meta, f"sample.guide {path}")
    return trees.nested(source.tensors).get("unet", {})


def _check_alike(config, saved, meta, name):
    """frozen.check_alike, which tells what it cannot compare."""
    frozen.check_alike(config, saved, meta, name)
    if meta.get("first_stage") and not frozen.knows_latents(config):
        cli.say(
            f"{name} is of the latents of first stage {meta['first_stage']}; whether "
            "that is this model's is not known, as that has no file of its own"
        )


def branches(config, shapes, base):
    """{hint: its branch} of sample.branches; shapes: those of all parameters.

    base: the digest of the model's file, "" where it has none of ours. A branch that
    was trained over another one is told of, not refused: over what was tuned from its
    own base it works.
    """
    found = {}
    for hint, named in zip(config.control.hints, config.sample.branches, strict=True):
        path = paths.resolve(named)
        tensors, saved, meta = frozen.open_branch(path)
        _check_alike(config, saved, meta, f"sample.branches {path}")
        held = trees.nested(tensors)[frozen.BRANCH]
        there = jax.tree.map(own.as_read, held)
        own.check_tree(there, shapes[hint], f"sample.branches {path}")
        if base and meta.get("base", base) != base:
            cli.say(
                f"{path} was trained over {meta['base']}, this model is {base}: "
                "ldm_jax.convert --transfer carries a branch over"
            )
        found[hint] = held
    return found


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
        _, saved, meta = frozen.open_branch(paths.resolve(file))
        hint = hint or meta.get("hint", "")
        if not hint:
            raise ValueError(
                f"{file} does not say which hint it hears: name it, as canny={file}"
            )
        _check_known(hint, file)
        if hint in told:
            raise ValueError(f"two branches hear {hint!r}: {told[hint]} and {file}")
        told[hint] = file
        section = config_saved.completed(saved)["control"]
        shapes.append({key: section[key] for key in ALIKE})
    if any(shape != shapes[0] for shape in shapes):
        raise ValueError(
            f"the branches {', '.join(told.values())} differ in their section control, "
            f"{shapes}: those of one model must be alike"
        )
    shape = {f"control.{key}": value for key, value in shapes[0].items()}
    given = {"control.hints": tuple(told), "sample.branches": tuple(told.values())}
    return shape | given


def _check_known(hint, file):
    try:
        names.pick(hints.HINTS, hint)
    except ValueError as error:
        raise ValueError(
            f"{error} What hears no kind among them is named given={file}"
        ) from error


def check_free(config, overrides):
    """Raises ValueError where branches are to join a model that brings its own."""
    heard = config.control.hints if "control" in config else ()
    if overrides.get("control.hints") and heard:
        raise ValueError(
            f"this model hears {', '.join(heard)} by itself, and "
            "--control names other branches: if that branch is all that was trained, "
            "ldm_jax.export makes it a file, and --control joins both to its base"
        )
