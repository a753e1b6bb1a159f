"""What captions can say: names, colours, scene words, relations and clothes."""

import zlib

from ldm_jax.data import sprites

COLOURS = {
    "red": (214, 40, 40),
    "orange": (245, 130, 32),
    "yellow": (250, 214, 40),
    "green": (56, 158, 60),
    "teal": (24, 150, 150),
    "blue": (38, 92, 214),
    "purple": (120, 56, 176),
    "pink": (246, 150, 190),
    "brown": (124, 78, 42),
    "gray": (140, 140, 140),
    "black": (22, 22, 22),
    "white": (246, 246, 246),
}
GROUNDS = ("grass", "sand", "snow", "road", "water")
ON_GROUND = ("on grass", "on sand", "on snow", "on a road", "on water")
SKIES = ("blue", "cloudy", "sunset", "pink", "night")
_FLUENT = {"left of": "to the left of", "right of": "to the right of"}
RELATIONS = ("left of", "right of", "in front of", "behind", "above", "below")
STYLES = 4  # of scene_caption
POSES = ("standing", "walking", "waving", "cheering")

# Plural and mass names, which take no article.
_BARE = frozenset(
    ("houses", "grapes", "cherries", "blueberries", "peanuts", "beans")
    + ("broccoli", "garlic", "ginger root")
)
_SAY_YOU = ("unicorn", "ewe")
HELD_OUT_PERCENT = 5


def with_article(name):
    """'a fox', 'an owl', 'grapes'."""
    if name in _BARE:
        return name
    vowel = name[0].lower() in "aeiou" and name not in _SAY_YOU
    return f"an {name}" if vowel else f"a {name}"


def single_caption(name, colour, tag=None):
    """Caption of one object on a plain background."""
    thing = with_article(name) + (f", {tag}," if tag else "")
    return f"{thing} on {with_article(colour)} background"


def person(pose, shirt, trousers):
    """How captions call the drawn person."""
    return f"a {pose} person in {with_article(shirt)} shirt and {trousers} trousers"


def scene_caption(things, ground, sky, relations, style=0):
    """Caption of a scene; ground and sky are places in GROUNDS and SKIES.

    things are phrases with article; relations are (name, relation, name). Styles:

    0 "a fox and a hut on grass under a pink sky, the fox left of the hut"
    1 "a grass scene under a pink sky with a fox and a hut, the fox left of the hut"
    2 "a fox to the left of a hut on grass under a pink sky"
    3 "a fox to the left of a hut on grass"
    """
    over = "" if style == 3 else f" under a {SKIES[sky]} sky"
    if style == 1:
        text = f"a {GROUNDS[ground]} scene{over} with {_listed(things)}"
    elif style == 0 or not relations:
        text = f"{_listed(things)} {ON_GROUND[ground]}{over}"
    else:
        first, *relations = relations
        text = f"{_related(things, *first)} {ON_GROUND[ground]}{over}"
    return text + "".join(f", the {a} {said} the {b}" for a, said, b in relations)


def _listed(phrases):
    """'a fox', 'a fox and a hut', 'a fox, a hut and an owl'."""
    *others, last = phrases
    return f"{', '.join(others)} and {last}" if others else last


def _related(phrases, first, relation, second):
    """'a fox to the left of a hut, with an owl and a cat,'."""
    pair = [
        next(p for p in phrases if p == with_article(name) or f" {name} in " in p)
        for name in (first, second)
    ]
    others = [p for p in phrases if p not in pair]
    aside = f", with {_listed(others)}," if others else ""
    return f"{pair[0]} {_FLUENT.get(relation, relation)} {pair[1]}{aside}"


def held_out(first, second):
    """Whether a pair of names is kept from training; the order does not matter."""
    pair = "|".join(sorted((first, second)))
    return zlib.crc32(pair.encode()) % 100 < HELD_OUT_PERCENT


def caption_words():
    """Texts that together hold every word of every caption, for the vocabulary."""
    loaded = sprites.load()
    texts = [loaded.names[i] for i in loaded.scene_indices]
    texts += [tag for i in loaded.scene_indices for tag in loaded.tags[i]]
    texts += [single_caption("owl", colour, "tag") for colour in COLOURS]
    for style in range(STYLES):
        both, said = ["a fox", "an owl"], [("fox", "left of", "owl")]
        texts += [scene_caption(both, g, 0, said, style) for g in range(len(GROUNDS))]
        texts += [scene_caption(both, 0, s, [], style) for s in range(len(SKIES))]
    texts += [person(pose, "red", "blue") for pose in POSES]
    texts += [f"a fox and an owl, the fox {said} the owl" for said in RELATIONS]
    return texts
