"""What scenes are judged by: masks made by hand, and a judge that sees everything."""

import contextlib
import itertools
import types

import helpers
import jax
import numpy as np
import pytest

from ldm_jax import generation, judging, scene_fidelity, sharding
from ldm_jax import system as system_lib
from ldm_jax.data import captions, datasets, labels

SIZE = 16
FOX, OWL, CAT = 3, 7, 11  # any three sprites
OPPOSITES = (("left of", "right of"), ("in front of", "behind"), ("above", "below"))


def picture(**boxes):
    """A grid [16, 16] of nothing with things in boxes (x0, y0, x1, y1)."""
    things = np.full((SIZE, SIZE), labels.NONE)
    for name, (x0, y0, x1, y1) in boxes.items():
        things[y0:y1, x0:x1] = globals().get(name, labels.PERSON)
    return things


def seen(*things):
    """What a judge says that sees these grids."""
    return np.stack(things)


def asked(*scenes):
    """Prompts of (things, relations), numbers of things as they are listed."""
    things = np.full((len(scenes), labels.MAX_OBJECTS), -1)
    relations = np.full((len(scenes), labels.MAX_RELATIONS, 3), -1)
    for i, (row, said) in enumerate(scenes):
        things[i, : len(row)] = row
        for k, (a, words, b) in enumerate(said):
            relations[i, k] = a, captions.RELATIONS.index(words), b
    return scene_fidelity.Prompts(("",) * len(scenes), things, relations)


@pytest.mark.parametrize(
    ("first", "second", "true"),
    [
        ((1, 4, 4, 8), (6, 4, 9, 8), {"left of"}),
        ((1, 4, 9, 8), (4, 4, 8, 8), {"left of"}),  # by centres, not by edges
        ((4, 4, 8, 12), (4, 2, 8, 8), {"in front of", "below"}),
        ((4, 1, 8, 9), (4, 6, 8, 8), {"in front of", "above"}),
        ((4, 4, 8, 8), (12, 4, 16, 8), {"left of"}),
        ((2, 4, 6, 8), (3, 3, 5, 8), {"below"}),
    ],
)
def test_each_relation_is_true_one_way_and_false_the_other(first, second, true):
    things = picture(FOX=first, OWL=second)
    for pair in OPPOSITES:
        for words, other in (pair, pair[::-1]):
            holds = scene_fidelity.lie_as_said(things, FOX, words, OWL)
            assert holds == (words in true)
            assert holds == scene_fidelity.lie_as_said(things, OWL, other, FOX)


def test_a_relation_counts_where_both_things_are_seen():
    said = [(0, "left of", 1)]
    prompts = asked(*[([FOX, OWL], said)] * 4)
    there = seen(
        picture(FOX=(1, 4, 4, 8), OWL=(6, 4, 9, 8)),
        picture(FOX=(6, 4, 9, 8), OWL=(1, 4, 4, 8)),
        picture(FOX=(1, 4, 4, 8)),
        picture(FOX=(1, 4, 4, 8), OWL=(1, 9, 4, 12)),  # neither left nor right
    )
    told = scene_fidelity.figures(prompts, there, 1)
    assert told["found"] == 7 / 8 and told["statements"] == 4
    assert told["relations"] == 1 / 4 and told["statements_of_found"] == 3
    assert told["relations_of_found"] == told["reversed_of_found"] == 1 / 3
    assert told["by_relation"]["left of"] == [1, 3, 4]
    assert told["by_relation"]["behind"] == [0, 0, 0]


def test_things_are_found_from_the_least_area_on():
    prompts = asked(([FOX, labels.PERSON], []), ([OWL, CAT, FOX], []))
    there = seen(
        picture(FOX=(0, 0, 2, 2), person=(4, 4, 8, 8), CAT=(9, 9, 12, 12)),
        picture(OWL=(0, 0, 3, 1)),
    )
    few, many = (scene_fidelity.figures(prompts, there, least) for least in (3, 5))
    assert few["found"] == 3 / 5 and few["sprites_found"] == 2 / 4
    assert few["found_by_count"] == {"2": 1.0, "3": 1 / 3}
    assert few["extra"] == 0.5
    assert many["found"] == 1 / 5 and many["sprites_found"] == 0
    assert few["relations"] is few["relations_of_found"] is None


def test_the_least_area_is_what_tells_best():
    """Specks of four places are none of the things that real scenes hold."""
    prompts = asked(([FOX], []), ([OWL], []))
    there = seen(
        picture(FOX=(4, 4, 8, 8), CAT=(0, 0, 2, 2)),
        picture(OWL=(4, 4, 8, 7), FOX=(0, 0, 2, 2)),
    )
    assert scene_fidelity.least_places(prompts, there) == 5


def test_pairs_are_those_that_training_never_shows():
    scenes = datasets.DRAWN["emoji_scenes"]("heldout", 0, SIZE)
    prompts = scene_fidelity.prompts([scenes[i] for i in range(20)])
    pairs = list(prompts.pairs())
    assert {i for i, _, _ in pairs} == set(range(20))
    i, a, b = pairs[0]
    one = scene_fidelity.Prompts(prompts.texts[i : i + 1], *rows(prompts, i))
    blank = seen(picture())
    assert scene_fidelity.figures(one, blank, 1)["pair_found"] == 0
    things = blank.copy()
    for k, thing in itertools.product(range(3), prompts.things[i]):
        things[0, k, thing % SIZE] = thing if thing >= 0 else labels.NONE
    things[0, 5, :8], things[0, 6, :8] = a, b
    assert scene_fidelity.figures(one, seen(*things), 1)["pair_found"] == 1
    training = datasets.DRAWN["emoji_scenes"]("train", 0, SIZE)
    assert not list(scene_fidelity.prompts([training[0]]).pairs())


def rows(prompts, i):
    return prompts.things[i : i + 1], prompts.relations[i : i + 1]


def test_shuffling_gives_each_picture_anothers_prompt():
    prompts = asked(([FOX], []), ([OWL], [(0, "above", 0)]), ([CAT], []))
    other = prompts.shuffled()
    assert other.things[:, 0].tolist() == [CAT, FOX, OWL]
    assert other.relations[2, 0, 0] == 0 and (other.relations[:2] == -1).all()


class AllSeeing:
    """Stands in for a judge: knows real scenes by heart, and sees nothing in others."""

    def __init__(self, *sources):
        self.known = {}
        for source, places in sources:
            for example in (source[i] for i in places):
                self.known[example["image"].tobytes()] = example

    def see(self, judge, images, bar, batch_size):
        assert judge is self
        bar.update(len(images))
        return seen(*(self.things(image) for image in images))

    def things(self, image):
        example = self.known.get(image.tobytes())
        if example is None:
            return picture()
        names = np.append(labels.NONE, example["sprites"])
        return names[example["instances"]]


def test_the_task_from_a_model_to_figures(monkeypatch):
    monkeypatch.setattr(scene_fidelity, "CALIBRATION", 8)
    config = helpers.tiny_config()
    assert config.data.image_size == SIZE
    scenes = [
        datasets.DRAWN["emoji_scenes"](split, config.seed, SIZE)
        for split in ("train", "heldout")
    ]
    unseen = range(labels.UNSEEN, labels.UNSEEN + 8)
    judge = AllSeeing((scenes[0], unseen), (scenes[1], range(6)))
    monkeypatch.setattr(judging, "see", judge.see)
    monkeypatch.setattr("ldm_jax.cli.say", lambda words: None)  # of captions' ends
    steps = []
    bar = types.SimpleNamespace(update=steps.append)
    asked = lambda total: steps.append(-total) or contextlib.nullcontext(bar)
    told, shown = scene_fidelity.evaluate(tiny(config), judge, 6, 0, 4, asked)
    real = told["real"]
    assert told["n"] == real["n"] == told["ceiling"]["n"] == 6
    assert real["found"] == real["pair_found"] == real["relations"] == 1
    assert real["extra"] == told["found"] == told["ceiling"]["found"] == 0
    assert told["shuffled"]["found"] == told["half_way"]["found"] == 0
    assert told["least"] == 1 and told["least_area"] == 1 / SIZE**2
    assert shown.shape == (6, 2, SIZE, SIZE, 3) and shown.dtype == np.uint8
    np.testing.assert_array_equal(shown[2, 1], scenes[1][2]["image"])
    assert sum(steps) == 0


def tiny(config):
    """A model of random weights."""
    system = system_lib.build(config)
    shapes = jax.eval_shape(system.init, jax.random.key(0))
    mesh = sharding.make_mesh(devices=jax.devices()[:1])
    params = helpers.random_params(shapes)
    return generation.Model(config, system, params, "here", mesh)


def test_half_way_lies_between_chance_and_ceiling():
    prompts = asked(([FOX, OWL], [(0, "left of", 1)]), ([CAT], []))
    right = picture(FOX=(1, 4, 4, 8), OWL=(6, 4, 9, 8)), picture(CAT=(1, 1, 5, 5))
    sets = {"drawn": seen(picture(), right[0]), "real": seen(*right)}
    told = scene_fidelity.compare(prompts, sets | {"ceiling": seen(*right)}, 1)
    assert told["found"] == 0 and told["ceiling"]["found"] == 1
    assert told["shuffled"]["found"] == 2 / 3 and told["shuffled"]["relations"] == 1
    assert (
        told["half_way"]["found"] == pytest.approx(5 / 6)
        and told["half_way"]["relations"] == 1
    )
    assert told["relations"] == 0 and told["relations_of_found"] is None
