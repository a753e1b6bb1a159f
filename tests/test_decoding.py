"""Picture files of all kinds as arrays."""

import io

import numpy as np
from PIL import Image
import pytest

from ldm_jax.data import decoding

COLOURS = np.random.default_rng(0).integers(0, 256, (12, 20, 3), np.uint8)


def file_of(image, form="PNG", **options):
    out = io.BytesIO()
    image.save(out, form, **options)
    return out.getvalue()


def png(mode="RGB", **options):
    return file_of(Image.fromarray(COLOURS).convert(mode), **options)


def turned(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return png(exif=exif)


@pytest.mark.parametrize("form", ["PNG", "BMP", "TIFF", "WEBP"])
def test_colours_are_as_they_were(form):
    options = {"lossless": True} if form == "WEBP" else {}
    data = file_of(Image.fromarray(COLOURS), form, **options)
    np.testing.assert_array_equal(decoding.picture(data), COLOURS)
    assert decoding.is_plain(data)


@pytest.mark.parametrize(
    ("orientation", "wanted"),
    [
        (1, COLOURS),
        (2, COLOURS[:, ::-1]),
        (3, COLOURS[::-1, ::-1]),
        (6, np.rot90(COLOURS, -1)),
        (8, np.rot90(COLOURS)),
    ],
)
def test_a_camera_that_was_turned_is_followed(orientation, wanted):
    data = turned(orientation)
    np.testing.assert_array_equal(decoding.picture(data), wanted)
    assert decoding.is_plain(data) == (orientation == 1)


@pytest.mark.parametrize("mode", ["L", "1", "P", "LA", "RGBA", "CMYK", "I;16"])
def test_every_mode_becomes_three_channels_of_eight_bits(mode):
    if mode == "CMYK":
        image = Image.fromarray(COLOURS).convert("CMYK")
        data, wanted = file_of(image, "TIFF"), COLOURS
    elif mode == "I;16":
        gray = COLOURS[..., 0].astype(np.uint16) * 257
        data, wanted = file_of(Image.fromarray(gray)), COLOURS[..., :1].repeat(3, -1)
    else:
        data = png(mode)
        wanted = np.asarray(Image.fromarray(COLOURS).convert(mode).convert("RGB"))
    found = decoding.picture(data)
    assert found.dtype == np.uint8 and found.shape == COLOURS.shape
    np.testing.assert_array_equal(found, wanted)
    assert not decoding.is_plain(data)


def test_sixteen_bits_are_rounded_and_white_stays_white():
    values = np.array([[0, 128, 129, 257, 65_406, 65_407, 65_535]], np.uint16)
    found = decoding.picture(file_of(Image.fromarray(values)))[0, :, 0]
    assert found.tolist() == [0, 0, 1, 1, 254, 255, 255]


def test_what_is_transparent_lies_on_white():
    alpha = np.zeros((2, 2, 4), np.uint8)
    alpha[0, 0] = 10, 20, 30, 255
    found = decoding.picture(file_of(Image.fromarray(alpha)))
    assert found[0, 0].tolist() == [10, 20, 30] and (found[1] == 255).all()


def test_of_what_moves_it_is_the_first_frame():
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    data = file_of(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert (decoding.picture(data) == (255, 0, 0)).all()


def broken():
    good = file_of(Image.fromarray(COLOURS.repeat(8, 0)), "JPEG")
    return {
        "empty": (b"", "it is none of JPEG"),
        "text": (b"<html>not found</html>", "it is none of JPEG"),
        "cut off": (good[: len(good) // 2], "truncated"),
        "damaged": (png()[:60] + b"\0" * 20 + png()[80:], "Error"),
        "floats": (
            file_of(Image.fromarray(COLOURS[..., 0].astype(np.float32)), "TIFF"),
            "floating",
        ),
        "small": (file_of(Image.new("RGB", (4, 40))), "4 x 40 pixels are too few"),
        "other": (file_of(Image.fromarray(COLOURS), "PPM"), "it is none of JPEG"),
    }


@pytest.mark.parametrize("name", broken())
def test_what_is_broken_says_why(name):
    data, words = broken()[name]
    with pytest.raises(decoding.Unreadable, match=words):
        decoding.picture(data, least=8)


def test_a_bomb_is_not_unpacked(monkeypatch):
    monkeypatch.setattr(decoding, "LARGEST", 100)
    with pytest.raises(decoding.Unreadable, match="more than 100 pixels"):
        decoding.picture(png())
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)  # Pillow's own error
    with pytest.raises(decoding.Unreadable, match="more than 100 pixels"):
        decoding.picture(png())


@pytest.mark.parametrize(
    ("values", "wanted"),
    [([0, 1, 1], [0, 1, 1]), ([0, 127, 128], [0, 0, 1]), ([0, 1, 255], [0, 0, 1])],
)
def test_a_mask_is_what_is_lighter_than_half(values, wanted):
    gray = np.array([values], np.uint8)
    for array in (gray, gray[..., None].repeat(3, -1)):
        assert decoding.mask(file_of(Image.fromarray(array))).tolist() == [wanted]


def test_a_map_that_jpeg_has_changed_is_refused():
    data = file_of(Image.fromarray(COLOURS[..., 0]), "JPEG")
    with pytest.raises(decoding.Unreadable, match="JPEG, which changes numbers"):
        decoding.numbers(data)


@pytest.mark.parametrize("kind", ["gray", "palette", "wide"])
def test_maps_keep_their_numbers(kind):
    numbers = np.arange(240).reshape(12, 20).astype(np.uint8)
    image = Image.fromarray(numbers)
    if kind == "palette":
        image = Image.fromarray(numbers, "P")
        image.putpalette(np.random.default_rng(1).integers(0, 256, 768, np.uint8))
    if kind == "wide":
        numbers = numbers.astype(np.uint16) * 200
        image = Image.fromarray(numbers)
    found = decoding.numbers(file_of(image))
    assert found.dtype == np.int32
    np.testing.assert_array_equal(found, numbers)


def test_a_map_of_colours_is_refused():
    with pytest.raises(decoding.Unreadable, match="it is RGB: a map has one number"):
        decoding.numbers(png())
