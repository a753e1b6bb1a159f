"""What the layouts of released files have in common: rows of names, and their use.

A layout says of each of our modules what the file calls it. From those names and
the shapes of our parameters come rows, one for each parameter; reading and writing
walk the same rows in opposite directions.
"""

from collections.abc import Callable
import dataclasses

import numpy as np

from ldm_jax import trees


@dataclasses.dataclass(frozen=True)
class Stored:
    """How a file stores a parameter: the way from it, and the way back."""

    load: Callable  # (array of the file) -> ours
    save: Callable  # (ours) -> array of the file
    shape: Callable  # (our shape) -> the file's


def _pointwise(ones):
    """A linear layer [in, out], kept as a convolution [out, in, 1 ...]."""
    tail = (1,) * ones
    return Stored(
        load=lambda x: x.reshape(x.shape[:2]).T,
        save=lambda x: x.T.reshape(*x.T.shape, *tail),
        shape=lambda shape: (*shape[::-1], *tail),
    )


STORED = {
    "same": Stored(lambda x: x, lambda x: x, lambda shape: shape),
    "dense": Stored(lambda x: x.T, lambda x: x.T, lambda shape: shape[::-1]),
    "conv": Stored(
        load=lambda x: x.transpose(2, 3, 1, 0),
        save=lambda x: x.transpose(3, 2, 0, 1),
        shape=lambda shape: (shape[3], shape[2], shape[0], shape[1]),
    ),
    "conv1": _pointwise(1),
    "conv2": _pointwise(2),
    # Flax's own: a 1x1 convolution [1, 1, in, out].
    "flax1x1": Stored(
        load=lambda x: x.reshape(x.shape[2:]),
        save=lambda x: x[None, None],
        shape=lambda shape: (1, 1, *shape),
    ),
}


@dataclasses.dataclass(frozen=True)
class Row:
    """One parameter of ours and where a file keeps it.

    Three names are the q, k and v that we keep as one, laid out [head][q | k | v][dim]
    on the last axis.
    """

    ours: str  # a path, "unet/trunk/conv_in/kernel"
    theirs: tuple[str, ...]
    stored: str  # a key of STORED
    shape: tuple[int, ...]  # ours
    heads: int = 1  # of the q, k and v that are kept as one

    @property
    def their_shape(self):
        """Of each of the file's arrays."""
        *rest, last = self.shape
        return tuple(STORED[self.stored].shape((*rest, last // len(self.theirs))))

    def load(self, arrays):
        """The file's arrays -> ours."""
        parts = [STORED[self.stored].load(x) for x in arrays]
        if len(parts) == 1:
            return np.asarray(parts[0], order="C")
        split = [x.reshape(*x.shape[:-1], self.heads, -1) for x in parts]
        return np.stack(split, axis=-2).reshape(self.shape)

    def save(self, array):
        """Ours -> the file's arrays, in the order of `theirs`."""
        if len(self.theirs) == 1:
            return [np.asarray(STORED[self.stored].save(array), order="C")]
        count, rest = len(self.theirs), array.shape[:-1]
        array = array.reshape(*rest, self.heads, count, -1)
        parts = [array[..., i, :].reshape(*rest, -1) for i in range(count)]
        return [np.asarray(STORED[self.stored].save(x), order="C") for x in parts]


@dataclasses.dataclass(frozen=True)
class Module:
    """What a file calls one of our modules.

    names: one, or those of q, k and v; kernel: how a matrix is stored; conv: how the
    kernel of a convolution is; leaves: what follows the name for single parameters,
    where that is not `.weight` or `.bias`.
    """

    names: tuple[str, ...]
    kernel: str = "dense"
    conv: str = "conv"
    heads: int = 1
    leaves: dict = dataclasses.field(default_factory=dict)


LEAVES = {"kernel": "weight", "scale": "weight", "embedding": "weight", "bias": "bias"}


def rows(modules, shapes, ours, prefix):
    """A Row for each leaf of `shapes` (a tree); modules: {our module path: Module}.

    ours: where the tree lies in the parameters; prefix: of the names in the file.
    Raises KeyError for a module without a name: the layout is incomplete.
    """
    found = []
    for path, leaf in trees.flatten(shapes).items():
        place, _, name = path.rpartition("/")
        module = modules[place]
        suffix = module.leaves.get(name, f".{LEAVES[name]}")
        stored = module.conv if len(leaf.shape) == 4 else module.kernel
        stored = stored if name == "kernel" else "same"
        theirs = tuple(prefix + their + suffix for their in module.names)
        shape = tuple(leaf.shape)
        found.append(Row(f"{ours}/{path}", theirs, stored, shape, module.heads))
    return found


def named(prefix, table, **how):
    """{our part: Module} of a table {our part: their part}, below `prefix`."""
    return {
        ours: Module((f"{prefix}{theirs}",), **how) for ours, theirs in table.items()
    }


def below(place, modules):
    """The same modules under a path of ours; "" is that place itself."""
    return {f"{place}/{path}".rstrip("/"): m for path, m in modules.items()}
