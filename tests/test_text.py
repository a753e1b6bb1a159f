import functools

import helpers
import jax
import jax.numpy as jnp
import numpy as np
import numpy_layers
import pytest

from ldm_jax import paths
from ldm_jax.data import tokenize
from ldm_jax.models import conditioners, text

NET = text.TextTransformer(
    vocab=11, length=6, width=12, depth=2, heads=2, head_channels=4
)


@pytest.fixture(scope="module")
def tokens():
    return jnp.array([[2, 5, 9, 3, 0, 0], [2, 3, 0, 0, 0, 0]])


@pytest.fixture(scope="module")
def params(tokens):
    return helpers.random_params(helpers.init_shapes(NET, tokens))


def test_it_is_the_written_out_one(params, tokens):
    """Pre-norm, attention 8 wide inside of 12, a feed-forward without a gate."""
    p = numpy_layers.double(params)
    h = p["tokens"]["embedding"][tokens] + p["positions"]["embedding"][:6]
    for i in range(2):
        normed = numpy_layers.layer_norm(p[f"norm_attn_{i}"], h)
        h = h + numpy_layers.attention(p[f"attn_{i}"], normed, normed, 2)
        mlp = p[f"mlp_{i}"]
        normed = numpy_layers.layer_norm(p[f"norm_mlp_{i}"], h)
        inner = numpy_layers.gelu(numpy_layers.dense(mlp["proj_in"], normed))
        assert inner.shape[-1] == 4 * 12
        h = h + numpy_layers.dense(mlp["proj_out"], inner)
    wanted = numpy_layers.layer_norm(p["norm_out"], h)
    found = helpers.apply(NET, params, tokens)
    assert found.shape == (2, 6, 12) and found.dtype == jnp.float32
    np.testing.assert_allclose(found, wanted, atol=1e-4)


def test_padding_is_seen(params, tokens):
    """No mask: another piece after the end changes the first position too."""
    plain = helpers.apply(NET, params, tokens)
    other = helpers.apply(NET, params, tokens.at[0, 5].set(7))
    assert helpers.largest_difference(other[0, 0], plain[0, 0]) > 1e-2
    np.testing.assert_allclose(other[1], plain[1], atol=1e-5)


def test_half_precision_inside_float32_outside(params, tokens):
    half = NET.clone(dtype=jnp.bfloat16)
    shapes = helpers.init_shapes(half, tokens)
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {jnp.dtype("float32")}
    found = helpers.apply(half, params, tokens)
    assert found.dtype == jnp.float32
    error = helpers.largest_difference(found, helpers.apply(NET, params, tokens))
    assert 1e-4 < error < 0.3


@pytest.fixture(scope="module")
def conditioner():
    return make_conditioner(pooled=False)


def make_conditioner(pooled):
    make = functools.partial(conditioners.text, vocab=11, length=6, width=12, depth=1)
    make = functools.partial(make, null_tokens=(2, 3), dtype="float32")
    return make(heads=2, head_channels=4, pooled=pooled)


def test_a_caption_becomes_a_context(conditioner, tokens):
    rng = jax.random.key(0, impl="unsafe_rbg")
    params = helpers.random_params(jax.eval_shape(conditioner.init, rng))
    cond = jax.jit(conditioner.apply)(params, {"tokens": tokens})
    assert cond.context.shape == (2, 6, 12)
    assert cond.vector is None and cond.concat is None
    assert helpers.largest_difference(cond.context[0], cond.context[1]) > 0.1
    assert conditioner.inputs == {"tokens": ((6,), "int32")}


def test_pooled_text_is_the_first_token_as_vector(conditioner, tokens):
    pooled = make_conditioner(pooled=True)
    rng = jax.random.key(0, impl="unsafe_rbg")
    params = helpers.random_params(jax.eval_shape(pooled.init, rng))
    cond = jax.jit(pooled.apply)(params, {"tokens": tokens})
    plain = jax.jit(conditioner.apply)(params, {"tokens": tokens})
    np.testing.assert_array_equal(cond.context, plain.context)
    np.testing.assert_array_equal(cond.vector, plain.context[:, 0])


def test_the_null_is_the_empty_caption(conditioner, tokens):
    batch = {"tokens": tokens, "image": tokens}
    null = conditioner.null(batch)
    np.testing.assert_array_equal(null["tokens"], [[2, 3, 0, 0, 0, 0]] * 2)
    np.testing.assert_array_equal(null["image"], tokens)
    words = tokenize.load_tokenizer(paths.resolve("demo:vocab.txt"), 6)
    np.testing.assert_array_equal(null["tokens"], words(["", ""]))
