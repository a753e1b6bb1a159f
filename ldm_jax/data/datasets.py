"""The data sets by name: those that are drawn, and those that are read.

Drawn: functions (split, seed, image_size) -> source of square examples without an end.
Read: functions (path, split) -> source of examples of any size, each of them once;
COUNTED are their arrays that have a row for each object of a picture.
"""

import dataclasses
import functools

from ldm_jax.data import labels, packed, paired, scenes, shards, singles, tfds


@dataclasses.dataclass(frozen=True)
class Mixed:
    """A single object at every `parts`-th place from 0 on, scenes at the others."""

    split: str
    seed: int
    image_size: int
    parts: int = 2
    lesson: bool = False  # of the scenes

    def __len__(self):
        return labels.ENDLESS

    def __getitem__(self, index):
        of = self.split, self.seed, self.image_size
        if index % self.parts == 0:
            return singles.Singles(*of)[index]
        return scenes.Scenes(*of, self.lesson)[index]


DRAWN = {
    "emoji_singles": singles.Singles,
    "emoji_scenes": scenes.Scenes,
    "emoji_people": functools.partial(scenes.Scenes, people=True),
    "emoji_mixed": Mixed,
    "emoji_lessons": functools.partial(Mixed, parts=5, lesson=True),
}
READ = {
    "packed": packed.opened,
    "paired": paired.opened,
    "tfds": tfds.opened,
}
CONTENT = {
    "packed": packed.content,
    "paired": paired.content,
    "tfds": shards.digest,
}
DATASETS = DRAWN | READ
COUNTED = ("classes", "boxes", "flags")


def content(name, path):
    """What tells the pictures that are read from others: a hash; "" of those drawn."""
    return CONTENT[name](path) if name in READ else ""
