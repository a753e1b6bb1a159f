"""The data sets by name: functions (split, seed, image_size) -> source of dicts."""

import dataclasses

from ldm_jax.data import labels, scenes, singles


@dataclasses.dataclass(frozen=True)
class Mixed:
    """Single objects at even places and scenes at odd ones."""

    split: str
    seed: int
    image_size: int

    def __len__(self):
        return labels.ENDLESS

    def __getitem__(self, index):
        kind = scenes.Scenes if index % 2 else singles.Singles
        return kind(self.split, self.seed, self.image_size)[index]


@dataclasses.dataclass(frozen=True)
class Lessons:
    """One single object in five; the rest are scenes that teach where things are."""

    split: str
    seed: int
    image_size: int

    def __len__(self):
        return labels.ENDLESS

    def __getitem__(self, index):
        of = self.split, self.seed, self.image_size
        source = scenes.Scenes(*of, lesson=True) if index % 5 else singles.Singles(*of)
        return source[index]


DATASETS = {
    "emoji_singles": singles.Singles,
    "emoji_scenes": scenes.Scenes,
    "emoji_mixed": Mixed,
    "emoji_lessons": Lessons,
}
