"""In-painting: the picture and mask from files, and what the UNet is told of them."""

import flax.linen as nn
import helpers
import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
import pytest
import tiny_stable_diffusion

from ldm_jax import config as config_lib
from ldm_jax import given, knobs, pictures, system
from ldm_jax.models import autoencoder, layers


@pytest.fixture
def c():
    return tiny_stable_diffusion.get_config("v1-inpainting")


def save(path, array):
    Image.fromarray(np.asarray(array, np.uint8)).save(path)
    return str(path)


@pytest.fixture
def files(tmp_path):
    """A picture of 16x16 whose pixels all differ, and a mask of grays."""
    grays = np.arange(256).reshape(16, 16)
    shown = np.stack([grays, grays[::-1], grays.T], -1)
    found = save(tmp_path / "image.png", shown), save(tmp_path / "mask.png", grays)
    return *found, shown, grays


def read(c, image, mask):
    files = {"image": image, "mask": mask, "layout": None, "segmentation": None}
    return given.read(c, files)


def test_files_are_read_and_gray_is_told_apart(c, files):
    image, mask, shown, grays = files
    found = read(c, image, mask)
    assert set(found) == {"image", "mask"}
    np.testing.assert_array_equal(found["image"], shown)
    np.testing.assert_array_equal(found["mask"], grays > 127)
    assert found["mask"].dtype == found["image"].dtype == np.uint8


def test_the_middle_square_is_taken_and_resized(c, tmp_path):
    """Of 64x32 the columns 16 to 47, each pixel the mean of four; of both alike."""
    wide = np.zeros((32, 64, 3))
    wide[:, 16:32, 0] = 200
    wide[:, 32:48, 1] = 100
    wide[:, :16] = wide[:, 48:] = 255
    image = save(tmp_path / "wide.png", wide)
    hole = np.zeros((32, 64))
    hole[:16] = 255
    mask = save(tmp_path / "hole.png", hole)
    found = read(c, image, mask)
    np.testing.assert_array_equal(found["image"][:, 0], [[200, 0, 0]] * 16)
    np.testing.assert_array_equal(found["image"][:, -1], [[0, 100, 0]] * 16)
    np.testing.assert_array_equal(found["mask"][:8], np.ones((8, 16)))
    np.testing.assert_array_equal(found["mask"][8:], np.zeros((8, 16)))


def test_another_size_than_the_mask_is_refused(c, files, tmp_path):
    high = save(tmp_path / "high.png", np.zeros((64, 32)))
    with pytest.raises(ValueError, match="high.png is .32, 64.: they must have one"):
        read(c, files[0], high)


def test_a_picture_of_another_kind_is_turned_into_rgb(c, files, tmp_path):
    mask, grays = files[1], files[3]
    Image.fromarray(np.uint8(grays)).convert("P").save(tmp_path / "palette.gif")
    found = read(c, tmp_path / "palette.gif", mask)["image"]
    np.testing.assert_array_equal(found, np.stack([grays] * 3, -1))


def test_what_is_missing_or_not_wanted_is_told(c, files, tmp_path):
    image, mask, *_ = files
    for named in ((None, None), (image, None), (None, mask)):
        with pytest.raises(ValueError, match="name --image=FILE and --mask=FILE"):
            read(c, *named)
    plain = tiny_stable_diffusion.get_config("v1")
    assert read(plain, None, None) == {}
    with pytest.raises(ValueError, match="nothing says what is to change of --image"):
        read(plain, image, None)
    with pytest.raises(ValueError, match="--mask changes a picture: name it by"):
        read(plain, None, mask)
    (tmp_path / "no.png").write_text("no picture")
    with pytest.raises(ValueError, match=r"--image .*no.png: it is none of JPEG"):
        read(c, tmp_path / "no.png", mask)
    with pytest.raises(FileNotFoundError, match=r"none.png"):
        read(c, tmp_path / "none.png", mask)


class Squares(nn.Module):
    """A first stage whose latent is the mean of 2x2 pixels, red twice."""

    arch: autoencoder.Arch

    def setup(self):
        self.unit = self.param("unit", nn.initializers.ones, ())

    def __call__(self, x):
        return self.decode(self.encode(x).mean)

    def encode(self, x):
        mean = layers.mean_down(x) * self.unit
        mean = jnp.concatenate([mean, mean[..., :1]], -1)
        return autoencoder.Posterior(mean, jnp.full_like(mean, 3.0))

    def decode(self, z):
        return layers.nearest_up(z[..., :3]) * self.unit


@pytest.fixture
def squares(monkeypatch):
    monkeypatch.setitem(autoencoder.FIRST_STAGES, "kl", Squares)


NO_CLIP = dict(encoders=(), skip=(), final_norm=())


def of_kind(inpaint):
    c = tiny_stable_diffusion.get_config("v1-inpainting").copy_and_resolve_references()
    c.cond_stage.inpaint = inpaint
    if inpaint == "ldm":  # LDM's own says nothing else
        c.cond_stage.update(kind="none", drop=0.0, **NO_CLIP)
        c.sample.scale = 1.0
    return config_lib.check(c)


def masked(seed=0):
    gen = np.random.default_rng(seed)
    image = gen.integers(0, 256, (2, 16, 16, 3)).astype(np.uint8)
    return image, gen.integers(0, 2, (2, 16, 16)).astype(np.uint8)


def means(x):
    """Of 2x2 pixels, red twice, written out."""
    small = np.zeros((2, 8, 8, 4))
    for b, y, x_ in np.ndindex(2, 8, 8):
        mean = x[b, 2 * y : 2 * y + 2, 2 * x_ : 2 * x_ + 2].mean((0, 1))
        small[b, y, x_] = [*mean, mean[0]]
    return small


def told(built, image, mask):
    """The planes that join z_t, and all else."""
    batch = {name: jnp.zeros(x.shape, x.dtype) for name, x in built.batch.items()}
    params = {"first_stage": {"unit": jnp.ones(())}}
    shapes = jax.eval_shape(built.init, jax.random.key(0))
    params["cond_stage"] = helpers.random_params(shapes["cond_stage"])
    return built.condition(params, {**batch, "image": image, "mask": mask})


def test_stable_diffusion_sees_the_mask_and_a_gray_hole(squares):
    image, mask = masked()
    cond = told(system.build(of_kind("sd")), image, mask)
    assert cond.concat.shape == (2, 8, 8, 5) and cond.context.shape == (2, 77, 32)
    np.testing.assert_array_equal(cond.concat[..., 0], mask[:, ::2, ::2])
    gray = (image / 127.5 - 1) * (1 - mask[..., None])
    want = 0.18215 * means(gray)  # as diffusion's own latents are scaled
    np.testing.assert_allclose(cond.concat[..., 1:], want, atol=1e-5)


def test_ldm_sees_a_black_hole_and_the_mask_as_minus_one_and_one(squares):
    image, mask = masked()
    cond = told(system.build(of_kind("ldm")), image, mask)
    assert cond.concat.shape == (2, 8, 8, 5) and cond.context is None
    np.testing.assert_array_equal(cond.concat[..., 4], mask[:, ::2, ::2] * 2.0 - 1)
    black = np.where(mask[..., None], -1, image / 127.5 - 1)
    want = 0.18215 * means(black)
    np.testing.assert_allclose(cond.concat[..., :4], want, atol=1e-5)


@pytest.mark.parametrize("inpaint", ["sd", "ldm"])
def test_what_is_in_the_hole_is_not_seen(squares, inpaint):
    image, mask = masked()
    other = np.where(mask[..., None], 255 - image, image)
    built = system.build(of_kind(inpaint))
    plain, found = (told(built, x, mask).concat for x in (image, other))
    np.testing.assert_array_equal(found, plain)
    shown = told(built, 255 - image, mask).concat
    assert np.abs(shown - plain).max() > 0.01


def test_the_unet_takes_the_planes():
    for variant, planes in (("v1", 4), ("v1-inpainting", 9)):
        built = system.build(tiny_stable_diffusion.get_config(variant))
        shapes = jax.eval_shape(built.init, jax.random.key(0))
        kernel = shapes["unet"]["trunk"]["conv_in"]["kernel"]
        assert kernel.shape == (3, 3, planes, 32)
        assert ("mask" in built.batch) == (planes == 9)


def test_planes_of_two_kinds_are_refused():
    c = of_kind("sd").copy_and_resolve_references()
    c.cond_stage.update(kind="low_res", stages=1, drop=0.0, **NO_CLIP)
    c.sample.scale = 1.0
    with pytest.raises(ValueError, match="both take the planes"):
        config_lib.check(c)
    c = of_kind("sd").copy_and_resolve_references()
    c.cond_stage.inpaint = "sdd"
    with pytest.raises(ValueError, match="'sdd' must be 'ldm', 'sd' or ''"):
        config_lib.check(c)


@pytest.mark.parametrize("inpaint", ["sd", "ldm"])
def test_what_lies_around_the_hole_stays_as_it_was(squares, inpaint):
    image, mask = masked()
    c = of_kind(inpaint)
    built = system.build(c)
    params = helpers.random_params(jax.eval_shape(built.init, jax.random.key(0)))
    params["first_stage"] = {"unit": jnp.ones(())}
    batch = {name: jnp.zeros(x.shape, x.dtype) for name, x in built.batch.items()}
    batch = {name: x[:2] for name, x in batch.items()} | {"image": image, "mask": mask}
    keys = jax.random.split(jax.random.key(1), 2)
    x = jax.jit(built.sample)(params, keys, batch, knobs.of(c))
    around = mask == 0
    np.testing.assert_array_equal(pictures.to_uint8(x)[around], image[around])
    assert np.abs(x - (image / 127.5 - 1))[~around].mean() > 0.1
