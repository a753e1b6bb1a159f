"""What examples know of their captions: which objects, and what is said of them."""

import functools
import re

import numpy as np
import pytest

from ldm_jax.data import captions, datasets, labels, sprites

NAMES = tuple(datasets.DRAWN)


@functools.cache
def examples(name, count=40):
    source = datasets.DRAWN[name]("train", 3, 64)
    return [source[i] for i in range(count)]


def scene_names():
    loaded = sprites.load()
    return [loaded.names[i] for i in loaded.scene_indices]


def called(example):
    """How the caption calls each object."""
    names = [*scene_names(), "person"]
    return [names[k] for k in example["sprites"] if k >= 0]


def test_people_and_nothing_come_after_the_scene_sprites():
    assert labels.PERSON == len(scene_names()) == labels.NONE - 1


@pytest.mark.parametrize("name", NAMES)
def test_sprites_are_what_stands_there(name):
    loaded = sprites.load()
    kinds = np.array([*loaded.scene_class, labels.CLASSES.index("person")])
    for example in examples(name):
        known = example["sprites"] >= 0
        np.testing.assert_array_equal(known, example["classes"] >= 0)
        own = example["sprites"][known]
        np.testing.assert_array_equal(kinds[own], example["classes"][known])
        assert example["label"] in own
        for said in called(example):
            wanted = "person in" if said == "person" else captions.with_article(said)
            assert wanted in example["caption"]


def fluent(a, words, b):
    """A pattern of what styles 2 and 3 say of the first pair."""
    end = "trousers" if a == "person" else re.escape(a)
    start = r"a \w+ person" if b == "person" else re.escape(captions.with_article(b))
    return rf"\b{end} (to the )?{words} {start}\b"


def test_relations_are_those_of_the_caption():
    counts, styles = [0, 0, 0], [0, 0]
    for example in examples("emoji_scenes", count=80):
        names, rows = called(example), example["relations"]
        rows = rows[rows[:, 0] >= 0]
        said = [(names[a], captions.RELATIONS[r], names[b]) for a, r, b in rows]
        plain = [f", the {a} {words} the {b}" for a, words, b in said]
        caption = example["caption"]
        counts[len(said)] += 1
        if not caption.endswith("".join(plain)):
            assert re.search(fluent(*said[0]), caption)
            plain = plain[1:]
        assert caption.endswith("".join(plain))
        assert caption.count(", the ") == len(plain)
        styles[len(said) - len(plain)] += 1
    assert min(counts) > 5 and min(styles) > 15
    assert all((e["relations"] == -1).all() for e in examples("emoji_singles"))


def measures(example, k):
    """Of object k what relations compare: centre x, depth and centre y."""
    x0, y0, x1, y1 = example["boxes"][k]
    (depth,) = np.unique(example["depth"][example["instances"] == k + 1])
    return (x0 + x1) / 2, depth, (y0 + y1) / 2


def test_the_geometry_says_that_relations_hold():
    seen = set()
    for example in examples("emoji_scenes", count=80):
        for a, relation, b in example["relations"]:
            if a >= 0:
                seen.add(captions.RELATIONS[relation])
                kind, backwards = divmod(relation, 2)
                less, more = (b, a) if backwards else (a, b)
                assert measures(example, less)[kind] < measures(example, more)[kind]
    assert len(seen) >= 4


def test_a_scene_is_told_in_four_ways():
    things = ["a fox", "a hut", "an owl"]
    said = [("fox", "left of", "owl"), ("hut", "behind", "owl")]
    told = [captions.scene_caption(things, 2, 4, said, style) for style in range(4)]
    behind = ", the hut behind the owl"
    both = f", the fox left of the owl{behind}"
    assert len(told) == captions.STYLES
    assert told == [
        f"a fox, a hut and an owl on snow under a night sky{both}",
        f"a snow scene under a night sky with a fox, a hut and an owl{both}",
        f"a fox to the left of an owl, with a hut, on snow under a night sky{behind}",
        f"a fox to the left of an owl, with a hut, on snow{behind}",
    ]
    assert captions.scene_caption(["a fox"], 0, 0, [], 3) == "a fox on grass"
    person = captions.person("waving", "red", "blue")
    said = [("person", "in front of", "owl")]
    told = captions.scene_caption([person, "an owl"], 0, 0, said, 3)
    assert told == f"{person} in front of an owl on grass"
