"""Pictures of any size through a tiny first stage, in all three ways."""

import types

import helpers
import numpy as np
from PIL import Image
import pytest

from ldm_jax import config as config_lib
from ldm_jax import large, patches, system
from ldm_jax.models import autoencoder


@pytest.fixture(scope="module")
def stage():
    config = helpers.tiny_autoencoder_config()
    arch = system.arch_of_first_stage(config)
    net = autoencoder.FIRST_STAGES["kl"](arch)
    shapes = helpers.init_shapes(net, np.zeros((1, 16, 16, 3), np.float32))
    params = {"first_stage": helpers.random_params(shapes)}
    return large.stage(types.SimpleNamespace(config=config, params=params))


def test_any_size_is_grown_and_cut(stage):
    x = helpers.normal(0, 1, 17, 23, 3)
    grown = np.pad(x, ((0, 0), (0, 1), (0, 1), (0, 0)), mode="edge")
    z = helpers.apply(stage.net, stage.params, grown, method="encode").mean
    wanted = helpers.apply(stage.net, stage.params, z, method="decode")[:, :17, :23]
    for mode in ("whole", "exact"):
        found = large.restore(stage, x, mode)
        assert found.shape == x.shape
        assert helpers.largest_difference(found, wanted) < 2e-5
    found = large.restore(stage, x, "patch", large.Patches(16, 8))
    assert found.shape == x.shape and np.isfinite(found).all()
    assert helpers.largest_difference(found, wanted) > 1e-2


def test_patches_go_both_ways_in_the_pixels_of_the_picture(stage):
    x = helpers.normal(0, 1, 16, 24, 3)

    def through(method, scale):
        def run(part):
            found = helpers.apply(stage.net, stage.params, part, method=method)
            return found.mean if method == "encode" else found

        return lambda x, *size: patches.over(run, x, *size, **scale)

    z = through("encode", {"down": 2})(np.asarray(x), 16, 8)
    wanted = through("decode", {"up": 2})(z, 8, 4)
    found = large.restore(stage, x, "patch", large.Patches(16, 8))
    assert helpers.largest_difference(found, wanted) < 1e-5


def test_one_patch_is_the_whole_picture(stage):
    x = helpers.normal(0, 1, 16, 16, 3)
    found = large.restore(stage, x, "patch", large.Patches(16, 8))
    assert helpers.largest_difference(found, large.restore(stage, x, "whole")) < 1e-5


def test_a_model_without_a_first_stage_and_an_unknown_way_are_told(stage):
    config = config_lib.latent_diffusion()
    config.first_stage.kind = "identity"
    with pytest.raises(ValueError, match="this config has no first stage"):
        large.arch(config)
    with pytest.raises(ValueError, match="'exakt' is not one of whole, patch, exact"):
        large.restore(stage, np.zeros((1, 8, 8, 3)), "exakt")


def test_pictures_are_read_upright_and_in_three_colours(tmp_path):
    path = tmp_path / "photo.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    Image.new("L", (20, 10), 7).save(path, exif=exif)
    found = large.read(path)
    assert found.shape == (20, 10, 3) and found.dtype == np.uint8
    assert np.abs(found.astype(int) - 7).max() < 3


def test_more_than_8_bits_are_refused_and_transparency_is_dropped(tmp_path):
    path = tmp_path / "deep.png"
    Image.fromarray(np.full((8, 8), 40_000, np.uint16)).save(path)
    with pytest.raises(ValueError, match="deep.png has more than 8 bits a colour"):
        large.read(path)
    Image.new("RGBA", (8, 8), (1, 2, 3, 4)).save(path)
    np.testing.assert_array_equal(large.read(path)[0, 0], [1, 2, 3])


def test_what_is_no_picture_is_told_with_its_name(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match="no picture .*none.png"):
        large.read(tmp_path / "none.png")
    text = tmp_path / "text.png"
    text.write_text("not a picture")
    with pytest.raises(OSError, match="text.png is no picture that can be read"):
        large.read(text)
    gen = np.random.default_rng(0)
    noise = Image.fromarray(gen.integers(0, 256, (64, 64, 3)).astype(np.uint8))
    for name in ("whole.png", "whole.jpg", "whole.webp", "whole.tiff", "whole.gif"):
        noise.save(tmp_path / name)
        content = (tmp_path / name).read_bytes()
        short = tmp_path / f"short_{name}"
        short.write_bytes(content[: len(content) // 2])
        with pytest.raises(OSError, match=f"{short.name} is no picture that can be"):
            large.read(short)
        assert large.read(tmp_path / name).shape == (64, 64, 3)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(ValueError, match="whole.png is too large"):
        large.read(tmp_path / "whole.png")
