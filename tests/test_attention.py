import functools

import helpers
import jax
import jax.numpy as jnp
import numpy as np
import numpy_layers
import pytest

from ldm_jax.models import attention


def tokens(seed, length, heads=2, dim=8, scale=2.0):
    return helpers.normal(seed, 2, length, heads, dim, scale=scale)


@pytest.mark.parametrize("keys", [12, 5])
def test_attend_is_softmax_attention(keys):
    q, k, v = tokens(0, 12), tokens(1, keys), tokens(2, keys)
    wanted = numpy_layers.attend(*(np.float64(x) for x in (q, k, v)))
    np.testing.assert_allclose(attention.attend(q, k, v), wanted, atol=1e-5)
    uniform = np.broadcast_to(v.mean(1, keepdims=True), wanted.shape)
    assert helpers.largest_difference(wanted, uniform) > 0.5


def test_huge_scores_do_not_overflow():
    q, k, v = tokens(0, 6, scale=200.0), tokens(1, 6, scale=200.0), tokens(2, 6)
    wanted = numpy_layers.attend(*(np.float64(x) for x in (q, k, v)))
    np.testing.assert_allclose(attention.attend(q, k, v), wanted, atol=1e-3)


def test_half_precision_stays_near_and_keeps_its_dtype():
    q, k, v = (tokens(i, 12).astype(jnp.bfloat16) for i in range(3))
    found = attention.attend(q, k, v)
    assert found.dtype == jnp.bfloat16
    wanted = numpy_layers.attend(*(np.float64(x) for x in (q, k, v)))
    np.testing.assert_allclose(np.float64(found), wanted, atol=0.05)


@pytest.mark.parametrize("chunk", [4, 5, 11])
def test_chunks_change_nothing(monkeypatch, chunk):
    """4 divides the twelve queries; of the others two and one remain."""
    q, k, v = tokens(0, 12), tokens(1, 7), tokens(2, 7)

    def traced():
        def total(q, k, v):
            return jnp.sum(jnp.sin(attention.attend(q, k, v)))

        return jax.jit(jax.value_and_grad(total, (0, 1, 2))).trace(q, k, v)

    whole = traced()
    monkeypatch.setattr(attention, "CHUNK", chunk)
    parts = traced()
    assert "scan[" not in str(whole.jaxpr)
    assert "scan[" in str(parts.jaxpr)
    # The scores of no more than a chunk of queries are ever in memory.
    assert "f32[2,2,12,7]" in str(whole.jaxpr)
    assert "f32[2,2,12,7]" not in str(parts.jaxpr)
    whole, parts = (run.lower().compile()(q, k, v) for run in (whole, parts))
    assert helpers.largest_difference(whole, parts) < 1e-5


@pytest.mark.parametrize("heads", [1, 2])
@pytest.mark.parametrize("epsilon", [1e-5, 1e-6])
def test_block_lays_out_heads_then_qkv_then_channels(heads, epsilon):
    x = helpers.normal(0, 2, 3, 4, 8, scale=1e-3)
    net = attention.AttentionBlock(heads, groups=4, epsilon=epsilon)
    params = helpers.random_params(helpers.init_shapes(net, x), scale=2.0)
    arrays, dim = numpy_layers.double(params), 8 // heads

    def reference(epsilon):
        h = numpy_layers.group_norm(arrays["norm"], np.float64(x), 4, epsilon)
        qkv = numpy_layers.dense(arrays["qkv"], h.reshape(2, 12, 8))
        starts = [3 * dim * head for head in range(heads)]
        q, k, v = (
            np.stack([qkv[..., s + i * dim : s + (i + 1) * dim] for s in starts], 2)
            for i in range(3)
        )
        out = numpy_layers.attend(q, k, v).reshape(2, 12, 8)
        return np.float64(x) + numpy_layers.dense(arrays["proj_out"], out).reshape(
            x.shape
        )

    found = helpers.apply(net, params, x)
    np.testing.assert_allclose(found, reference(epsilon), atol=2e-5)
    assert helpers.largest_difference(found, reference(1.1e-5 - epsilon)) > 1e-2


@pytest.mark.parametrize("zero", [True, False])
def test_a_fresh_block_is_silent_where_asked(zero):
    x = helpers.normal(0, 1, 2, 2, 4)
    net = attention.AttentionBlock(2, groups=2, zero=zero)
    fresh = helpers.fresh_params(net, x)
    found = helpers.apply(net, fresh, x)
    assert (helpers.largest_difference(found, x) == 0) == zero


def test_the_gate_is_the_second_half():
    x = helpers.normal(0, 2, 3, 4)
    net = attention.GatedFeedForward()
    params = helpers.random_params(helpers.init_shapes(net, x), scale=2.0)
    arrays = numpy_layers.double(params)
    h = numpy_layers.dense(arrays["proj_in"], np.float64(x))
    assert h.shape[-1] == 8 * 4
    value, gate = h[..., :16], h[..., 16:]
    wanted = numpy_layers.dense(arrays["proj_out"], value * numpy_layers.gelu(gate))
    np.testing.assert_allclose(helpers.apply(net, params, x), wanted, atol=1e-5)


def test_attention_projects_without_bias_to_any_width():
    x, context = helpers.normal(0, 2, 5, 6), helpers.normal(1, 2, 3, 10)
    net = attention.Attention(heads=2, head_channels=4)
    params = helpers.random_params(helpers.init_shapes(net, x, context), scale=2.0)
    biased = {name for name, leaves in params.items() if "bias" in leaves}
    assert biased == {"out"} and params["k"]["kernel"].shape == (10, 8)
    wanted = numpy_layers.attention(
        numpy_layers.double(params), np.float64(x), np.float64(context), 2
    )
    np.testing.assert_allclose(
        helpers.apply(net, params, x, context), wanted, atol=1e-5
    )


def transformer(params, x, context, heads, depth, epsilon):
    """The spatial transformer of the LDM code, written out."""
    h = numpy_layers.group_norm(params["norm"], x, 4, epsilon)
    h = numpy_layers.dense(params["proj_in"], h.reshape(len(x), -1, x.shape[-1]))
    for i in range(depth):
        p = params[f"block_{i}"]
        normed = numpy_layers.layer_norm(p["norm_self"], h)
        h = h + numpy_layers.attention(p["self"], normed, normed, heads)
        normed = numpy_layers.layer_norm(p["norm_cross"], h)
        told = normed if context is None else context
        h = h + numpy_layers.attention(p["cross"], normed, told, heads)
        mlp = numpy_layers.dense(
            p["mlp"]["proj_in"], numpy_layers.layer_norm(p["norm_mlp"], h)
        )
        value, gate = np.split(mlp, 2, axis=-1)
        h = h + numpy_layers.dense(
            p["mlp"]["proj_out"], value * numpy_layers.gelu(gate)
        )
    return x + numpy_layers.dense(params["proj_out"], h).reshape(x.shape)


@pytest.mark.parametrize("told", [True, False])
def test_spatial_transformer_is_the_written_out_one(told):
    """Two context tokens at least: with one, cross-attention has nothing to choose."""
    x = helpers.normal(0, 2, 2, 3, 8, scale=1e-3)
    context = helpers.normal(1, 2, 4, 6) if told else None
    net = attention.SpatialTransformer(2, heads=2, head_channels=4, groups=4)
    params = helpers.random_params(helpers.init_shapes(net, x, context))
    wanted = functools.partial(
        transformer,
        numpy_layers.double(params),
        np.float64(x),
        np.float64(context) if told else None,
        2,
        2,
    )
    found = helpers.apply(net, params, x, context)
    np.testing.assert_allclose(found, wanted(1e-6), atol=1e-4)
    assert helpers.largest_difference(found, wanted(1e-5)) > 1e-2


def test_positions_are_shares_of_the_picture():
    small, large = attention.positions(3, 4, 16), attention.positions(9, 12, 16)
    assert small.shape == (12, 16) and small.dtype == np.float32
    middles = large.reshape(9, 12, 16)[1::3, 1::3]  # of three pixels each, down
    np.testing.assert_allclose(middles[..., :8], small.reshape(3, 4, 16)[..., :8])
    across = large.reshape(9, 12, 16)[0, :, 8]
    assert (np.diff(across) < 0).all() and across[0] > 0.9
    np.testing.assert_allclose(across, -across[::-1], atol=1e-6)


@pytest.mark.parametrize("positions", [False, True])
def test_a_mirrored_picture_is_another_only_where_pixels_know_their_place(positions):
    x, context = helpers.normal(0, 1, 4, 4, 8), helpers.normal(1, 1, 3, 6)
    told = dict(heads=2, head_channels=4, groups=4, positions=positions)
    net = attention.SpatialTransformer(1, **told)
    params = helpers.random_params(helpers.init_shapes(net, x, context))
    found = helpers.apply(net, params, x, context)
    other = helpers.apply(net, params, x[:, :, ::-1], context)[:, :, ::-1]
    apart = helpers.largest_difference(found, other)
    assert apart > 1e-2 if positions else apart < 1e-4


def test_another_attend_replaces_self_attention_only():
    x, context = helpers.normal(0, 1, 2, 2, 8), helpers.normal(1, 1, 3, 6)
    lengths = []

    def spy(q, k, v):
        lengths.append((q.shape[1], k.shape[1]))
        return attention.attend(q, k, v)

    net = attention.SpatialTransformer(2, 2, 4, groups=4, attend=spy)
    helpers.init_shapes(net, x, context)
    assert lengths == [(4, 4), (4, 4)]
