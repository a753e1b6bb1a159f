"""From a random-access source of examples to this host's batches, with grain.

The state is one integer, the number of global batches already taken: batches are cut
before the reading threads and worker processes, so their number never changes the data.
"""

from absl import flags
import grain
import numpy as np


def shuffled(source, seed):
    """A finite source, endlessly repeated in a new seeded order each epoch.

    Batches run on over the end of an epoch, so that every example is seen once in each.
    Raises ValueError for an empty source.
    """
    if len(source) == 0:
        raise ValueError("the data source is empty: nothing to shuffle")
    return grain.MapDataset.source(source).shuffle(seed=seed).repeat()


def rows_per_host(batch_size, hosts):
    """How many rows of a global batch one host reads."""
    if batch_size % hosts:
        raise ValueError(
            f"data.batch_size {batch_size} must be a multiple of the number of hosts, "
            f"{hosts}"
        )
    return batch_size // hosts


def batches(source, keys, transform, batch_size, start, host, hosts, workers, seed=0):
    """An endless (or as long as the source) iterator of this host's batches.

    source: `__len__` and `__getitem__(i) -> dict`, deterministic, or `shuffled(...)`;
        it and `transform` must pickle when there are workers (which are spawned).
    keys: what to keep of `transform(example, rng) -> dict` (None: no transform); rng is
        a numpy Generator of the seed and the example's place, another in each epoch.
    batch_size: rows of the global batch; host h of `hosts` gets rows h*b..(h+1)*b - 1,
        b = batch_size / hosts. A last incomplete global batch is dropped.
    start: how many global batches were consumed before; it goes on after them.
    workers: processes (0: threads of this one only).

    Returns a generator of dicts of numpy arrays [b, ...]; `close()` it (or use
    contextlib.closing) to end the workers. Raises ValueError when hosts do not divide
    batch_size.
    """
    rows = rows_per_host(batch_size, hosts)
    dataset = source
    if not isinstance(source, grain.MapDataset):
        dataset = grain.MapDataset.source(source)
    dataset = dataset.random_map(_Select(tuple(keys), transform), seed=seed)
    dataset = dataset.batch(rows, drop_remainder=True, batch_fn=_stack)
    whole = len(dataset) // hosts * hosts  # every host must see equally many
    dataset = dataset[host:whole:hosts][start:]
    return _iterate(dataset, workers)


class _Select:
    """Transforms one example and keeps the wanted keys; picklable."""

    def __init__(self, keys, transform):
        self.keys, self.transform = keys, transform

    def __call__(self, example, rng):
        if self.transform is not None:
            example = self.transform(example, rng)
        missing = [key for key in self.keys if key not in example]
        if missing:
            raise KeyError(f"no {missing} in the example, which has {sorted(example)}")
        return {key: example[key] for key in self.keys}


def _stack(examples):
    return {key: np.stack([e[key] for e in examples]) for key in examples[0]}


THREADS = 2  # that read, in each process


def _iterate(dataset, workers):
    """Yields with read-ahead of two batches a thread; closing ends the workers."""
    options = grain.ReadOptions(num_threads=THREADS, prefetch_buffer_size=2 * THREADS)
    dataset = dataset.to_iter_dataset(options)
    if workers > 0:
        if not flags.FLAGS.is_parsed():  # grain reads absl flags even in notebooks
            flags.FLAGS.mark_as_parsed()
        dataset = dataset.mp_prefetch(grain.MultiprocessingOptions(num_workers=workers))
    iterator = iter(dataset)
    try:
        yield from iterator
    finally:
        iterator.close()
