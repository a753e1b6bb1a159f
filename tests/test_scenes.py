import functools
import itertools
import pickle

import numpy as np
import pytest

from ldm_jax.data import (
    backgrounds,
    captions,
    datasets,
    labels,
    mannequin,
    masks,
    scenes,
    singles,
    sprites,
    things,
)

SIZE = 64
NAMES = tuple(datasets.DRAWN)
PERSON = labels.CLASSES.index("person")


@functools.cache
def examples(name, split="train", count=40):
    source = datasets.DRAWN[name](split, 3, SIZE)
    return [source[i] for i in range(count)]


def objects(example):
    """Names in the example's caption that are scene sprites, longest match first."""
    text = f" {example['caption'].replace(',', ' , ')} "
    found = set()
    for name in sorted(scene_names(), key=len, reverse=True):
        if f" {name} " in text:
            found.add(name)
            text = text.replace(f" {name} ", "  ")
    return found


@functools.cache
def scene_names():
    loaded = sprites.load()
    return tuple(loaded.names[i] for i in loaded.scene_indices)


@pytest.mark.parametrize("name", NAMES)
def test_shapes_and_types(name):
    shapes = {
        "image": ((SIZE, SIZE, 3), np.uint8),
        "label": ((), np.int32),
        "boxes": ((5, 4), np.float32),
        "classes": ((5,), np.int32),
        "sprites": ((5,), np.int32),
        "relations": ((2, 3), np.int32),
        "segmentation": ((SIZE, SIZE), np.uint8),
        "instances": ((SIZE, SIZE), np.uint8),
        "depth": ((SIZE, SIZE), np.float32),
        "joints": ((18, 3), np.float32),
        "mask": ((SIZE, SIZE), np.uint8),
    }
    for example in examples(name)[:8]:
        assert set(example) == {"caption", *shapes}
        for key, (shape, kind) in shapes.items():
            assert example[key].shape == shape, key
            assert example[key].dtype == kind, key


@pytest.mark.parametrize("name", NAMES)
def test_an_example_depends_on_seed_and_index_alone(name):
    source = pickle.loads(pickle.dumps(datasets.DRAWN[name]("train", 3, SIZE)))
    assert len(source) >= 2**31
    for i in (7, 2, 30):
        for key, value in examples(name)[i].items():
            np.testing.assert_array_equal(source[i][key], value)
    other = datasets.DRAWN[name]("train", 4, SIZE)[7]
    assert (other["image"] != source[7]["image"]).any()
    assert (source[8]["image"] != source[7]["image"]).any()


def test_indices_and_splits_are_checked():
    source = datasets.DRAWN["emoji_scenes"]("train", 0, SIZE)
    with pytest.raises(IndexError, match="outside"):
        source[-1]
    with pytest.raises(IndexError, match="outside"):
        source[len(source)]
    with pytest.raises(ValueError, match="'val'"):
        datasets.DRAWN["emoji_scenes"]("val", 0, SIZE)[0]


def test_mixed_alternates():
    mixed = examples("emoji_mixed")
    for i in (0, 3):
        name = "emoji_scenes" if i % 2 else "emoji_singles"
        np.testing.assert_array_equal(mixed[i]["image"], examples(name)[i]["image"])


def test_lessons_are_scenes_but_for_one_in_five():
    lessons = datasets.DRAWN["emoji_lessons"]("train", 3, SIZE)
    single = datasets.DRAWN["emoji_singles"]("train", 3, SIZE)[5]
    np.testing.assert_array_equal(lessons[5]["image"], single["image"])
    for i in (1, 4, 6):
        assert (lessons[i]["classes"] >= 0).sum() >= 2


def test_lessons_show_less_and_say_more():
    def means(name):
        rows = [e for e in examples(name, count=80) if e["classes"][1] >= 0]
        shown = np.mean([(e["classes"] >= 0).sum() for e in rows])
        return shown, np.mean([e["relations"][:, 0] >= 0 for e in rows])

    (shown, said), (fewer, more) = means("emoji_scenes"), means("emoji_lessons")
    assert fewer < shown - 0.3
    assert more > said + 0.05


def test_held_out_singles():
    for split, wanted in (("train", False), ("heldout", True)):
        for example in examples("emoji_singles", split):
            name = scene_names()[example["label"]]
            colour = example["caption"].split()[-2]
            assert captions.held_out(name, colour) == wanted


def test_held_out_scenes():
    for split, wanted in (("train", False), ("heldout", True)):
        for example in examples("emoji_scenes", split):
            names = objects(example)
            if PERSON in example["classes"]:
                names.add("person")
            pairs = itertools.combinations(names, 2)
            assert any(captions.held_out(a, b) for a, b in pairs) == wanted


def test_holding_out_does_not_depend_on_the_order():
    assert captions.held_out("fox", "owl") == captions.held_out("owl", "fox")
    count = sum(captions.held_out("fox", name) for name in scene_names())
    assert 3 < count < 30


@pytest.mark.parametrize("name", NAMES)
def test_boxes_and_segments_follow_the_visible_instances(name):
    for example in examples(name):
        instances, count = example["instances"], (example["classes"] >= 0).sum()
        assert instances.max() == count
        assert not example["boxes"][count:].any()
        assert (example["classes"][count:] == -1).all()
        for k in range(count):
            rows, columns = np.nonzero(instances == k + 1)
            ends = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
            np.testing.assert_allclose(example["boxes"][k] * SIZE, ends, atol=1e-4)
            kinds = example["segmentation"][instances == k + 1]
            assert (kinds == labels.segment_of(example["classes"][k])).all()
        bare = example["segmentation"][instances == 0]
        assert bare.max() < labels.segment_of(0)


def test_segments_are_named():
    assert labels.SEGMENTS[labels.SKY] == "sky"
    assert labels.SEGMENTS[labels.segment_of(PERSON)] == "person"
    assert labels.SEGMENTS[labels.ground_segment(2)] == captions.GROUNDS[2]


def test_captions_name_the_objects_and_the_place():
    for example in examples("emoji_scenes"):
        count = (example["classes"] >= 0).sum()
        people = (example["classes"] == PERSON).sum()
        assert len(objects(example)) == count - people
        assert ("person in" in example["caption"]) == bool(people)
        assert scene_names()[example["label"]] in objects(example)
        grounds = [
            ground
            for g, ground in enumerate(captions.GROUNDS)
            if (example["segmentation"] == labels.ground_segment(g)).any()
        ]
        assert len(grounds) == 1
        assert grounds[0] in example["caption"]


def test_depth_order_agrees_with_painting_order():
    for example in examples("emoji_scenes"):
        depth, instances = example["depth"], example["instances"]
        assert depth.min() >= 0
        assert depth.max() <= 1
        each = [np.unique(depth[instances == k]) for k in range(1, instances.max() + 1)]
        assert all(len(values) == 1 for values in each)
        order = [values[0] for values in each]
        assert order == sorted(order, reverse=True)
        assert (depth[example["segmentation"] == labels.SKY] == 1).all()


def test_left_of_is_true_in_pictures():
    seen, article = 0, captions.with_article
    for example in examples("emoji_scenes", count=80):
        loaded, names = sprites.load(), objects(example)
        for a, b in itertools.permutations(names, 2):
            said = f"the {a} left of the {b}", f"{a} to the left of {article(b)}"
            if not any(words in example["caption"] for words in said):
                continue
            kinds = [loaded.scene_class[scene_names().index(name)] for name in (a, b)]
            centre = (example["boxes"][:, 0] + example["boxes"][:, 2]) / 2
            left = [centre[example["classes"] == kind] for kind in kinds]
            if len(left[0]) == len(left[1]) == 1:  # the class says which one it is
                assert left[0] < left[1]
                seen += 1
    assert seen >= 5


def placed(x, y, near, kind=0):
    """A thing of side 0.2 around (x, y)."""
    thing = things.Thing("fox", "a fox", kind, 0)
    box = (x - 0.1, y - 0.1, x + 0.1, y + 0.1)
    return scenes.Placed(thing, near, box, 100, None)


@pytest.mark.parametrize(
    ("first", "second", "said", "backwards"),
    [
        (placed(0.2, 0.5, 0.5), placed(0.8, 0.5, 0.5), "left of", "right of"),
        (placed(0.5, 0.5, 0.9), placed(0.55, 0.5, 0.5), "in front of", "behind"),
        (placed(0.5, 0.2, 0.5, 5), placed(0.5, 0.8, 0.5), "above", "below"),
    ],
)
def test_what_is_said_holds(first, second, said, backwards):
    assert list(scenes._say(first, second)) == [said]
    assert list(scenes._say(second, first)) == [backwards]


def test_nothing_is_said_of_what_is_hard_to_see():
    here = placed(0.5, 0.5, 0.5)
    assert not list(scenes._say(here, placed(0.6, 0.5, 0.55)))
    assert not list(scenes._say(placed(0.5, 0.4, 0.5, 5), here))


def test_scenes_hold_people_with_seen_joints():
    people = [e for e in examples("emoji_scenes", count=80) if e["joints"].any()]
    assert 4 <= len(people) <= 25
    for example in people:
        k = list(example["classes"]).index(PERSON) + 1
        body = np.pad(example["instances"] == k, 1)
        for x, y, visible in example["joints"]:
            if visible:
                assert 0 <= x < 1
                assert 0 <= y < 1
                row, column = int(y * SIZE), int(x * SIZE)
                assert body[row : row + 3, column : column + 3].any()
        assert example["joints"][:, 2].sum() >= 4


@pytest.mark.parametrize("name", NAMES)
def test_holes_are_there_and_leave_something(name):
    for example in examples(name):
        assert set(np.unique(example["mask"])) == {0, 1}
        assert 0.005 < example["mask"].mean() < 0.9


def test_object_holes_cover_the_object():
    instances = np.zeros((64, 64), np.uint8)
    instances[20:30, 40:50] = 1
    rng = np.random.default_rng(0)
    holes = [masks.hole(rng, instances) for _ in range(20)]
    exact = [
        hole for hole in holes if 100 < hole.sum() < 220 and hole[20:30, 40:50].all()
    ]
    assert len(exact) >= 2


def test_figure_joints_lie_on_the_body():
    rng = np.random.default_rng(1)
    for _ in range(6):
        figure = mannequin.random_figure(rng)
        pixels, joints = mannequin.draw(figure, 120)
        assert joints.shape == (labels.JOINTS, 2)
        for x, y in joints:
            assert pixels[int(y), int(x), 3] > 127
        at = dict(zip(mannequin.JOINTS, joints, strict=True))
        assert at["right_shoulder"][0] < at["left_shoulder"][0]
        hands = at["right_wrist"][1], at["left_wrist"][1]
        raised = sum(hand < at["nose"][1] for hand in hands)
        assert raised == {"cheering": 2, "waving": 1}.get(figure.pose, 0)


def test_figure_wears_what_it_says():
    rng = np.random.default_rng(2)
    figure = mannequin.random_figure(rng)
    pixels, joints = mannequin.draw(figure, 200)
    at = dict(zip(mannequin.JOINTS, joints, strict=True))
    for place, worn in (("left_knee", figure.trousers), ("left_elbow", figure.shirt)):
        x, y = at[place]
        seen = pixels[int(y) - 2, int(x), :3].astype(float)
        names = list(captions.COLOURS)
        far = [np.abs(np.subtract(seen, captions.COLOURS[c])).sum() for c in names]
        assert worn in [names[i] for i in np.argsort(far)[:2]]


def test_background_matches_its_view():
    view = backgrounds.View(ground=4, sky=0, horizon=0.5)
    rng = np.random.default_rng(0)
    image, segmentation, depth = backgrounds.draw(rng, view, 64)
    assert image.shape == (64, 64, 3)
    assert (segmentation[:32] == labels.SKY).all()
    assert (segmentation[32:] == labels.ground_segment(4)).all()
    assert (np.diff(depth[32:, 0]) < 0).all()
    assert image[..., 2].mean() > image[..., 0].mean()


def test_articles():
    said = [
        captions.with_article(n) for n in ("fox", "owl", "unicorn", "ewe", "grapes")
    ]
    assert said == ["a fox", "an owl", "a unicorn", "a ewe", "grapes"]
    caption = captions.single_caption("fox", "orange", "animal")
    assert caption == "a fox, animal, on an orange background"


def test_single_example_is_what_single_draws():
    example = examples("emoji_singles")[0]
    visible = example["instances"] == 1
    bare = example["image"][~visible]
    name = example["caption"].split()[-2]
    median = np.median(bare, axis=0)
    far = [np.abs(median - rgb).sum() for rgb in captions.COLOURS.values()]
    assert singles.COLOUR_NAMES[int(np.argmin(far))] == name
    assert labels.SEGMENTS[example["segmentation"][~visible].max()] == "backdrop"
