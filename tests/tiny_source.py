"""A picklable data source for the pipeline's tests (worker processes import it)."""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class TinySource:
    """Example i is its own number, as a scalar and as a small picture."""

    size: int

    def __len__(self):
        return self.size

    def __getitem__(self, i):
        image = np.full((2, 2, 3), int(i) % 256, np.uint8)
        return {"index": np.int64(i), "image": image, "name": f"example {i}"}


def doubled(example, rng):
    """A transform: adds a field, leaves the rest."""
    return {**example, "double": example["index"] * 2}


def drawn(example, rng):
    """Adds a number that is drawn."""
    return {**example, "drawn": rng.random()}
