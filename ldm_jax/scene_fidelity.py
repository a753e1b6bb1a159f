"""Do scenes show what their captions say? Judged by a net trained on real ones.

The prompts are the captions of held-out scenes: each names a pair of things that no
training picture shows together. The judge (ldm_jax/judging.py) says for each place of
a picture which of the 266 scene sprites it sees there, or a person.

  found               share of the prompted things that are seen
  sprites_found       the same without people
  found_by_count      the same by how many things the prompt names
  pair_found          share of the pairs kept from training whose two things are seen
  relations           share of the statements that hold: both things are seen, and lie
                      as the words say
  relations_of_found  the same of the statements whose two things are seen
  reversed_of_found   share of those where the opposite holds
  by_relation         of each relation how many statements hold, how many have both
                      things seen, how many there are
  extra               things that are seen and were not prompted, for each picture

A thing is seen where it covers `least` of the judge's places or more: the number that
tells best (by F2) what is in other real scenes and what is not. Where it lies is the
box around these places.
"""

import collections
import dataclasses

import numpy as np

from ldm_jax import fidelity, generation, judging, reconstruction
from ldm_jax.data import captions, datasets, labels, sprites

DATASET = "emoji_scenes"
CALIBRATION = 256  # scenes that decide how many places are enough
CANDIDATES = range(1, 65)


def _across(box):
    return box[0] + box[2]


def _down(box):
    return box[1] + box[3]


# What the words say of two boxes (x0, y0, x1, y1): scenes._say without its margins.
HOLDS = {
    "left of": lambda a, b: _across(a) < _across(b),
    "right of": lambda a, b: _across(a) > _across(b),
    "in front of": lambda a, b: a[3] > b[3],
    "behind": lambda a, b: a[3] < b[3],
    "above": lambda a, b: _down(a) < _down(b),
    "below": lambda a, b: _down(a) > _down(b),
}


@dataclasses.dataclass(frozen=True)
class Prompts:
    """What n captions say, as labels.example has it."""

    texts: tuple
    things: np.ndarray  # int [n, 5]
    relations: np.ndarray  # int [n, 2, 3]

    def shuffled(self):
        """Each prompt in the place of its neighbour: pictures show chance by these."""
        moved = (np.roll(rows, 1, axis=0) for rows in (self.things, self.relations))
        return Prompts((*self.texts[-1:], *self.texts[:-1]), *moved)

    def wanted(self):
        """Which things each prompt names: bool [n, 267]."""
        rows, columns = np.nonzero(self.things >= 0)
        wanted = np.zeros((len(self.things), labels.PERSON + 1), bool)
        wanted[rows, self.things[rows, columns]] = True
        return wanted

    def statements(self):
        """(picture, thing, name of the relation, other thing) of all that is said."""
        for i, rows in enumerate(self.relations):
            for a, relation, b in rows[rows[:, 0] >= 0]:
                words = captions.RELATIONS[relation]
                yield i, int(self.things[i, a]), words, int(self.things[i, b])

    def pairs(self):
        """(picture, thing, other thing) of all pairs that training never shows."""
        loaded = sprites.load()
        names = [*(loaded.names[cell] for cell in loaded.scene_indices), "person"]
        for i, row in enumerate(self.things):
            row = [int(thing) for thing in row[row >= 0]]
            for k, a in enumerate(row):
                for b in row[:k]:
                    if captions.held_out(names[a], names[b]):
                        yield i, a, b


def prompts(examples):
    """The Prompts of a list of scenes."""
    return Prompts(
        tuple(example["caption"] for example in examples),
        np.stack([example["sprites"] for example in examples]),
        np.stack([example["relations"] for example in examples]),
    )


def covered(seen):
    """At how many places each thing is seen: int [n, h, w] -> int [n, 267]."""
    rows = [np.bincount(things.ravel(), minlength=labels.NONE + 1) for things in seen]
    return np.stack(rows)[:, : labels.NONE]


def least_places(asked, seen):
    """How many places make a thing seen, from real pictures of the prompts.

    The number with the best F2 of what is seen against what is there: what is missed
    counts more than what is seen in vain, which is seldom the one thing of 267 that was
    prompted.
    """
    places, wanted = covered(seen), asked.wanted()

    def f2(least):
        told = places >= least
        return 5 * np.sum(told & wanted) / (np.sum(told) + 4 * np.sum(wanted))

    return max(CANDIDATES, key=f2)  # of several the smallest


def lie_as_said(things, a, words, b):
    """Whether a picture's things, [h, w], lie as the words say; both must be there."""
    return HOLDS[words](labels.box_of(things == a), labels.box_of(things == b))


def share(right):
    """The mean of bools as a number; None of nothing."""
    return float(np.mean(right)) if len(right) else None


def figures(asked, seen, least):
    """The figures of what a judge saw: Prompts, int [n, h, w] of things -> dict."""
    known, wanted = covered(seen) >= least, asked.wanted()
    by_count = collections.defaultdict(list)
    for told, row in zip(known, wanted, strict=True):
        by_count[int(row.sum())].extend(told[row])
    forwards, backwards = [], []
    counts = {words: np.zeros(3, int) for words in captions.RELATIONS}
    for i, a, words, b in asked.statements():
        both = bool(known[i, a] and known[i, b])
        holds = both and lie_as_said(seen[i], a, words, b)
        counts[words] += holds, both, 1
        if both:
            forwards.append(holds)
            backwards.append(lie_as_said(seen[i], b, words, a))
    counts = {words: count.tolist() for words, count in counts.items()}
    said = sum(count for _, _, count in counts.values())
    return {
        "n": len(known),
        "found": share(known[wanted]),
        "sprites_found": share(known[:, : labels.PERSON][wanted[:, : labels.PERSON]]),
        "found_by_count": {str(k): share(by_count[k]) for k in sorted(by_count)},
        "pair_found": share([known[i, a] and known[i, b] for i, a, b in asked.pairs()]),
        "relations": float(sum(forwards) / said) if said else None,
        "relations_of_found": share(forwards),
        "reversed_of_found": share(backwards),
        "by_relation": counts,
        "statements": said,
        "statements_of_found": len(forwards),
        "extra": float(np.mean(np.sum(known & ~wanted, axis=1))),
    }


def compare(asked, seen, least):
    """The figures of drawn pictures beside real ones and chance.

    seen: {"drawn", "real", "ceiling": as in `figures`}; the ceiling's are the real ones
    after the first stage. half_way lies between chance and ceiling.
    """
    told = {name: figures(asked, one, least) for name, one in seen.items()}
    told["shuffled"] = figures(asked.shuffled(), seen["drawn"], least)
    ends = told["shuffled"], told["ceiling"]
    half_way = {
        key: None if ends[0][key] is None else (ends[0][key] + ends[1][key]) / 2
        for key in ("found", "pair_found", "relations")
    }
    cells = seen["drawn"][0].size
    enough = {"least": least, "least_area": least / cells}
    return told.pop("drawn") | told | {"half_way": half_way} | enough


def evaluate(model, judge, count, seed, batch_size, progress):
    """(figures, sheet rows): generation.Model, twice -> dict, [n, 2, S, S, 3].

    The rows hold each generated picture and the scene whose caption it was drawn for.
    progress(total) makes a bar.
    """
    config = model.config
    training = datasets.DRAWN[DATASET]("train", config.seed, config.data.image_size)
    source = reconstruction.held_out(config, DATASET)
    with progress(CALIBRATION + 5 * count) as bar:
        # First, as it also says whether the judge takes pictures of this size.
        least = calibrate(judge, training, batch_size, bar)
        asked, truth = scenes_of(source, count)
        drawn = fidelity.draw(model, asked.texts, seed, batch_size, bar)
        keys = generation.keys(seed, np.arange(count))
        ceiling = reconstruction.through(model, truth, keys, batch_size, bar)
        sets = {"drawn": drawn, "real": truth, "ceiling": ceiling}
        seen = {
            name: judging.see(judge, images, bar, batch_size)
            for name, images in sets.items()
        }
    return compare(asked, seen, least), np.stack([drawn, truth], axis=1)


def scenes_of(source, count, start=0):
    """(Prompts, uint8 [n, S, S, 3]) of a data set's scenes from a place on."""
    examples = [source[i] for i in range(start, start + count)]
    return prompts(examples), np.stack([example["image"] for example in examples])


def calibrate(judge, source, batch_size, bar):
    """`least_places` by scenes of a data set that no judge was trained on."""
    asked, images = scenes_of(source, CALIBRATION, labels.UNSEEN)
    return least_places(asked, judging.see(judge, images, bar, batch_size))
