import dataclasses

import helpers
import jax
import jax.numpy as jnp
import numpy as np
import numpy_layers
import pytest

from ldm_jax.models import autoencoder

TINY = autoencoder.Arch(
    channels=4,
    mult=(1, 2),
    blocks=1,
    attention=(0, 1),
    mid_attention=True,
    z_channels=3,
    embed_channels=2,
    codes=0,
    dropout=0.0,
    groups=2,
    dtype="float32",
)


@pytest.fixture(scope="module")
def x():
    return helpers.normal(0, 2, 8, 12, 3)


@pytest.fixture(scope="module")
def params(x):
    net = autoencoder.Autoencoder(TINY)
    return helpers.random_params(helpers.init_shapes(net, x))


def run(arch, params, method, *args, **kwargs):
    net = autoencoder.Autoencoder(arch)
    return helpers.apply(net, params, *args, method=method, **kwargs)


def test_shapes_of_the_latent_and_the_picture(params, x):
    posterior = run(TINY, params, "encode", x)
    assert posterior.mean.shape == posterior.logvar.shape == (2, 4, 6, 2)
    assert run(TINY, params, "decode", posterior.mean).shape == x.shape
    pixels = run(TINY, params, "__call__", x)
    again = run(TINY, params, "decode", posterior.mean)
    np.testing.assert_allclose(pixels, again, atol=1e-5)


def test_the_posterior_draws_and_weighs_as_a_gaussian():
    mean, logvar = helpers.normal(0, 2, 3, 3, 2), helpers.normal(1, 2, 3, 3, 2)
    noise = helpers.normal(2, 2, 3, 3, 2)
    posterior = autoencoder.Posterior(mean, logvar)
    m, variance = np.float64(mean), np.exp(np.float64(logvar))
    wanted = m + np.sqrt(variance) * np.float64(noise)
    np.testing.assert_allclose(posterior.sample(noise), wanted, atol=1e-5)
    nats = 0.5 * np.sum(m**2 + variance - 1 - np.log(variance), axis=(1, 2, 3))
    np.testing.assert_allclose(posterior.kl(), nats, rtol=1e-5)
    zero = jnp.zeros((2, 3, 3, 2))
    np.testing.assert_array_equal(autoencoder.Posterior(zero, zero).kl(), [0.0, 0.0])


def test_the_log_variance_is_bounded(params, x):
    """The second half of the moments, between -30 and 20; the mean is free."""
    kernel = params["quant_conv"]["kernel"] * 1e4
    huge = {**params, "quant_conv": {**params["quant_conv"], "kernel": kernel}}
    posterior = run(TINY, huge, "encode", x)
    assert posterior.logvar.min() == -30 and posterior.logvar.max() == 20
    assert np.abs(posterior.mean).max() > 1000


def pointwise(params, name, x):
    return numpy_layers.dense(numpy_layers.double(params[name]), np.float64(x))


def test_quantisation_layers_stand_between_the_halves(params, x):
    encoder, decoder = autoencoder.Encoder(TINY), autoencoder.Decoder(TINY)
    moments = helpers.apply(encoder, params["encoder"], x)
    assert moments.shape[-1] == 2 * TINY.z_channels
    mean, logvar = np.split(pointwise(params, "quant_conv", moments), 2, axis=-1)
    posterior = run(TINY, params, "encode", x)
    np.testing.assert_allclose(posterior.mean, mean, atol=1e-5)
    np.testing.assert_allclose(posterior.logvar, logvar, atol=1e-5)

    z = helpers.normal(3, 2, 4, 6, 2)
    inner = jnp.float32(pointwise(params, "post_quant_conv", z))
    wanted = helpers.apply(decoder, params["decoder"], inner)
    np.testing.assert_allclose(run(TINY, params, "decode", z), wanted, atol=1e-4)


def test_the_decoder_has_a_block_more_and_ends_at_level_0(params):
    encoder, decoder = set(params["encoder"]), set(params["decoder"])
    blocks = lambda names, prefix: sorted(n for n in names if n.startswith(prefix))
    assert blocks(encoder, "down_0") == ["down_0_res_0", "down_0_resample"]
    assert blocks(encoder, "down_1") == ["down_1_attn_0", "down_1_res_0"]
    assert blocks(decoder, "up_0") == ["up_0_res_0", "up_0_res_1"]
    assert blocks(decoder, "up_1_a") == ["up_1_attn_0", "up_1_attn_1"]
    assert "up_1_resample" in decoder
    assert params["decoder"]["norm_out"]["scale"].shape == (TINY.channels,)
    middle = {"mid_res_0", "mid_attn", "mid_res_1"}
    assert middle <= encoder and middle <= decoder


def test_without_attention_there_are_no_such_parameters(x):
    bare = dataclasses.replace(TINY, attention=(0, 0), mid_attention=False)
    shapes = helpers.init_shapes(autoencoder.Autoencoder(bare), x)
    names = {**shapes["encoder"], **shapes["decoder"]}
    assert not [name for name in names if "attn" in name]
    assert shapes["encoder"].keys() >= {"mid_res_0", "mid_res_1"}


def test_one_group_norm_epsilon_throughout(params, x):
    """The last norm of the encoder, on activations so small that epsilon decides."""
    tiny = 1e-3 * x
    net = autoencoder.Encoder(TINY)
    _, kept = jax.jit(
        lambda p: net.apply({"params": p}, tiny, capture_intermediates=True)
    )(params["encoder"])
    kept = kept["intermediates"]
    small = {**params["encoder"]}
    h = np.float64(kept["mid_res_1"]["__call__"][0])
    norm = numpy_layers.double(small["norm_out"])
    found = kept["norm_out"]["__call__"][0]
    wanted = numpy_layers.group_norm(norm, h, 2, 1e-6)
    np.testing.assert_allclose(found, wanted, atol=1e-4)

    first = np.float64(kept["conv_in"]["__call__"][0]), np.float64(tiny)
    np.testing.assert_allclose(
        first[0], numpy_layers.conv(numpy_layers.double(small["conv_in"]), first[1])
    )


def test_half_precision_inside_float32_outside(params, x):
    half = dataclasses.replace(TINY, dtype="bfloat16")
    plain, posterior = run(TINY, params, "encode", x), run(half, params, "encode", x)
    assert posterior.mean.dtype == posterior.logvar.dtype == jnp.float32
    assert 1e-5 < helpers.largest_difference(posterior.mean, plain.mean) < 0.3
    assert run(half, params, "decode", plain.mean).dtype == jnp.float32


def test_dropout_is_on_only_in_training(params, x):
    arch = dataclasses.replace(TINY, dropout=0.3)
    z = run(TINY, params, "encode", x).mean
    rngs = {"dropout": jax.random.key(0)}
    for method, told in (("encode", x), ("decode", z)):
        plain = jax.tree.leaves(run(TINY, params, method, told))[0]
        quiet = jax.tree.leaves(run(arch, params, method, told))[0]
        np.testing.assert_allclose(quiet, plain, atol=1e-5)
        loud = jax.tree.leaves(run(arch, params, method, told, True, rngs=rngs))[0]
        assert helpers.largest_difference(loud, plain) > 1e-2


@pytest.mark.parametrize("pixel", [2, 3])
def test_downsampling_pads_the_far_side_only(pixel):
    """The first tap meets even pixels: (2, 2) lands at (1, 1), (3, 3) nowhere."""
    x = jnp.zeros((1, 8, 8, 3)).at[0, pixel, pixel].set(1.0)
    net = autoencoder.Encoder(TINY)
    shapes = helpers.init_shapes(net, x)
    params = jax.tree.map(lambda s: np.zeros(s.shape, np.float32), shapes)
    params["conv_in"]["kernel"][1, 1, 0, 0] = 1.0
    params["down_0_resample"]["kernel"][0, 0, 0, 0] = 1.0
    _, kept = jax.jit(
        lambda p: net.apply({"params": p}, x, capture_intermediates=True)
    )(params)
    (down,) = kept["intermediates"]["down_0_resample"]["__call__"]
    found = np.argwhere(down[0, :, :, 0]).tolist()
    assert down.shape == (1, 4, 4, 4) and found == ([[1, 1]] if pixel == 2 else [])


VQ = dataclasses.replace(TINY, codes=9)


@pytest.fixture(scope="module")
def vq_params(x):
    return helpers.random_params(helpers.init_shapes(autoencoder.Autoencoder(VQ), x))


def test_the_log_variance_is_clipped_and_its_deviation_follows(params, x):
    """By its bias alone: -30 and 20 are the ends, between them it is free."""
    for bias, wanted in ((-99.0, -30.0), (99.0, 20.0), (7.0, 7.0)):
        kernel = jnp.zeros_like(params["quant_conv"]["kernel"])
        still = {"kernel": kernel, "bias": jnp.array([1.0, 2.0, bias, bias])}
        posterior = run(TINY, {**params, "quant_conv": still}, "encode", x)
        np.testing.assert_array_equal(posterior.logvar, np.full((2, 4, 6, 2), wanted))
        np.testing.assert_array_equal(posterior.mean[0, 0, 0], [1.0, 2.0])
        ones = jnp.ones(posterior.mean.shape)
        deviation = posterior.sample(ones) - posterior.mean
        np.testing.assert_allclose(
            deviation, np.full(ones.shape, np.exp(wanted / 2)), rtol=1e-5, atol=1e-6
        )
        np.testing.assert_array_equal(posterior.sample(0 * ones), posterior.mean)


def test_a_codebook_has_one_moment_and_a_table_beside_the_halves(vq_params, params):
    assert vq_params.keys() - params.keys() == {"codebook"}
    assert vq_params["codebook"]["codes"]["embedding"].shape == (9, 2)
    assert vq_params["quant_conv"]["kernel"].shape == (3, 2)
    assert vq_params["encoder"]["conv_out"]["bias"].shape == (3,)
    assert params["quant_conv"]["kernel"].shape == (6, 4)


def test_a_point_is_what_the_encoder_says(vq_params, x):
    point = run(VQ, vq_params, "encode", x)
    h = helpers.apply(autoencoder.Encoder(VQ), vq_params["encoder"], x)
    wanted = pointwise(vq_params, "quant_conv", h)
    np.testing.assert_allclose(point.mean, wanted, atol=1e-5)
    assert isinstance(point, autoencoder.Point)
    noise = helpers.normal(2, *point.mean.shape)
    np.testing.assert_array_equal(point.sample(noise), point.mean)


def test_decoding_quantises_and_rendering_does_not(vq_params, x):
    z = run(VQ, vq_params, "encode", x).mean
    table = vq_params["codebook"]["codes"]["embedding"]
    codes, indices = run(VQ, vq_params, "quantise", z)
    gaps = np.float64(z)[..., None, :] - np.float64(table)
    np.testing.assert_array_equal(indices, np.argmin(np.sum(gaps**2, -1), -1))
    np.testing.assert_array_equal(codes, table[indices])
    np.testing.assert_array_equal(run(VQ, vq_params, "encode_indices", x), indices)

    x_hat = run(VQ, vq_params, "decode", z)
    for method, told in (("render", codes), ("decode_indices", indices)):
        np.testing.assert_allclose(
            run(VQ, vq_params, method, told), x_hat, atol=1e-5, err_msg=method
        )
    plain = run(VQ, vq_params, "render", z)
    assert helpers.largest_difference(plain, x_hat) > 1e-2


def test_every_kind_has_a_module():
    kinds = {"kl", "vq", "identity"}
    assert autoencoder.FIRST_STAGES.keys() == kinds
