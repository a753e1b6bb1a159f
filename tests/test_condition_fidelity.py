"""What labels, layouts and maps are judged by: grids made by hand, and a whole run."""

import contextlib
import json
import types

import commands
import helpers
import jax
import numpy as np
from PIL import Image
import pytest

from ldm_jax import condition_fidelity, config, frozen, inputs, judging
from ldm_jax import system as system_lib
from ldm_jax.data import labels
from ldm_jax.weights import own

FOX, OWL = 3, 7  # any two sprites
ANIMAL, PLANT = (labels.segment_of(kind) for kind in (0, 1))


def grid(size=16, nothing=labels.NONE, **areas):
    """A grid of nothing, with numbers in boxes: name=(number, x0, y0, x1, y1)."""
    found = np.full((size, size), nothing)
    for number, x0, y0, x1, y1 in areas.values():
        found[y0:y1, x0:x1] = number
    return found


def test_a_label_is_the_thing_that_covers_most():
    seen = np.stack(
        [
            grid(a=(FOX, 0, 0, 4, 4), b=(OWL, 8, 8, 10, 10)),
            grid(a=(FOX, 0, 0, 2, 2), b=(OWL, 8, 8, 11, 11)),
            grid(),
        ]
    )
    examples = [{"label": np.int32(FOX)}] * 3
    told = condition_fidelity.label(examples, seen)
    assert told == {"accuracy": pytest.approx(1 / 3)}


def test_a_picture_that_shows_nothing_or_two_alike_has_no_label():
    """Nor is one wrong in which every place is a thing."""
    full, blank = np.full((16, 16), FOX), grid()
    tie = grid(a=(0, 0, 0, 4, 4), b=(FOX, 8, 8, 12, 12))
    told = condition_fidelity.label(
        [{"label": np.int32(0)}] * 2, np.stack([blank, tie])
    )
    assert told == {"accuracy": 0}
    seen = np.stack([full, grid(a=(FOX, 0, 0, 1, 1))])
    told = condition_fidelity.label([{"label": np.int32(FOX)}] * 2, seen)
    assert told == {"accuracy": 1}


def of_boxes(*rows):
    """An example's boxes and classes, the last row unused."""
    boxes = np.array([*(row[1:] for row in rows), (0, 0, 0, 0)], np.float32)
    return {"boxes": boxes, "classes": np.array([*(row[0] for row in rows), -1])}


def test_a_box_is_right_where_its_class_covers_most_of_what_is_a_class():
    ground = labels.ground_segment(0)
    seen = grid(nothing=ground, a=(ANIMAL, 0, 0, 4, 2), b=(PLANT, 8, 0, 16, 8))[None]
    right = [(0, 0, 0, 0.25, 0.5), (1, 0.5, 0, 1, 0.5)]
    wrong = [(1, 0, 0, 0.25, 0.5), (0, 0, 0.75, 1, 1)]  # another; only the ground
    told = condition_fidelity.layout([of_boxes(*right, *wrong)], seen)
    assert told["boxes_right"] == 0.5
    by_class = {name: row for name, row in told["by_class"].items() if row[1]}
    assert by_class == {labels.CLASSES[0]: [1, 2], labels.CLASSES[1]: [1, 2]}


def test_a_box_takes_in_the_places_it_touches():
    """An eighth of a place is enough, so that thin things have places at all."""
    seen = grid(a=(ANIMAL, 2, 3, 3, 4), nothing=labels.SKY)[None]
    at = np.array([2.4, 3.4, 2.6, 3.5]) / 16
    told = condition_fidelity.layout([of_boxes((0, *at))], seen)
    assert told["boxes_right"] == 1


def test_pictures_without_boxes_are_refused():
    with pytest.raises(ValueError, match="none of the pictures has a box"):
        condition_fidelity.layout([of_boxes()], grid()[None])


def test_maps_by_intersection_over_union_of_what_is_told():
    told = np.zeros((1, 8, 8), np.uint8)
    told[0, :, 4:] = labels.SKY
    seen = np.zeros((1, 2, 2), int)  # of places of 4 pixels
    seen[0, 0, 1], seen[0, 1, 1] = labels.SKY, PLANT
    found = condition_fidelity.semantic([{"segmentation": told[0]}], seen)
    names = labels.SEGMENTS[labels.BACKDROP], labels.SEGMENTS[labels.SKY]
    assert found["iou"] == dict(zip(names, (1.0, 0.5), strict=True))
    assert found["miou"] == 0.75 and found["pixels"] == 0.75


def test_chance_is_what_the_neighbours_condition_gets():
    seen = np.stack([grid(a=(FOX, 0, 0, 4, 4)), grid(a=(OWL, 0, 0, 4, 4))])
    examples = [{"label": np.int32(k)} for k in (FOX, OWL)]
    sets = {"drawn": seen, "real": seen, "ceiling": seen[[0, 0]]}
    told = condition_fidelity.compare(condition_fidelity.label, examples, sets)
    assert told["accuracy"] == told["real"]["accuracy"] == 1
    assert told["shuffled"]["accuracy"] == 0 and told["ceiling"]["accuracy"] == 0.5
    assert told["half_way"] == {"accuracy": 0.25}


KINDS = {
    "label": dict(classes=267, drop=0.1),
    "layout": dict(classes=7, vocab=257, length=17, depth=1, heads=1, drop=0.1),
    "segmentation": dict(classes=14, stages=2),
}


def tiny(kind):
    c = config.demo(steps=101)
    name = "emoji_singles" if kind == "label" else "emoji_scenes"
    c.data.update(name=name, batch_size=2)
    c.cond_stage.update(kind=kind, width=8, **KINDS[kind])
    c.unet.update(channels=8, mult=(1, 1), depths=(0, 1), groups=4, head_channels=8)
    if kind == "segmentation":
        c.unet.update(attention="plain", positions=False)
    c.train.pictures = c.sample.steps = 2
    return config.check(c)


def weights(path, c):
    """Writes random weights of a config, without its first stage."""
    shapes = jax.eval_shape(system_lib.build(c).init, jax.random.key(0))
    params = helpers.random_params(shapes)
    del params["first_stage"]
    own.save_weights(path, params, c.to_dict(), {"first_stage": frozen.digest(c)})
    return path


@pytest.mark.parametrize("kind", KINDS)
def test_the_command_says_one_line_of_figures(kind, tmp_path):
    """A model that knows nothing draws what nobody told; all figures are there."""
    path = weights(tmp_path / "weights.safetensors", tiny(kind))
    flags = ["--task=condition", "--n=3", f"--weights={path}", f"--out={tmp_path}"]
    told = json.loads(commands.said("ldm_jax.evaluate", *flags))
    (main,) = told["half_way"]
    assert told["task"] == "condition" and told["n"] == 3 and told["steps"] == 2
    assert 0 <= told[main] <= told["real"][main] <= 1
    assert 0 < told["ceiling"][main] <= 1 and 0 <= told["shuffled"][main] <= 1
    assert told["weights"] == own.digest(path)
    with Image.open(tmp_path / "condition.png") as image:
        columns = 2 if kind == "label" else 3
        assert np.asarray(image).std() > 0 and image.width == 2 + 66 * 3 * columns


def test_what_is_told_is_the_examples_own():
    """Real pictures of held-out scenes, judged by what is told of them."""
    c = tiny("layout")
    examples = inputs.held_out(c, 24, seed=0)
    judge = judging.load()
    images = np.stack([example["image"] for example in examples])
    seen = judging.see(judge, images, head="segments")
    told = condition_fidelity.layout(examples, seen)
    others = condition_fidelity.layout(examples[1:] + examples[:1], seen)
    assert told["boxes_right"] > 0.7 and others["boxes_right"] < 0.55
    maps = condition_fidelity.semantic(examples, seen)
    other_maps = condition_fidelity.semantic(examples[1:] + examples[:1], seen)
    assert maps["miou"] > 0.5 and other_maps["miou"] < 0.25


def test_data_that_the_judge_does_not_know_are_refused():
    c = tiny("label")
    c.data.name = "packed"
    model = types.SimpleNamespace(config=c)
    with pytest.raises(ValueError, match="data.name is 'packed', and the judge knows"):
        condition_fidelity.evaluate(model, None, 2, 0, 2, contextlib.nullcontext)
