"""Hints that are given as files: what is read of them, and what is refused in words."""

import helpers
import numpy as np
from PIL import Image
import pytest

from ldm_jax import control, given


def picture(path, array, mode=None):
    image = Image.fromarray(np.asarray(array))
    (image.convert(mode) if mode else image).save(path)
    return str(path)


def lines(size=16, wide=None):
    """White lines on black."""
    shown = np.zeros((size, wide or size, 3), np.uint8)
    shown[size // 4], shown[:, size // 2] = 255, 255
    return shown


def read(names, paths, annotate=False):
    c = helpers.tiny_config().copy_and_resolve_references()
    c.control.hints = tuple(names)
    nothing = dict.fromkeys(("image", "mask", "layout", "segmentation"))
    return given.read(c, nothing | {"hint": tuple(paths), "annotate": annotate})


def test_hints_are_read_in_the_order_of_the_branches(tmp_path):
    shown = [lines(), np.full((16, 16, 3), 77, np.uint8)]
    files = [picture(tmp_path / f"{i}.png", x) for i, x in enumerate(shown)]
    found = read(("canny", "depth"), files)
    assert list(found) == ["hint_canny", "hint_depth"]
    for x, wanted in zip(found.values(), shown, strict=True):
        np.testing.assert_array_equal(x, wanted)
        assert x.dtype == np.uint8
    assert read(("canny",), ()) == {} == read((), ())


@pytest.mark.parametrize("mode", ["L", "P", "1", "RGBA", "LA"])
def test_hints_of_other_modes_are_what_they_show(tmp_path, mode):
    file = picture(tmp_path / "hint.png", lines(), mode)
    found = read(("canny",), [file])["hint_canny"]
    np.testing.assert_array_equal(found, lines())


def test_sixteen_bits_become_eight_and_what_is_transparent_black(tmp_path):
    deep = np.uint16(lines()[..., 0]) * 257
    found = read(("depth",), [picture(tmp_path / "deep.png", deep)])["hint_depth"]
    np.testing.assert_array_equal(found, lines())
    clear = np.dstack([np.full((16, 16, 3), 255, np.uint8), lines()[..., 0]])
    found = read(("canny",), [picture(tmp_path / "clear.png", clear)])["hint_canny"]
    np.testing.assert_array_equal(found, lines())


def test_hints_of_other_sizes_are_cut_to_their_middle_and_resized(tmp_path):
    """As their kind is: maps keep their colours."""
    wide = np.zeros((48, 90, 3), np.uint8)
    wide[:, 21:45], wide[:, 45:69], wide[:, :21] = (6, 230, 230), (150, 5, 61), 200
    file = picture(tmp_path / "map.png", wide)
    found = read(("segmentation",), [file])["hint_segmentation"]
    assert found.shape == (16, 16, 3)
    assert (found[:, :8] == (6, 230, 230)).all() and (
        found[:, 8:] == (150, 5, 61)
    ).all()
    smooth = read(("depth",), [file])["hint_depth"]
    assert smooth.shape == (16, 16, 3)
    tall = picture(tmp_path / "odd.png", lines()[:, 3:10].repeat(5, axis=0))
    assert read(("canny",), [tall])["hint_canny"].shape == (16, 16, 3)
    dot = picture(tmp_path / "dot.png", np.zeros((1, 1, 3), np.uint8))
    assert not read(("canny",), [dot])["hint_canny"].any()


def test_hints_are_found_in_pictures(tmp_path):
    shown = np.full((16, 24, 3), 255, np.uint8)
    shown[4:12, 8:16] = 0
    file = picture(tmp_path / "photo.png", shown)
    square = np.asarray(Image.fromarray(shown[:, 4:20]))
    for name, find in given.FOUND.items():
        found = read((name,), [file], annotate=True)[control.key(name)]
        np.testing.assert_array_equal(found, find(square))
        assert found.any()
    with pytest.raises(ValueError, match="photo.png is mostly white, and canny has"):
        read(("canny",), [file])


def broken(tmp_path):
    """{case: (hints, files, whether to annotate, words)}."""
    good = picture(tmp_path / "good.png", lines())
    whole = (tmp_path / "good.png").read_bytes()
    files = {"empty": b"", "cut": whole[: len(whole) // 2], "text": b"a fox"}
    for name, data in files.items():
        (tmp_path / f"{name}.png").write_bytes(data)
    at = lambda name: str(tmp_path / f"{name}.png")
    inverted = picture(tmp_path / "inverted.png", 255 - lines())
    floating = tmp_path / "floating.tiff"
    Image.fromarray(np.zeros((16, 16), np.float32)).save(floating)
    one, two = ("canny",), ("canny", "depth")
    return {
        "empty": (one, [at("empty")], False, "--hint .*empty.png: it is none of JPEG"),
        "cut": (one, [at("cut")], False, "--hint .*cut.png: "),
        "text": (one, [at("text")], False, "--hint .*text.png: it is none of"),
        "floating": (one, [str(floating)], False, "--hint .*floating.tiff: its numb"),
        "cut, found": (one, [at("cut")], True, "--hint .*cut.png: "),
        "inverted": (one, [inverted], False, "inverted.png is mostly white.*invert it"),
        "missing": (one, [at("none")], False, "none.png"),
        "folder": (one, [str(tmp_path)], False, str(tmp_path)),
        "too many": (
            one,
            [good, good],
            False,
            "2 pictures .*, and this model hears ca",
        ),
        "too few": (two, [good], False, "1 pictures .* this model hears canny, depth;"),
        "of none": ((), [good], False, "this model hears none: name --control"),
        "nothing to find in": (one, [], True, "--annotate makes hints of pictures"),
        "not to be found": (
            ("depth",),
            [good],
            True,
            "are found in pictures, and --hint .*good.png is of depth: make it by",
        ),
    }


CASES = [
    *("empty", "cut", "text", "floating", "cut, found", "inverted", "missing"),
    *("folder", "too many", "too few", "of none", "nothing to find in"),
    "not to be found",
]


@pytest.mark.parametrize("case", CASES)
def test_a_broken_hint_is_told_in_words(tmp_path, case):
    names, files, annotate, words = broken(tmp_path)[case]
    with pytest.raises((ValueError, OSError), match=words):
        read(names, files, annotate)
