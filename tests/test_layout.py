"""Layouts as tokens: by hand on a grid of 4x4, back again, and read from files."""

import json

import numpy as np
import pytest

from ldm_jax.data import layout

# A grid of 4x4: places 0 to 15 row by row, a step a third; 19 is "unused".
SMALL = dict(vocab=20, objects=2)
NAMES = ["dog", "cat", "potted plant"]


def of(classes, boxes, **kwargs):
    """Tokens as a list, of three classes on the grid of 4x4."""
    return layout.tokens(classes, boxes, **(SMALL | dict(count=3) | kwargs)).tolist()


def thirds(*numbers):
    return [number / 3 for number in numbers]


def test_by_hand():
    """Two places right and one down is 6, the last place is 15."""
    row = layout.tokens([2], [thirds(2, 1, 3, 3)], count=3, **SMALL)
    assert row.dtype == np.int32
    assert row.tolist() == [2, 6, 15, 19, 19, 19, 0, 15]


def test_a_row_is_as_long_as_the_originals():
    row = layout.tokens([339], [[0, 0, 1, 1]], count=340)
    assert row.shape == (92,)
    assert row[:3].tolist() == [339, 0, 90 * 90 - 1]
    assert (row[3:-2] == 8191).all()
    assert row[-2:].tolist() == [0, 8099]


def test_nothing_at_all_is_a_layout():
    assert of([], []) == [19] * 6 + [0, 15]


def test_places_are_the_nearest_and_ties_go_to_even_ones():
    """On a grid of 3x3: a quarter is half a step, three are one and a half."""
    grid = dict(vocab=12, objects=1)
    assert of([0], [[0.25, 0.25, 0.75, 0.75]], **grid)[:3] == [0, 0, 8]
    assert of([0], [[0.24, 0.26, 0.74, 0.76]], **grid)[:3] == [0, 3, 7]
    single = np.float32([[0.25, 0.25, 0.75, 0.75]])
    assert of([0], single, **grid)[:3] == [0, 0, 8]
    assert layout.tokens([0], [[0.5] * 2 + [1] * 2], count=3)[1] == 44 * 90 + 44


@pytest.mark.parametrize(
    ("box", "places"),
    [
        (thirds(-1, 1, 1, 2), [4, 9]),
        (thirds(1, -1, 2, 1), [1, 6]),
        (thirds(2, 1, 4, 2), [6, 11]),
        (thirds(1, 2, 2, 4), [9, 14]),
        (thirds(-2, -2, 7, 7), [0, 15]),
    ],
)
def test_boxes_are_cut_to_the_picture(box, places):
    assert of([1], [box])[:3] == [1, *places]


def test_a_flip_mirrors_boxes_and_crop():
    boxes, crop = [thirds(0, 0, 1, 2), thirds(1, 1, 3, 3)], thirds(0, 0, 2, 3)
    assert of([0, 1], boxes, crop=crop) == [0, 0, 9, 1, 5, 15, 0, 14]
    assert of([0, 1], boxes, crop=crop, flip=True) == [0, 2, 11, 1, 4, 14, 1, 15]
    mirrored = [thirds(2, 0, 3, 2), thirds(0, 1, 2, 3)]
    again = of([0, 1], mirrored, crop=thirds(1, 0, 3, 3), flip=True)
    assert again == of([0, 1], boxes, crop=crop)


def test_what_only_touches_the_crop_is_dropped():
    crop = thirds(1, 1, 2, 2)
    touching = [thirds(0, 0, 1, 3), thirds(2, 1, 3, 2), thirds(1, 0, 2, 1)]
    touching += [thirds(1, 2, 2, 3), thirds(0, 0, 1, 1)]
    for box in touching:
        assert of([0], [box], crop=crop) == [19] * 6 + [5, 10]
    assert of([0], [[0, 0, 0.34, 0.34]], crop=crop)[:3] == [0, 0, 5]
    assert of([0], [thirds(0, 0, 3, 3)], crop=crop) == [0, 0, 15, 19, 19, 19, 5, 10]


def test_boxes_without_an_area_are_dropped():
    for box in ([0.2, 0.2, 0.2, 0.9], [0.9, 0.1, 0.2, 0.9], [1.1, 0, 1.3, 1]):
        assert of([0], [box]) == [19] * 6 + [0, 15]


def test_the_first_stay_and_then_the_crop_takes():
    """Of three the third never gets the place of the first, which the crop drops."""
    boxes = [thirds(0, 0, 1, 1), thirds(2, 2, 3, 3), thirds(2, 2, 3, 3)]
    assert of([0, 1, 2], boxes, crop=thirds(2, 2, 3, 3))[:6] == [1, 10, 15, 19, 19, 19]


def test_rng_shuffles_those_that_stay():
    boxes = np.tile([0.0, 0, 1, 1], (4, 1))
    orders = set()
    for seed in range(40):
        args = dict(objects=3, count=4, rng=np.random.default_rng(seed))
        orders.add(tuple(of([0, 1, 2, 3], boxes, **args)[:9:3]))
        args["rng"] = np.random.default_rng(seed)
        assert tuple(of([0, 1, 2, 3], boxes, **args)[:9:3]) in orders
    assert len(orders) == 6
    assert {number for order in orders for number in order} == {0, 1, 2}


def test_each_object_keeps_its_box_and_flags_when_shuffled():
    gen = np.random.default_rng(0)
    classes, flags = gen.permutation(20), gen.integers(0, 16, 20)
    start = gen.uniform(0, 0.5, (20, 2))
    boxes = np.concatenate([start, start + 0.4], 1)
    plain = layout.tokens(classes, boxes, flags=flags, count=20)
    mixed = layout.tokens(classes, boxes, flags=flags, count=20, rng=gen)
    triples = plain[:-2].reshape(-1, 3), mixed[:-2].reshape(-1, 3)
    assert (triples[0] != triples[1]).any()
    np.testing.assert_array_equal(*(np.unique(t, axis=0) for t in triples))


def test_unused_rows_are_left_out_and_cost_no_place():
    boxes = [[0, 0, 0, 0], thirds(0, 0, 1, 1), [np.nan] * 4, thirds(1, 1, 2, 2)]
    row = of([-1, 0, -1, 1], boxes, flags=[99, 0, 99, 0])
    assert row[:6] == [0, 0, 5, 1, 5, 10]


def test_flags_are_added_in_steps_of_the_classes():
    whole = [layout.WHOLE]
    for flags in range(16):
        row = layout.tokens([7], whole, flags=[flags], count=340)
        assert row[0] == 7 + 340 * flags
    assert layout.tokens([7], whole, flags=[layout.GROUP], count=171)[0] == 178
    numbers = layout.GROUP, layout.OCCLUDED, layout.DEPICTION, layout.INSIDE
    assert numbers == (1, 2, 4, 8) == tuple(layout.FLAGS.values())


def random_layout(seed):
    gen = np.random.default_rng(seed)
    count, n = gen.integers(1, 400), gen.integers(0, 31)
    start = gen.uniform(0.1, 0.6, (n, 2))
    return dict(
        classes=gen.integers(0, count, n),
        boxes=np.concatenate([start, start + gen.uniform(0.05, 0.4, (n, 2))], 1),
        flags=gen.integers(0, 16, n),
        count=count,
    )


@pytest.mark.parametrize("seed", range(10))
def test_back_again(seed):
    given = random_layout(seed)
    crop, count = (0.0, 0.1, 0.9, 1.0), given["count"]
    row = layout.tokens(**given, crop=crop)
    classes, boxes, flags, shown = layout.objects_of(row, 8192, count)
    np.testing.assert_array_equal(classes, given["classes"])
    np.testing.assert_array_equal(flags, given["flags"])
    np.testing.assert_allclose(boxes, given["boxes"], atol=0.5 / 89 + 1e-6)
    np.testing.assert_allclose(shown, crop, atol=0.5 / 89 + 1e-6)
    assert [part.dtype for part in (classes, boxes, flags, shown)] == [
        *(np.int32, np.float32, np.int32, np.float32)
    ]
    again = layout.tokens(classes, boxes, flags=flags, crop=shown, count=count)
    np.testing.assert_array_equal(again, row)


def test_what_is_no_row_is_refused():
    row = layout.tokens([0], [layout.WHOLE], count=3, **SMALL)
    for bad in (row[:-1], row[None], row[:0]):
        with pytest.raises(ValueError, match="one row of 3 n"):
            layout.objects_of(bad, 20, 3)
    for place, value in ((1, 16), (2, 19), (7, 17), (6, -1), (0, -2)):
        bad = row.copy()
        bad[place] = value
        with pytest.raises(ValueError, match="no layout of 3 classes in a vocab"):
            layout.objects_of(bad, 20, 3)
    with pytest.raises(ValueError, match="no layout of 1 classes"):
        layout.objects_of([17, 0, 5, 0, 15], 20, 1)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (dict(classes=[3]), "must be 0 to 2, or -1"),
        (dict(classes=[-2]), "must be 0 to 2, or -1"),
        (dict(classes=[0, 1]), r"classes \(2,\), boxes \(1, 4\)"),
        (dict(flags=[16]), "must be sums of .*'occluded': 2"),
        (dict(flags=[-1]), "must be sums of"),
        (dict(flags=[1, 1]), r"flags \(2,\) must be"),
        (dict(boxes=[[0, 0, 1, np.nan]]), "must be finite"),
        (dict(boxes=[[0, 0, np.inf, 1]]), "must be finite"),
        (dict(crop=[0, 0, 1.1, 1]), "crop .* from 0 to 1"),
        (dict(crop=[0, np.nan, 1, 1]), "crop .* from 0 to 1"),
        (dict(crop=[0.5, 0, 0.5, 1]), "crop .* is empty"),
        (dict(crop=[0.5, 0, 1]), "crop .* four numbers"),
        (dict(count=20), '20 classes with .* up to 0 take 20 tokens and "unused" one'),
        (dict(count=5, flags=[3]), "20 tokens and .* vocab is 20, raise it to 21"),
        (dict(vocab=16), "vocab 16 must be 5 or more and no square.* take 17"),
        (dict(vocab=3, count=1), "vocab 3 must be 5 or more .* take 5"),
    ],
)
def test_what_cannot_be_is_told(given, words):
    with pytest.raises(ValueError, match=words):
        of(**(dict(classes=[0], boxes=[[0, 0, 1, 1]]) | given))


def test_the_originals_vocabulary_takes_both_data_sets():
    layout.check(layout.VOCAB, 171, layout.GROUP)
    layout.check(layout.VOCAB, 340, 15)
    layout.check(20, 19)
    with pytest.raises(ValueError, match="raise it to 8193"):
        layout.check(layout.VOCAB, 512, 15)


@pytest.fixture
def file(tmp_path):
    """Writes what it is given to a file; names it."""
    path = tmp_path / "scene.json"

    def write(about):
        path.write_text(about if isinstance(about, str) else json.dumps(about))
        return path

    return write


def test_a_file_is_read(file):
    objects = [
        {"class": "potted plant", "box": [0, 0.25, 0.5, 1], "group": True},
        {"class": 1, "box": [0.5, 0, 1, 1], "inside": True, "occluded": True},
        {"box": [0.25, 0.25, 0.5, 0.5], "class": "dog", "group": False},
    ]
    path = file({"objects": objects, "crop": [0, 0, 1, 0.75]})
    classes, boxes, flags, crop = layout.load(path, NAMES)
    assert classes.tolist() == [2, 1, 0]
    assert boxes.tolist() == [x["box"] for x in objects]
    assert flags.tolist() == [layout.GROUP, layout.OCCLUDED | layout.INSIDE, 0]
    assert crop.tolist() == [0, 0, 1, 0.75]
    assert [part.dtype for part in (classes, boxes, flags, crop)] == [
        *(np.int32, np.float32, np.int32, np.float32)
    ]
    row = layout.tokens(classes, boxes, flags=flags, crop=crop, count=3)
    assert row[:9:3].tolist() == [2 + 3 * 1, 1 + 3 * 10, 0]


def test_a_file_may_say_little(file):
    classes, boxes, flags, crop = layout.load(str(file({"objects": []})), NAMES)
    assert (classes.shape, boxes.shape, flags.shape) == ((0,), (0, 4), (0,))
    assert tuple(crop) == layout.WHOLE
    assert (layout.tokens(classes, boxes, flags=flags, count=3)[:-2] == 8191).all()


WHOLE_DOG = {"class": "dog", "box": [0, 0, 1, 1]}


def test_a_file_may_have_as_many_objects_as_fit(file):
    path = file({"objects": [WHOLE_DOG] * 30})
    assert len(layout.load(path, NAMES)[0]) == 30
    with pytest.raises(ValueError, match="30 objects are too many: keep 29 or fewer"):
        layout.load(path, NAMES, objects=29)


@pytest.mark.parametrize(
    ("about", "words"),
    [
        ("{", "must be JSON"),
        ("", "must be JSON"),
        ("[" * 100000, "must be JSON"),
        ('{"objects": [], "objects": []}', "keys .* is there twice"),
        ([], r'must be \{\.\.\.\} with "objects", not \[\]'),
        ({}, '"objects" is missing: add it'),
        ({"objects": {}}, r'"objects" must be a list \[...\], not {}'),
        ({"object": []}, "'object' is not one of objects, crop; did you mean 'obj"),
        ({"objects": [], "crop": [0, 0, 2, 1]}, r"crop \[0, 0, 2, 1\] must be four"),
        ({"objects": [], "crop": None}, "crop None must be four"),
        ({"objects": [], "crop": [1, 0, 0, 1]}, "crop .* is empty"),
        ({"objects": [WHOLE_DOG] * 31}, "31 objects are too many: keep 30 or fewer"),
    ],
)
def test_a_bad_file_is_told(file, about, words):
    with pytest.raises(ValueError, match=f"scene.json: .*{words}"):
        layout.load(file(about), NAMES)


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        (7, r'must be \{\.\.\.\} with "class", "box", not 7'),
        ({"box": [0, 0, 1, 1]}, '"class" is missing: add it'),
        ({"class": "dog"}, '"box" is missing: add it'),
        ({**WHOLE_DOG, "groop": True}, "'groop' is not one of .*mean 'group'"),
        ({**WHOLE_DOG, "group": 1}, '"group" must be true or false, not 1'),
        ({**WHOLE_DOG, "class": "Dog"}, "'Dog' is not among the 3 .* mean 'dog'"),
        ({**WHOLE_DOG, "class": "plant"}, "did you mean 'potted plant'"),
        ({**WHOLE_DOG, "class": 3}, "class 3 does not exist: take a name, or 0 to 2"),
        ({**WHOLE_DOG, "class": -1}, "class -1 does not exist"),
        ({**WHOLE_DOG, "class": True}, '"class" must be a name or 0 to 2, not True'),
        ({**WHOLE_DOG, "class": 1.0}, '"class" must be a name or 0 to 2, not 1.0'),
        ({**WHOLE_DOG, "box": [0, 0, 1]}, r"box \[0, 0, 1\] must be four numbers"),
        ({**WHOLE_DOG, "box": "0 0 1 1"}, "box 0 0 1 1 must be four numbers"),
        ({**WHOLE_DOG, "box": [0, 0, 1, "1"]}, "must be four numbers"),
        ({**WHOLE_DOG, "box": [0, 0, 1, True]}, "must be four numbers"),
        ({**WHOLE_DOG, "box": [0, 0, 640, 480]}, "from 0 to 1, shares of the pict"),
        ({**WHOLE_DOG, "box": [-0.1, 0, 1, 1]}, "from 0 to 1"),
        ({**WHOLE_DOG, "box": [0, 0, 1, float("nan")]}, "nan.* from 0 to 1"),
        ({**WHOLE_DOG, "box": [0, 0, 1, float("inf")]}, "inf.* from 0 to 1"),
        ({**WHOLE_DOG, "box": [0.5, 0, 0.5, 1]}, "is empty: x1 must .*not width and"),
        ({**WHOLE_DOG, "box": [0, 0.6, 1, 0.3]}, "is empty: .* y1 more than y0"),
        ({**WHOLE_DOG, "box": [0, 0, 1, 0.5]}, "outside of the crop: move it or"),
    ],
)
def test_a_bad_object_is_told_by_its_number(file, entry, words):
    good = {**WHOLE_DOG, "box": [0, 0.5, 1, 1]}
    path = file({"objects": [good, entry, good], "crop": [0, 0.5, 1, 1]})
    with pytest.raises(ValueError, match=f"scene.json: object 2: .*{words}"):
        layout.load(path, NAMES)


def test_a_file_that_is_no_text_is_told(tmp_path):
    (tmp_path / "no.json").write_bytes(b"\x89PNG\xff\xfe")
    with pytest.raises(ValueError, match="no.json: it must be JSON"):
        layout.load(tmp_path / "no.json", NAMES)
    with pytest.raises(FileNotFoundError, match="none.json"):
        layout.load(tmp_path / "none.json", NAMES)
