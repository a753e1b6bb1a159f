"""Value ranges, sheets and PNG files."""

import jax.numpy as jnp
import numpy as np
from PIL import Image
import pytest

from ldm_jax import pictures


def test_every_grey_level_survives_the_round_trip():
    levels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(3, axis=3)
    x = pictures.to_float(jnp.asarray(levels))
    assert float(x.min()) == -1 and float(x.max()) == 1
    np.testing.assert_array_equal(pictures.to_uint8(x), levels)


def test_values_outside_the_range_are_clipped():
    x = jnp.array([-7.0, 7.0]).reshape(1, 1, 2, 1)
    np.testing.assert_array_equal(pictures.to_uint8(x).ravel(), [0, 255])


def test_a_sheet_has_its_pictures_in_reading_order():
    images = np.arange(5, dtype=np.uint8)[:, None, None, None] * np.ones(
        (4, 3, 3), "u1"
    )
    sheet = pictures.grid(images, columns=3, pad=1)
    assert sheet.shape == (2 * 5 + 1, 3 * 4 + 1, 3)
    assert sheet[1, 1, 0] == 0 and sheet[1, 9, 0] == 2 and sheet[6, 5, 0] == 4
    assert sheet[0].min() == 255 and sheet[6, 9].min() == 255


def test_a_png_carries_its_text(tmp_path):
    image = np.full((2, 3, 3), 7, np.uint8)
    pictures.save_png(tmp_path / "a.png", image, {"ldm_jax": "said"})
    with Image.open(tmp_path / "a.png") as read:
        np.testing.assert_array_equal(np.asarray(read), image)
        assert read.text == {"ldm_jax": "said"}


def test_a_failed_write_leaves_nothing(tmp_path):
    with pytest.raises(TypeError):
        pictures.save_png(tmp_path / "a.png", np.zeros((2, 3, 5)))
    assert not list(tmp_path.iterdir())
