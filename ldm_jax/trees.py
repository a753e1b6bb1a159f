"""Parameter trees: parts by path pattern, and what differs between two, in words."""

from flax import traverse_util
import jax
import numpy as np

from ldm_jax import names

SHOWN = 12


def flatten(tree):
    """A tree -> {'a/b/0': leaf}; dataclass fields and dict keys look the same."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in leaves
    }


def nested(flat):
    """The nested dict of {'a/b/c': leaf}."""
    return traverse_util.unflatten_dict(flat, sep="/")


def differences(saved, wanted, saved_name, wanted_name):
    """What differs between two trees of shapes, as text; '' when nothing does.

    Leaves need `shape` and `dtype`. Each kind of difference is counted, and its first
    dozen is listed.
    """
    saved, wanted = flatten(saved), flatten(wanted)
    both = [name for name in saved if name in wanted]
    shapes, dtypes = [], []
    for name in both:
        have, want = saved[name], wanted[name]
        if tuple(have.shape) != tuple(want.shape):
            have, want = tuple(have.shape), tuple(want.shape)
            shapes.append(f"{name} saved {have} wanted {want}")
        elif np.dtype(have.dtype) != np.dtype(want.dtype):
            dtypes.append(f"{name} saved {have.dtype} wanted {want.dtype}")
    report = [
        _listed(f"only in {saved_name}", [n for n in saved if n not in wanted]),
        _listed(f"only in {wanted_name}", [n for n in wanted if n not in saved]),
        _listed("shape", shapes),
        _listed("dtype", dtypes),
    ]
    return "\n".join(line for line in report if line)


def _listed(title, items):
    if not items:
        return ""
    more = f", and {len(items) - SHOWN} more" if len(items) > SHOWN else ""
    return f"{title} ({len(items)}): {', '.join(items[:SHOWN])}{more}"


def split(params, patterns):
    """(those that patterns cover, the others), as `names.covers` says."""
    flat = traverse_util.flatten_dict(params, sep="/")
    covered = {k for k in flat if any(names.covers(p, k) for p in patterns)}
    return tuple(
        traverse_util.unflatten_dict(
            {k: v for k, v in flat.items() if (k in covered) == wanted}, sep="/"
        )
        for wanted in (True, False)
    )


def check_patterns(params, patterns, key):
    """Raises ValueError for a pattern, of the knob `key`, that matches nothing.

    A role without parameters is something: a conditioner may have none.
    """
    flat = traverse_util.flatten_dict(params, sep="/")
    for pattern in patterns:
        if not any(names.covers(pattern, path) for path in (*flat, *params)):
            raise ValueError(
                f"{key} {pattern!r} matches no parameter; the top level has "
                f"{sorted(params)}"
            )


def merge(*trees):
    """One parameter tree of several that have no leaf in common."""
    flat = {}
    for tree in trees:
        new = traverse_util.flatten_dict(tree, sep="/")
        if both := flat.keys() & new.keys():
            raise ValueError(f"two trees hold the parameters {sorted(both)[:6]}")
        flat |= new
    return traverse_util.unflatten_dict(flat, sep="/")


def like(tree, wanted):
    """The leaves of a nested dict at the places of another, all of which it has."""
    flat = traverse_util.flatten_dict(tree, sep="/")
    kept = traverse_util.flatten_dict(wanted, sep="/")
    return traverse_util.unflatten_dict({k: flat[k] for k in kept}, sep="/")
