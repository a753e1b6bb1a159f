"""Released weights in and out: the parameters of a config from a layout, and back."""

import dataclasses

import numpy as np

from ldm_jax import trees
from ldm_jax.exchange import released
from ldm_jax.weights import own, tensors

SHOWN = 12


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is read of which arrays, checked against the file before any is read."""

    rows: tuple  # of layouts.Row, each with its tensors of the file
    tensors: tuple
    unused: dict  # name of the file -> why it is not read, None if that is a surprise


def plan(wanted, sources, average=False):
    """The Plan to read {component: rows} from {component: weights.tensors.Source}.

    average: read the averaged UNet (model_ema.*) of an original file instead of the
    raw one. Raises ValueError listing what is missing and what has another shape.
    """
    rows, tensors, missing, unlike, read = [], [], [], [], set()
    for component, wanted_here in wanted.items():
        held = sources[component].tensors if component in sources else {}
        for row in wanted_here:
            if average and row.ours.startswith("unet/"):
                row = released.averaged(row)
            absent = [name for name in row.theirs if name not in held]
            missing += [_named(component, name) for name in absent]
            if absent:
                continue
            found = [held[name] for name in row.theirs]
            want = row.their_shape
            unlike += [
                f"{_named(component, name)} has {tuple(tensor.shape)}, wanted {want}"
                for name, tensor in zip(row.theirs, found, strict=True)
                if tuple(tensor.shape) != want
            ]
            rows.append(row)
            tensors.append(found)
            read |= {(component, name) for name in row.theirs}
    _complain(missing, unlike, average)
    return Plan(tuple(rows), tuple(tensors), _unused(sources, read, average))


def _named(component, name):
    return f"{component}/{name}" if component else name


def _complain(missing, unlike, average):
    said = [
        f"{title} ({len(items)}): {', '.join(items[:SHOWN])}"
        + (f", and {len(items) - SHOWN} more" if len(items) > SHOWN else "")
        for title, items in (("missing", missing), ("of another shape", unlike))
        if items
    ]
    if said:
        what = "averaged weights" if average else "weights"
        raise ValueError(
            f"the file does not hold the {what} of this config:\n" + "\n".join(said)
        )


def _unused(sources, read, average):
    return {
        _named(component, name): released.reason(name, average)
        for component, source in sources.items()
        for name in source.tensors
        if (component, name) not in read
    }


def tensors_of(plan):
    """{path of ours: weights.tensors.Tensor}, each read and checked when it is asked.

    Reading raises ValueError naming an array that is not of finite floats.
    """
    return {
        row.ours: _joined(row, parts)
        for row, parts in zip(plan.rows, plan.tensors, strict=True)
    }


def _joined(row, parts):
    """The Tensor of a row; q, k and v of several types become float32."""
    kinds = {part.dtype for part in parts}
    dtype = kinds.pop() if len(kinds) == 1 else np.dtype("float32")

    def read():
        named = zip(row.theirs, parts, strict=True)
        arrays = [finite(name, part.read()) for name, part in named]
        return row.load([array.astype(dtype, copy=False) for array in arrays])

    return tensors.Tensor(row.shape, dtype, read)


def finite(name, array):
    """The array; ValueError naming it if it holds no floats, or a NaN or infinity."""
    if array.dtype not in own.FLOATS:
        raise ValueError(
            f"{name} holds {array.dtype}; 16-, 32- and 64-bit floats are read: get or "
            "save the file in one of them"
        )
    bad = array.size - np.count_nonzero(np.isfinite(array.astype(np.float32)))
    if bad:
        raise ValueError(
            f"{name} has {bad} of {array.size} numbers that are NaN or infinite: the "
            "file is damaged, or training had failed"
        )
    return array


def outgoing(rows, held):
    """{component: {name: Tensor}} in a layout's rows, of {path of ours: Tensor}."""
    return {
        component: {
            name: tensors.Tensor(
                row.their_shape, held[row.ours].dtype, _writer(row, held[row.ours], i)
            )
            for row in here
            for i, name in enumerate(row.theirs)
        }
        for component, here in rows.items()
    }


def _writer(row, tensor, i):
    return lambda: row.save(tensor.read())[i]


def tree(held):
    """The nested dict of numpy arrays of {path: Tensor}."""
    return trees.nested({name: tensor.read() for name, tensor in held.items()})
