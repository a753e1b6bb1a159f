import helpers
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax import config, knobs, losses, pictures, system


@pytest.fixture(scope="module")
def c():
    c = helpers.tiny_config()
    c.unet.update(mult=(1,), depths=(1,))
    c.first_stage.scale = 0.5
    return c


@pytest.fixture(scope="module")
def rig(c):
    """(system, params, keys, batch)."""
    built = system.build(c)
    params = helpers.random_params(jax.eval_shape(built.init, jax.random.key(0)))
    keys = jax.random.split(jax.random.key(1), 4)
    return built, params, keys, helpers.random_batch(built.batch)


def test_an_unknown_task_or_sampler_is_named(c):
    other = c.copy_and_resolve_references()
    other.sample.sampler = "dim"
    with pytest.raises(ValueError, match="'dim' is not one of .*'ddim'"):
        system.build(other)
    other.task = "autoencodr"
    with pytest.raises(ValueError, match="did you mean 'autoencoder'"):
        system.build(other)


def test_pictures_lie_between_minus_one_and_one():
    image = jnp.array([[[[0, 127, 255]]]], jnp.uint8)
    found = pictures.to_float(image)
    np.testing.assert_allclose(found[0, 0, 0], [-1, -0.003922, 1], atol=1e-6)
    assert found.dtype == jnp.float32


def test_latents_are_scaled_on_the_way_in_and_back_on_the_way_out(c, rig):
    built, params, keys, batch = rig
    plain = c.copy_and_resolve_references()
    plain.first_stage.scale = 1.0
    plain = system.build(plain)
    x = pictures.to_float(batch["image"])
    z_0 = jax.jit(built.encode)(params, keys, x)
    wanted = jax.jit(plain.encode)(params, keys, x)
    assert z_0.shape == (4, 8, 8, 4)
    np.testing.assert_allclose(z_0, 0.5 * wanted, atol=1e-6)
    found = jax.jit(built.decode)(params, z_0)
    np.testing.assert_allclose(found, jax.jit(plain.decode)(params, wanted), atol=1e-4)
    other = jax.jit(built.encode)(params, keys[::-1], x)
    assert helpers.largest_difference(other, z_0) > 1e-2


def test_dropped_conditions_are_the_null(c, rig):
    """All dropped: the captions are not heard; none dropped: they are."""
    _, params, keys, batch = rig
    others = {**batch, "tokens": batch["tokens"][::-1]}
    empty = jnp.zeros_like(batch["tokens"]).at[:, :2].set(jnp.array([2, 3]))
    c = c.copy_and_resolve_references()
    found = {}
    for drop in (0.0, 1.0):
        c.cond_stage.drop = drop
        grads = system.build(c).grads
        # The loss alone: the compiler drops the backward pass.
        run = jax.jit(lambda *told, grads=grads: grads(*told)[2]["loss"])
        for name, told in (
            ("own", batch),
            ("other", others),
            ("null", {**batch, "tokens": empty}),
        ):
            loss = run(params, {}, {}, jnp.int32(0), keys, told)
            found[drop, name] = float(loss)
    assert found[1.0, "own"] == found[1.0, "other"] == found[1.0, "null"]
    assert found[0.0, "null"] == pytest.approx(found[1.0, "null"], rel=1e-5)
    assert abs(found[0.0, "own"] - found[0.0, "other"]) > 1e-4


def test_validation_is_the_same_every_time_and_spreads_t(rig):
    built, params, keys, batch = rig
    run = jax.jit(built.validate)
    found, again = run(params, keys, batch), run(params, keys, batch)
    assert helpers.largest_difference(found, again) == 0
    assert set(found) == {"loss_simple", "loss_vlb", "t"}
    assert all(x.shape == (4,) and np.all(np.isfinite(x)) for x in found.values())
    np.testing.assert_array_equal(found["t"] // 250, [0, 1, 2, 3])
    other = run(params, keys[::-1], batch)
    assert helpers.largest_difference(found["loss_simple"], other["loss_simple"]) > 0


def test_weights_are_of_training_alone(c, rig):
    """min_snr changes the loss that is minimised, not the one that is reported."""
    built, params, keys, batch = rig
    c = c.copy_and_resolve_references()
    c.loss.min_snr = 0.01  # below the ratios of the steps that are drawn here
    weighted = system.build(c)
    told = params, {}, {}, jnp.int32(0), keys, batch
    losses_of = [
        float(jax.jit(lambda *t, g=s.grads: g(*t)[2]["loss"])(*told))
        for s in (built, weighted)
    ]
    assert losses_of[1] < 0.99 * losses_of[0]  # eps: weights are at most 1
    found = [jax.jit(s.validate)(params, keys, batch) for s in (built, weighted)]
    assert helpers.largest_difference(*found) == 0


def test_an_end_without_signal_trains_and_has_no_bound(c, rig):
    _, params, keys, batch = rig
    c = c.copy_and_resolve_references()
    c.schedule.zero_terminal = True
    c.loss.predicts = "v"
    c.sample.grid = "trailing"
    built = system.build(c)
    found = jax.jit(built.validate)(params, keys, batch)
    assert set(found) == {"loss_simple", "t"}
    assert np.all(np.isfinite(found["loss_simple"]))
    drawn = jax.jit(built.sample)(params, keys, batch, knobs.of(c))
    assert np.all(np.isfinite(drawn))


def test_validation_sees_every_t_equally_often(rig):
    """Else loss_vlb is not the bound: its weights are largest where t is near 0."""
    built, params, _, batch = rig
    keys = jax.random.split(jax.random.key(2), (2_000, 4))
    t = np.asarray(
        jax.jit(jax.vmap(lambda k: built.validate(params, k, batch)["t"]))(keys)
    )
    assert t.min() == 0 and t.max() == 999
    seen = np.bincount(t.ravel() // 50, minlength=20)
    assert np.all(np.abs(seen - 400) < 100)  # five standard deviations


def test_the_loss_is_on_the_noise_of_the_keys(rig):
    """loss_simple, put together by hand from the other fields of the record."""
    built, params, keys, batch = rig

    @jax.jit
    def run(params):
        found = built.validate(params, keys, batch)
        z_0 = built.encode(params, keys, pictures.to_float(batch["image"]))
        eps = losses.normal(losses.split(keys, "eps"), z_0.shape[1:])
        betas = np.linspace(0.0015**0.5, 0.0195**0.5, 1000) ** 2
        share = jnp.float32(np.cumprod(1 - betas))[found["t"], None, None, None]
        z_t = jnp.sqrt(share) * z_0 + jnp.sqrt(1 - share) * eps
        cond = built.condition(params, batch)
        pred = built.denoise(params, z_t, found["t"].astype(jnp.float32), cond)
        return found["loss_simple"], jnp.mean((pred.eps - eps) ** 2, axis=(1, 2, 3))

    found, wanted = run(params)
    np.testing.assert_allclose(found, wanted, rtol=1e-3)


def test_a_sample_belongs_to_its_key_and_caption(c, rig):
    built, params, keys, batch = rig
    told = knobs.of(c)
    run = jax.jit(built.sample)
    plain = np.asarray(run(params, keys, batch, told))
    assert plain.shape == (4, 16, 16, 3) and np.all(np.isfinite(plain))

    backwards = jax.tree.map(lambda x: x[::-1], (keys, batch))
    found = run(params, *backwards, told)
    np.testing.assert_allclose(found[::-1], plain, rtol=1e-3, atol=1e-3)
    far = run(params, keys, batch, {**told, "scale": jnp.float32(9.0)})
    assert helpers.largest_difference(far, plain) > 1e-2
    assert run._cache_size() == 1


def test_ancestral_sampling_takes_its_variance_from_the_knobs(c, rig):
    """beta-tilde at 0, beta at 1; eta is another sampler's."""
    _, params, keys, batch = rig
    c = c.copy_and_resolve_references()
    c.sample.sampler = "ddpm"
    run, told = jax.jit(system.build(c).sample), knobs.of(c)
    drawn = {
        (posterior, eta): run(
            *(params, keys, batch),
            {**told, "posterior": jnp.float32(posterior), "eta": jnp.float32(eta)},
        )
        for posterior, eta in ((0, 0), (1, 0), (0, 1))
    }
    assert helpers.largest_difference(drawn[0, 0], drawn[1, 0]) > 1e-3
    assert helpers.largest_difference(drawn[0, 0], drawn[0, 1]) == 0


@pytest.fixture(scope="module", params=["kl", "vq"])
def stage(request):
    """(kind, system, params, keys, x) of a first stage of either kind."""
    c = helpers.tiny_autoencoder_config()
    c.data.image_size = 16
    c.first_stage.mid_attention = False
    if request.param == "vq":
        c.first_stage.update(kind="vq", codes=16)
    built = system.build(config.check(c))
    shapes = jax.eval_shape(built.init, jax.random.key(0))["first_stage"]
    params = {"first_stage": helpers.random_params(shapes)}
    keys = jax.random.split(jax.random.key(1), 4)
    x = pictures.to_float(helpers.random_batch(built.batch)["image"])
    return request.param, built, params, keys, x


def test_a_latent_may_be_drawn_later_from_what_was_kept(stage, tmp_path):
    """Moments on disk, drawn by another program: the same bits."""
    kind, built, params, keys, x = stage
    kept = jax.jit(built.posterior)(params, x)
    fields = vars(kept)
    assert set(fields) == ({"mean", "logvar"} if kind == "kl" else {"mean"})
    draw = jax.jit(built.latent)
    z_0 = draw(keys, kept)

    np.savez(tmp_path / "kept.npz", **{k: np.asarray(v) for k, v in fields.items()})
    with np.load(tmp_path / "kept.npz") as held:
        assert all(held[name].dtype == np.float32 for name in held)
        again = draw(keys, type(kept)(**held))
    np.testing.assert_array_equal(again, z_0)
    at_once = jax.jit(built.encode)(params, keys, x)
    np.testing.assert_allclose(at_once, z_0, atol=1e-5)
    # One picture's latent is that of its key alone, whoever is drawn with it.
    last = jax.tree.map(lambda a: a[3:], kept)
    np.testing.assert_allclose(draw(keys[3:], last)[0], z_0[3], atol=1e-6)

    other = draw(keys[::-1], kept)
    drawn = helpers.largest_difference(other, z_0) > 1e-2
    assert drawn == (kind == "kl")
    if kind == "vq":
        np.testing.assert_array_equal(z_0, kept.mean)


def test_codes_stand_for_pictures(stage):
    kind, built, params, keys, x = stage
    if kind == "kl":
        assert built.encode_indices is None and built.decode_indices is None
        return

    @jax.jit
    def run(params, x):
        indices = built.encode_indices(params, x)
        z_0 = built.encode(params, keys, x)
        return indices, built.decode_indices(params, indices), z_0

    indices, x_hat, z_0 = run(params, x)
    assert indices.shape == (4, 8, 8) and indices.dtype == jnp.int32
    assert len(np.unique(indices)) > 2
    wanted = jax.jit(built.decode)(params, z_0)
    np.testing.assert_allclose(x_hat, wanted, atol=1e-5)

    # Diffusion sees what the encoder says: no row of the table.
    table = np.asarray(params["first_stage"]["codebook"]["codes"]["embedding"])
    gaps = np.abs(np.asarray(z_0)[..., None, :] - table).max(axis=-1)
    assert gaps.min() > 1e-3
    moved = jax.jit(built.decode)(params, table[indices])  # where decoding takes it
    np.testing.assert_allclose(moved, wanted, atol=1e-5)
