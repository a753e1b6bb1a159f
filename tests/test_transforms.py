"""Crops, resizes and flips of pictures and of what lies on them."""

import pickle

import cv2
import numpy as np
from PIL import Image
import pytest

from ldm_jax.data import transforms

RNG = np.random.default_rng(3)
PICTURE = RNG.integers(0, 256, (40, 60, 3), np.uint8)


class Chosen:
    """A generator whose numbers are what a test wants, one after the other."""

    def __init__(self, *values):
        self.values = list(values)

    def integers(self, *_):
        return self.values.pop(0)

    def uniform(self, *_):
        return self.values.pop(0)


def seen(geometry, *chosen, image=PICTURE, **maps):
    return geometry({"image": image, "caption": "a", **maps}, Chosen(*chosen))


def test_of_a_picture_that_fits_nothing_changes():
    square = PICTURE[:, :40]
    found = seen(transforms.Geometry(40), image=square)
    np.testing.assert_array_equal(found["image"], square)
    assert found["crop"].tolist() == [0, 0, 1, 1] and not found["flip"]
    assert found["caption"] == "a"


def test_the_square_in_the_middle():
    found = seen(transforms.Geometry(40))
    np.testing.assert_array_equal(found["image"], PICTURE[:, 10:50])
    np.testing.assert_allclose(found["crop"], [10 / 60, 0, 50 / 60, 1])


@pytest.mark.parametrize(("left", "wanted"), [(0, 0), (20, 20)])
def test_a_square_anywhere(left, wanted):
    found = seen(transforms.Geometry(40, "random"), 0, left)
    np.testing.assert_array_equal(found["image"], PICTURE[:, wanted : wanted + 40])
    np.testing.assert_allclose(found["crop"][[0, 2]], [left / 60, (left + 40) / 60])


def test_a_square_of_any_size_is_no_smaller_than_wanted():
    found = seen(transforms.Geometry(20, "any_size"), 20, 7, 11)  # side, top, left
    np.testing.assert_array_equal(found["image"], PICTURE[7:27, 11:31])
    found = seen(transforms.Geometry(64, "any_size"), 0, 3)  # all that there is
    assert found["image"].shape == (64, 64, 3)
    np.testing.assert_allclose(found["crop"], [3 / 60, 0, 43 / 60, 1])


def test_a_square_of_half_the_side_or_more():
    chosen = 0.5, 20, 40  # share, top, left
    found = seen(transforms.Geometry(20, "half_or_larger"), *chosen)
    np.testing.assert_array_equal(found["image"], PICTURE[20:, 40:])
    sides = []
    for seed in range(200):
        found = transforms.Geometry(8, "half_or_larger")(
            {"image": PICTURE}, np.random.default_rng(seed)
        )
        sides.append(round((found["crop"][3] - found["crop"][1]) * 40))
    assert set(sides) == set(range(20, 41))
    assert np.mean(sides) == pytest.approx(30, abs=1)


def test_a_flip_takes_the_maps_along_and_the_crop_not():
    segmentation = RNG.integers(0, 9, (40, 60)).astype(np.int32)
    mask = (segmentation > 4).astype(np.uint8)
    maps = dict(segmentation=segmentation, mask=mask)
    found = seen(transforms.Geometry(40, "random", flip=True), 0, 5, 1, **maps)
    assert found["flip"]
    np.testing.assert_array_equal(found["image"], PICTURE[:, 5:45][:, ::-1])
    np.testing.assert_array_equal(found["segmentation"], segmentation[:, 44:4:-1])
    np.testing.assert_array_equal(found["mask"], mask[:, 44:4:-1])
    np.testing.assert_allclose(found["crop"], [5 / 60, 0, 45 / 60, 1])
    assert found["segmentation"].dtype == np.int32


def test_half_are_flipped_and_none_in_validation():
    geometry = transforms.Geometry(8, "random", flip=True)
    drawn = [
        made({"image": PICTURE}, np.random.default_rng(seed))
        for made in (geometry, geometry.steady())
        for seed in range(200)
    ]
    assert 80 < sum(x["flip"] for x in drawn[:200]) < 120
    assert not any(x["flip"] for x in drawn[200:])
    assert len({x["crop"].tobytes() for x in drawn[:200]}) > 10
    assert len({x["image"].tobytes() for x in drawn[200:]}) == 1


@pytest.mark.parametrize("name", transforms.RESIZES)
def test_resizes_are_those_of_their_libraries(name):
    square = np.ascontiguousarray(PICTURE[:, :40])
    wanted = {
        "bicubic": Image.fromarray(square).resize((10, 10), Image.BICUBIC),
        "lanczos": Image.fromarray(square).resize((10, 10), Image.LANCZOS),
        "bilinear": cv2.resize(square, (10, 10), interpolation=cv2.INTER_LINEAR),
        "cv_bicubic": cv2.resize(square, (10, 10), interpolation=cv2.INTER_CUBIC),
        "area": square.reshape(10, 4, 10, 4, 3).mean((1, 3)),
    }[name]
    found = seen(transforms.Geometry(10, resize=name), image=square)["image"]
    np.testing.assert_allclose(found, np.asarray(wanted), atol=0.5001)
    assert found.dtype == np.uint8


@pytest.mark.parametrize(
    ("size", "wanted"), [(4, [0, 1, 2, 3]), (2, [1, 3]), (8, [0, 0, 1, 1, 2, 2, 3, 3])]
)
def test_maps_keep_their_numbers(size, wanted):
    numbers = np.arange(4, dtype=np.int32)[:, None] * 10 + np.arange(4, dtype=np.int32)
    picture = np.zeros((4, 4, 3), np.uint8)
    found = seen(transforms.Geometry(size), image=picture, segmentation=numbers)
    np.testing.assert_array_equal(found["segmentation"][0] % 10, wanted)
    np.testing.assert_array_equal(found["segmentation"][:, 0] // 10, wanted)


def test_workers_can_be_sent_it():
    geometry = transforms.Geometry(8, "any_size", "area", True)
    assert pickle.loads(pickle.dumps(geometry)) == geometry
