"""Pictures that are changed: all of one, a hole in it, or what is beyond its edges."""

import helpers
import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
import pytest
import tiny_text_to_image

from ldm_jax import config as config_lib
from ldm_jax import denoise as dn
from ldm_jax import (
    draws,
    given,
    grids,
    knobs,
    pictures,
    samplers,
    sampling,
    system,
)
from ldm_jax import schedule as schedule_lib

NOTHING = dict.fromkeys(("image", "mask", "keep", "outpaint", "layout", "segmentation"))
SIZE = 16


def config_of(**sample):
    c = tiny_text_to_image.get_config()
    c.sample.update({"steps": 4, "grid": "trailing"} | sample)
    return config_lib.check(c)


@pytest.fixture(scope="module")
def params():
    init = system.build(config_of()).init
    return helpers.random_params(jax.eval_shape(init, jax.random.key(0)))


@pytest.fixture(scope="module")
def rig():
    """(keys, what a batch says beside pictures, pictures uint8)."""
    shown = np.random.default_rng(0).integers(0, 256, (2, SIZE, SIZE, 3), np.uint8)
    tokens = jnp.tile(jnp.array([2, 5, 6, 3] + 20 * [0], jnp.int32), (2, 1))
    return (
        jax.random.split(jax.random.key(1), 2),
        {"tokens": tokens, "negative_tokens": tokens.at[:, 1].set(7)},
        jnp.asarray(shown),
    )


def draw(params, keys, batch, **sample):
    c = config_of(**sample)
    return jax.jit(system.build(c).sample)(params, keys, batch, knobs.of(c))


def test_strength_walks_the_last_steps_from_a_noisy_picture(params, rig):
    keys, told, image = rig
    c = config_of(strength=0.5)
    built, found = system.build(c), knobs.of(c)
    assert len(found["grid"]) == 2 and found["begun"]
    np.testing.assert_array_equal(found["grid"].t, knobs.of(config_of())["grid"].t[2:])
    z_0 = jax.jit(built.draw)(params, keys, told | {"image": image}, found)

    schedule = schedule_lib.linear(**c.schedule)
    posterior = built.posterior(params, pictures.to_float(image))
    clean = c.first_stage.scale * posterior.mean
    eps = draws.initial_noise(keys, clean.shape[1:])
    t = jnp.full(2, found["grid"].t[0])
    z = schedule_lib.add_noise(schedule, clean, eps, t)
    whole = jax.jit(built.draw)
    # The same walk by hand, one step at a time, through the plain sampler.
    cond = built.condition(params, told)
    null = built.condition(params, {"tokens": told["negative_tokens"]})

    def guided(params, z_t, t, cond, rng=None):
        said, untold = (built.denoise(params, z_t, t, x) for x in (cond, null))
        scale = c.sample.scale
        return jax.tree.map(lambda a, b: a + scale * (b - a), untold, said)

    wanted = samplers.ddim(guided, params, keys, z, cond, found["grid"], found)
    np.testing.assert_allclose(z_0, wanted, atol=2e-4)
    other = whole(params, keys, told | {"image": 255 - image}, found)
    assert np.abs(other - z_0).max() > 0.01


def test_little_strength_keeps_the_picture_and_much_does_not(params, rig):
    keys, told, image = rig
    c = config_of()
    built = system.build(c)
    through = built.decode(
        params,
        c.first_stage.scale * built.posterior(params, pictures.to_float(image)).mean,
    )
    gaps = [
        float(
            jnp.abs(
                draw(params, keys, told | {"image": image}, **ways) - through
            ).mean()
        )
        for ways in ({"strength": 0.25}, {"strength": 0.75}, {})
    ]
    assert gaps[0] < gaps[1] < gaps[2]


def test_the_whole_strength_begins_with_noise_alone(params, rig):
    keys, told, image = rig
    hole = jnp.ones((2, SIZE, SIZE), jnp.uint8)
    plain = draw(params, keys, told)
    everywhere = draw(params, keys, told | {"image": image, "mask": hole})
    np.testing.assert_allclose(everywhere, plain, atol=1e-4)


def test_a_hole_is_painted_and_the_rest_stays(params, rig):
    keys, told, image = rig
    hole = jnp.zeros((2, SIZE, SIZE), jnp.uint8).at[:, 5:11, 5:11].set(1)
    x = draw(params, keys, told | {"image": image, "mask": hole})
    outside = np.asarray(hole == 0)
    x, shown = np.asarray(x), np.asarray(pictures.to_float(image))
    np.testing.assert_allclose(x[outside], shown[outside], atol=1e-6)
    inside = np.asarray(hole == 1)
    assert np.abs(x - shown)[inside].mean() > 0.05
    other = draw(params, keys, told | {"image": 255 - image, "mask": hole})
    assert (
        np.abs((np.asarray(other) - x)[inside]).max() > 0.01
    )  # it sees what is around


@pytest.mark.parametrize("name", sorted(samplers.SAMPLERS))
def test_what_is_known_is_walked_to_exactly(name):
    """By every sampler, whatever the network says, down to a clean picture."""
    schedule = schedule_lib.linear(1000, 0.0015, 0.0195)
    known = jax.random.normal(jax.random.key(0), (2, 4, 4, 3))
    hole = jnp.zeros((2, 4, 4, 1), bool).at[:, :2].set(True)

    def wild(params, z_t, t, cond, rng=None):
        eps = jnp.tanh(3 * z_t)
        return dn.Pred(*schedule_lib.solve(schedule, "eps", eps, z_t, t))

    filled = dn.with_known(wild, schedule, known, hole)
    keys = jax.random.split(jax.random.key(1), 2)
    z_T = draws.initial_noise(keys, (4, 4, 3))
    grid = grids.trailing(schedule, 8)
    run = jax.jit(
        lambda d, k: samplers.SAMPLERS[name](filled, {}, keys, z_T, dn.Cond(), grid, k),
        static_argnums=0,
    )
    found = run(None, {"eta": 0.5, "posterior": 0.5})
    np.testing.assert_allclose(found[:, 2:], known[:, 2:], atol=2e-4)
    assert np.abs(found[:, :2] - known[:, :2]).max() > 0.1
    z_t, t = z_T, jnp.array([3.0, 800.0])
    pred = filled({}, z_t, t, dn.Cond())
    again = schedule_lib.add_noise(schedule, pred.z_0, pred.eps, t)
    np.testing.assert_allclose(again, z_t, atol=1e-4)


def test_a_cell_of_the_latent_is_a_hole_where_any_of_its_pixels_is():
    mask = np.zeros((1, 8, 8), np.uint8)
    mask[0, 3, 4] = 1
    found = sampling.shrunk(jnp.asarray(mask), 4)
    assert found.shape == (1, 4, 4, 1) and found.sum() == 1 and found[0, 1, 2, 0]


def test_a_variation_leads_from_one_seed_to_another(params, rig):
    keys, told, _ = rig
    other = jax.random.split(jax.random.key(9), 2)

    def at(share):
        more = {"toward": other, "variation": jnp.full(2, share)}
        return draw(params, keys, told | more)

    np.testing.assert_allclose(at(0.0), draw(params, keys, told), atol=1e-4)
    np.testing.assert_allclose(at(1.0), draw(params, other, told), atol=1e-4)
    near, far = (float(jnp.abs(at(x) - at(0.0)).mean()) for x in (0.1, 0.9))
    assert 0 < near < far


def save(path, array):
    Image.fromarray(np.asarray(array, np.uint8)).save(path)
    return str(path)


@pytest.fixture
def files(tmp_path):
    grays = np.arange(SIZE * SIZE).reshape(SIZE, SIZE)
    image = save(tmp_path / "image.png", np.stack([grays, grays.T, grays[::-1]], -1))
    mask = np.zeros((SIZE, SIZE))
    mask[2:5] = 255
    return {"image": image}, save(tmp_path / "mask.png", mask), mask > 0


def read(c, **files):
    return given.read(c, NOTHING | files)


def test_any_model_of_pictures_may_change_one(files):
    image, path, mask = files
    found = read(config_of(), **image, mask=path)
    np.testing.assert_array_equal(found["mask"], mask)
    kept = read(config_of(), **image, keep=path)
    np.testing.assert_array_equal(kept["mask"], ~mask)
    np.testing.assert_array_equal(kept["image"], found["image"])
    assert set(read(config_of(strength=0.5), **image)) == {"image"}
    assert read(config_of()) == {}


def test_a_picture_grows_by_its_edges(files):
    c = config_of()
    c.data.image_size = 24
    image, _, _ = files
    found = read(c, **image, outpaint=(2, 0, 6, 8))
    hole = np.ones((24, 24), np.uint8)
    hole[:16, 2:18] = 0
    np.testing.assert_array_equal(found["mask"], hole)
    shown = np.asarray(Image.open(image["image"]))
    np.testing.assert_array_equal(found["image"][:16, 2:18], shown)
    np.testing.assert_array_equal(found["image"][:16, 0], shown[:, 0])


@pytest.mark.parametrize(
    ("sample", "more", "words"),
    [
        ({}, {}, "nothing says what is to change of --image.*--strength=0.6"),
        ({"strength": 0.5}, {"image": None}, "--strength=0.5 changes a picture"),
        ({}, {"image": None, "mask": "m.png"}, "--mask changes a picture"),
        (
            {},
            {"mask": "m.png", "keep": "k.png"},
            "--mask and --keep exclude",
        ),
        (
            {},
            {"outpaint": (1, 0, 0, 0)},
            r"makes \(17, 16\): it must add",
        ),
        ({}, {"outpaint": (0, 0, 0, 0)}, "it must add something"),
    ],
)
def test_what_does_not_go_together_is_told(files, sample, more, words):
    image, _, _ = files
    with pytest.raises(ValueError, match=words):
        read(config_of(**sample), **image | more)


def test_a_mask_of_another_size_is_told(files, tmp_path):
    image, _, _ = files
    small = save(tmp_path / "small.png", np.zeros((4, 4)))
    with pytest.raises(ValueError, match=r"is \(16, 16\), --keep .* is \(4, 4\)"):
        read(config_of(), **image, keep=small)


def test_super_resolution_has_no_hole(files):
    c = config_of()
    image, path, _ = files
    c = c.copy_and_resolve_references()
    c.cond_stage.update(kind="low_res")
    with pytest.raises(ValueError, match="--mask is to change a picture, which super"):
        read(c, **image, mask=path)


@pytest.mark.parametrize(
    "change",
    [
        {"rescale": 0.7},
        {"interval": (0.0, 0.5)},
        {"shape": "linear"},
        {"guidance": "apg", "apg_radius": 1.0},
        {"guidance": "cfg_pp", "scale": 0.6},
        {"sampler": "dpmpp_2m"},
        {"grid": "karras"},
    ],
)
def test_every_knob_of_sampling_changes_the_picture(params, rig, change):
    keys, told, _ = rig
    plain = draw(params, keys, told)
    changed = draw(params, keys, told, **change)
    assert np.isfinite(changed).all()
    assert np.abs(changed - plain).max() > 1e-4, change


def test_a_weaker_model_guides(params, rig):
    keys, told, _ = rig
    c = config_of(guide="weaker.safetensors")
    run = jax.jit(system.build(c).sample)
    same = params | {"guide": params["unet"]}
    alone = run(same, keys, told, knobs.of(c))
    unguided = draw(params, keys, told, scale=1.0)
    np.testing.assert_allclose(alone, unguided, atol=1e-3)  # led away from itself
    weak = params | {"guide": jax.tree.map(lambda x: 0.9 * x, params["unet"])}
    assert np.abs(run(weak, keys, told, knobs.of(c)) - alone).max() > 1e-3


def test_a_scale_of_each_picture(params, rig):
    keys, told, _ = rig
    scales = jnp.array([1.0, 5.0])
    together = draw(params, keys, told | {"scale": scales})
    for i, scale in enumerate((1.0, 5.0)):
        alone = draw(params, keys, told, scale=scale)
        np.testing.assert_allclose(together[i], alone[i], atol=1e-4)
