"""Hints: where their lines and colours lie, and how well a picture obeys them."""

import json
import time

import cv2
import numpy as np
import pytest

from ldm_jax.data import (
    hints,
    labels,
    mannequin,
    obeyed,
    palettes,
    scenes,
    skeletons,
    transforms,
)

SIDE = 48


def square(low=0, high=255):
    """A light square [12, 36) on a dark ground."""
    image = np.full((SIDE, SIDE, 3), low, np.uint8)
    image[12:36, 12:36] = high
    return image


def gen(seed=0):
    return np.random.default_rng(seed)


@pytest.fixture(scope="module")
def examples():
    return {
        size: [scenes.Scenes("heldout", 0, size)[i] for i in range(6)]
        for size in (64, 128)
    }


def test_cannys_lines_go_around_a_square():
    lines = hints.canny(square())
    assert lines.shape == (SIDE, SIDE, 3)
    assert set(np.unique(lines)) == {0, 255}
    assert (lines[..., :1] == lines).all()
    rows, columns = np.nonzero(lines[..., 0])
    ends = {11, 12, 35, 36}
    assert all(y in ends or x in ends for y, x in zip(rows, columns, strict=True))
    for line in (lines[24, :, 0], lines[:, 24, 0]):
        assert np.flatnonzero(line).tolist() in ([11, 35], [12, 35], [11, 36], [12, 36])


def test_cannys_thresholds_and_its_channels():
    """A step of 20 has gradients of 80: less than 100, more than 50."""
    weak = square(0, 20)
    assert not hints.canny(weak).any()
    assert hints.canny(weak, 30, 50).any()
    blue = square() * np.uint8((0, 0, 1))
    np.testing.assert_array_equal(hints.canny(blue), hints.canny(square()))
    np.testing.assert_array_equal(hints.canny(blue), hints.canny(blue[..., ::-1]))
    with pytest.raises(ValueError, match="low 300 and high 200"):
        hints.canny(weak, 300)


def test_hough_finds_straight_lines_only():
    lines = hints.hough(square())
    near = cv2.dilate(hints.canny(square()), np.ones((3, 3), np.uint8))
    assert set(np.unique(lines)) == {0, 255}
    assert (near[lines > 0] == 255).all()
    for part in (lines[10:14], lines[34:38], lines[:, 10:14], lines[:, 34:38]):
        assert part[..., 0].sum() > 255 * 18
    assert not hints.hough(square(), least=0.6).any()
    assert not hints.hough(np.full((SIDE, SIDE, 3), 90, np.uint8)).any()


def test_a_scribble_is_what_is_dark_in_any_channel():
    image = np.array([[(255, 255, 126), (127, 127, 127), (0, 255, 255)]], np.uint8)
    np.testing.assert_array_equal(hints.scribble(image)[0, :, 0], [255, 0, 255])


def test_soft_edges_are_cut_to_bytes():
    edges = np.array([[0.0, 0.5, 0.999, 1.0, 1.2, -0.1]])
    np.testing.assert_array_equal(
        hints.soft(edges)[0, :, 1], [0, 127, 254, 255, 255, 0]
    )


def test_ridges_are_thin():
    edges = np.zeros((SIDE, SIDE), np.uint8)
    edges[20:27] = 255
    found = hints.thinned(edges, 127, 3.0)
    # All of an even ridge is as high as its neighbours along it, in one direction.
    assert found[23].all()
    across = np.zeros((SIDE, SIDE), np.float32)
    across[20:27] = 255 - np.arange(SIDE)  # ever lower along the ridge
    assert np.flatnonzero(hints.thinned(across, 100, 2.0)[:, 10]).tolist() == [23]


def test_a_fake_scribble_is_thick_and_leaves_out_what_is_faint():
    edges = np.zeros((SIDE, SIDE), np.uint8)
    edges[8:11] = 255  # blurred to less than 127
    edges[24:34] = 255 - np.arange(SIDE, dtype=np.uint8)
    lines = hints.fake_scribble(edges)
    assert set(np.unique(lines)) == {0, 255}
    assert lines[26:32, 10].all()
    assert not lines[:16].any()
    assert not hints.fake_scribble(edges // 3).any()


def test_the_palette_is_the_published_one():
    palette = palettes.ADE20K
    assert palette.shape == (150, 3)
    assert palette.dtype == np.uint8
    first = [[120, 120, 120], [180, 120, 120], [6, 230, 230], [80, 50, 50], [4, 200, 3]]
    np.testing.assert_array_equal(palette[:5], first)
    np.testing.assert_array_equal(palette[12], [150, 5, 61])  # person
    np.testing.assert_array_equal(palette[-2:], [[102, 255, 0], [92, 0, 255]])


def test_every_segment_has_a_colour_of_its_own():
    assert tuple(palettes.NEAREST) == labels.SEGMENTS
    assert len(np.unique(palettes.SEGMENTS, axis=0)) == len(labels.SEGMENTS)
    sky = palettes.SEGMENTS[labels.SKY]
    np.testing.assert_array_equal(sky, [6, 230, 230])


def test_colours_of_classes():
    found = palettes.colours(np.array([[0, 149], [255, 65535]]))
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found[0], [[120, 120, 120], [92, 0, 255]])
    assert not found[1].any()
    for wrong in (150, 254, -1):
        with pytest.raises(ValueError, match=f"class {wrong} is none of 0 to 149"):
            palettes.colours(np.array([[0, wrong]]))


def test_near_is_white():
    distance = np.array([[2.0, 4.0, 6.0]])
    np.testing.assert_array_equal(hints.depth(distance)[0, :, 0], [255, 127, 0])
    np.testing.assert_array_equal(hints.depth(9 * distance), hints.depth(distance))
    assert not hints.depth(np.full((4, 4), 3.0)).any()
    assert hints.normal(np.full((4, 4), 3.0)).reshape(-1, 3).tolist()[0][0] == 255
    for bad in (np.nan, np.inf):
        with pytest.raises(ValueError, match="not finite"):
            hints.depth(np.array([[0, bad]]))


def test_the_normal_of_a_plane():
    """(x, y, a) of slopes 8 a pixel: Sobel's weights add up to 8."""
    y, x = np.mgrid[:SIDE, :SIDE] / (SIDE - 1.0)
    for distance, axis in ((1 - x, 2), (1 - y, 1)):
        reach = 10.0 * 384 / SIDE  # all of the nearness is 10
        found = hints.normal(distance, a=2.0, threshold=0.5, reach=reach)
        slope = 8 * 10 / (SIDE - 1)
        vector = np.zeros(3)
        vector[0], vector[axis] = 2, slope
        told = vector / np.linalg.norm(vector) * 127.5 + 127.5
        near = found[30, 30]
        np.testing.assert_allclose(near, np.floor(told), atol=1)
        np.testing.assert_array_equal(found[1, 1], [255, 127, 127])  # far: flat


def test_normals_do_not_depend_on_the_size():
    y = lambda size: 1 - np.mgrid[:size, :size][0] / (size - 1.0)
    small, large = (hints.normal(y(size), reach=30)[-3, 3] for size in (64, 256))
    np.testing.assert_allclose(small, large, atol=4)


def people_at(**joints):
    people = np.zeros((1, labels.JOINTS, 3))
    for name, (x, y) in joints.items():
        people[0, mannequin.JOINTS.index(name)] = x / 512, y / 512, 1
    return people


def test_a_pose_of_512_pixels_is_openposes():
    people = people_at(neck=(100, 100), right_shoulder=(50, 100), nose=(100, 40))
    drawing = skeletons.pose(people, 512, 512)
    # Limbs have the colours of their numbers, at 0.6 over black.
    np.testing.assert_array_equal(drawing[100, 75], [153, 0, 0])  # neck to shoulder
    np.testing.assert_array_equal(drawing[70, 100], [0, 0, 153])  # neck to nose
    assert skeletons.LIMBS[12] == (1, 0)
    # Joints keep theirs beside the ends of the limbs.
    np.testing.assert_array_equal(drawing[96, 50], [255, 170, 0])  # shoulder's top
    np.testing.assert_array_equal(drawing[40, 96], [255, 0, 0])  # nose's side
    assert not drawing[95, 50].any()
    assert np.flatnonzero(drawing[:, 75].any(-1)).tolist() == list(range(96, 105))


def test_the_first_17_limbs_are_drawn():
    """Of 19: not those from shoulders to ears."""
    ears = people_at(right_shoulder=(100, 300), right_ear=(100, 100))
    assert not skeletons.pose(ears, 512, 512)[200].any()
    assert len(skeletons.LIMBS) == 17
    assert len(set(skeletons.JOINT_COLOURS)) == labels.JOINTS


def test_a_pose_scales():
    people = people_at(neck=(256, 256), right_shoulder=(128, 256))
    thickness = {}
    for size in (64, 256, 512, 1024):
        drawing = skeletons.pose(people, size, size)
        thickness[size] = np.count_nonzero(drawing[:, size * 3 // 8].any(-1))
    assert thickness == {64: 3, 256: 5, 512: 9, 1024: 17}
    assert skeletons.pose(people, 40, 80).shape == (40, 80, 3)


def test_nobody_and_who_is_not_seen_leave_the_canvas_black():
    assert not skeletons.pose(np.zeros((0, 18, 3)), 64, 64).any()
    assert not skeletons.pose(np.zeros((18, 3)), 64, 64).any()
    outside = people_at(neck=(-900, 9000), nose=(9000, -900))
    assert skeletons.pose(outside, 64, 64).shape == (64, 64, 3)


def openpose(**changes):
    person = {"pose_keypoints_2d": [64, 32, 0.9] + [0, 0, 0] * 17}
    told = {"people": [person], "canvas_width": 128, "canvas_height": 64}
    return told | changes


def test_keypoints_of_openposes_json():
    people = skeletons.keypoints(openpose())
    assert people.shape == (1, 18, 3)
    np.testing.assert_array_equal(people[0, 0], [0.5, 0.5, 0.9])
    assert not people[0, 1:].any()
    text = json.dumps(openpose())
    np.testing.assert_array_equal(skeletons.keypoints(text), people)
    assert skeletons.keypoints(openpose(people=[])).shape == (0, 18, 3)


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ([], "no JSON of OpenPose"),
        ({"people": {}}, "no JSON of OpenPose"),
        (openpose(canvas_width=None), "canvas_width and canvas_height are None and 64"),
        (openpose(canvas_height=0), "numbers from 1 on"),
        (openpose(canvas_height=True), "numbers from 1 on"),
        (openpose(people=[{}]), "person 0 has no list pose_keypoints_2d"),
        (openpose(people=[7]), "person 0 has no list"),
        (
            openpose(people=[{"pose_keypoints_2d": [0] * 75}]),
            "75 numbers, .* of 18 joints .BODY_25",
        ),
        (openpose(people=[{"pose_keypoints_2d": [0] * 53}]), "53 numbers"),
        (
            openpose(people=[{"pose_keypoints_2d": [0] * 53 + ["1"]}]),
            r"2d\[53\] of person 0 is '1', no number",
        ),
        (
            openpose(people=[{"pose_keypoints_2d": [float("nan")] + [0] * 53}]),
            r"2d\[0\] of person 0 is nan",
        ),
        ("{", "Expecting property name"),
    ],
)
def test_what_is_no_pose_is_told(told, words):
    with pytest.raises(ValueError, match=words):
        skeletons.keypoints(told)


def test_every_hint_of_a_drawn_scene(examples):
    for size, found in examples.items():
        for hint in hints.HINTS.values():
            for i, example in enumerate(found):
                if hint.needs == ("hint",):
                    example = {"hint": example["image"]}
                told = {key: example[key] for key in hint.needs}  # and no more
                before = {key: value.copy() for key, value in told.items()}
                made = hint.make(told, gen(i))
                assert made.shape == (size, size, 3)
                assert made.dtype == np.uint8
                np.testing.assert_array_equal(hint.make(told, gen(i)), made)
                for key, value in before.items():
                    np.testing.assert_array_equal(told[key], value)


def test_hints_are_quick(examples):
    """A millisecond each; the least of some rounds, as the machine has other work."""
    for hint in hints.HINTS.values():
        if hint.needs == ("hint",):
            continue
        took = []
        for _ in range(5):
            began = time.perf_counter()
            for example in examples[64]:
                hint.make(example, gen())
            took.append((time.perf_counter() - began) / len(examples[64]))
        assert min(took) < 2e-3, hint.needs


def test_the_hint_of_a_scene_shows_its_person(examples):
    shown = 0
    for example in examples[128]:
        seen = example["joints"][:, 2] > 0
        drawing = hints.HINTS["pose"].make(example, gen())
        assert drawing.any() == seen.any()
        for x, y, _ in example["joints"][seen]:
            assert drawing[int(y * 128), int(x * 128)].any()
            shown += 1
    assert shown > 5


def test_a_drawn_scribble_follows_the_outlines(examples):
    for size, found in examples.items():
        for i, example in enumerate(found):
            lines = hints.HINTS["scribble"].make(example, gen(i))
            both = example["segmentation"] + 256.0 * example["instances"]
            outline = np.zeros((size, size), np.uint8)
            outline[:, :-1] |= np.uint8(255 * (both[:, 1:] != both[:, :-1]))
            outline[:-1] |= np.uint8(255 * (both[1:] != both[:-1]))
            assert set(np.unique(lines)) == {0, 255}
            told = outline.mean()
            assert 0.3 * told < lines.mean() < 4 * size / 64 * told
            assert obeyed.chamfer(lines, outline) < 0.05 * size
            assert obeyed.edge_f1(lines, outline, reach=size // 16) > 0.75


def test_scribbles_differ(examples):
    example = examples[64][0]
    made = [hints.HINTS["scribble"].make(example, gen(i)) for i in range(20)]
    assert len({hint.tobytes() for hint in made}) == 20
    shares = [hint.mean() / 255 for hint in made]
    assert max(shares) > 1.5 * min(shares)
    assert not hints.drawn(np.zeros((16, 16), np.uint8), gen()).any()


def test_the_originals_working_size():
    assert hints.working_size(480, 640, 512) == (512, 704)  # 682.7, 10.67 of 64
    assert hints.working_size(512, 512, 512) == (512, 512)
    assert hints.working_size(1000, 300, 256) == (832, 256)
    assert hints.working_size(64, 160, 64) == (64, 128)  # 2.5 of 64 go to even
    for wrong in ((0, 5, 512), (5, 5, 63)):
        with pytest.raises(ValueError, match="resolutions from 64"):
            hints.working_size(*wrong)


def test_resizing_as_the_originals_do():
    image = square(10, 240)
    for sides in ((128, 64), (20, 30)):
        made = hints.resized(image, *sides, hints.FLAT)
        assert made.shape == (*sides, 3)
        assert set(np.unique(made)) == {10, 240}
    assert len(np.unique(hints.resized(image, 100, 100, hints.SMOOTH))) > 2
    shrunk = hints.resized(image, 16, 16)
    np.testing.assert_array_equal(shrunk, image[1::3, 1::3])  # means of even blocks
    grown = hints.resized(image, 96, 96).astype(int)
    assert grown.max() > 240  # Lanczos overshoots


def test_thin_lines_outlive_shrinking():
    """Each pixel is the brightest of those it covers, whatever the ratio."""
    large = np.zeros((1000, 1000, 3), np.uint8)
    large[333], large[:, 501, 0] = 255, 200
    made = hints.HINTS["canny"].resize(large, 64)
    wanted = np.zeros((64, 64, 3), np.uint8)
    wanted[333 * 64 // 1000] = 255
    wanted[..., 0] = np.maximum(wanted[..., 0], np.where(np.arange(64) == 32, 200, 0))
    np.testing.assert_array_equal(made, wanted)
    assert hints.HINTS["hough"].resize(large, 64).any()
    grown = hints.HINTS["pose"].resize(made, 128)
    np.testing.assert_array_equal(grown, made.repeat(2, 0).repeat(2, 1))


def test_other_hints_are_resized_as_their_kind_is():
    image = square(10, 240)
    for size in (21, 101):
        for kind, made in hints.HINTS.items():
            assert made.resize(image, size).shape == (size, size, 3), kind
        for kind in ("segmentation", "segments"):
            found = hints.HINTS[kind].resize(image, size)
            assert set(np.unique(found)) == {10, 240}
        assert len(np.unique(hints.HINTS["depth"].resize(image, size))) > 2
        given = hints.HINTS["given"].resize(image, size)
        told = transforms.resized_hint(image, (size, size))
        np.testing.assert_array_equal(given, told)


def test_maps_are_of_ade20k_or_of_drawn_scenes(examples):
    example = examples[64][0]
    classes = example["segmentation"]
    for kind, palette in (("segmentation", "ADE20K"), ("segments", "SEGMENTS")):
        found = hints.HINTS[kind].make(example, gen())
        wanted = getattr(palettes, palette)[classes]
        np.testing.assert_array_equal(found, wanted)


def test_what_is_no_picture_is_told():
    for image in (np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3))):
        for make in (hints.canny, hints.hough, hints.scribble):
            with pytest.raises(ValueError, match="give RGB as uint8"):
                make(image)


def line(row):
    picture = np.zeros((32, 32), np.uint8)
    picture[row] = 255
    return picture


@pytest.mark.parametrize(
    ("seen", "reach", "f1"),
    [(line(8), 1, 1), (line(9), 1, 1), (line(10), 1, 0), (line(10), 2, 1)],
)
def test_edges_count_within_reach(seen, reach, f1):
    assert obeyed.edge_f1(seen, line(8), reach) == f1
    three = np.repeat(seen[..., None], 3, -1)
    assert obeyed.edge_f1(three, line(8), reach) == f1


def test_precision_and_recall():
    both = line(8) | line(20)
    assert obeyed.edge_f1(both, line(8)) == pytest.approx(2 / 3)
    assert obeyed.edge_f1(line(8), both) == pytest.approx(2 / 3)
    corner = np.zeros((32, 32), np.uint8)
    corner[9, 9] = 255
    assert obeyed.edge_f1(corner, np.roll(corner, (1, 1), (0, 1))) == 1


def test_how_far_lines_are_off():
    assert obeyed.chamfer(line(8), line(8)) == 0
    assert obeyed.chamfer(line(8), line(11)) == 3
    assert obeyed.chamfer(line(8), line(8) | line(20)) == pytest.approx((0 + 6) / 2)


def test_nothing_and_something():
    nothing = np.zeros((32, 32), np.uint8)
    assert obeyed.edge_f1(nothing, nothing) == 1
    assert obeyed.edge_f1(nothing, line(8)) == obeyed.edge_f1(line(8), nothing) == 0
    assert obeyed.chamfer(nothing, nothing) == 0
    diagonal = pytest.approx(32 * 2**0.5)
    assert obeyed.chamfer(nothing, line(8)) == diagonal
    assert obeyed.chamfer(line(8), nothing) == diagonal
    with pytest.raises(ValueError, match="differ"):
        obeyed.chamfer(nothing, np.zeros((4, 4), np.uint8))
