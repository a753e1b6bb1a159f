"""CLIP's text encoders: the written-out arithmetic, and each switch of their own."""

import dataclasses
import math

import helpers
import numpy as np
import numpy_layers
import pytest

from ldm_jax.models import clip

QUICK = clip.Encoder(16, 3, 2, "quick_gelu", clip.END)
OPEN = clip.Encoder(16, 3, 2, "gelu", 0, 12)
END = 9  # where the first text ends


@pytest.fixture(scope="module")
def tokens():
    """A text of eight pieces, an empty one, and a full one; the end fills them up."""
    rows = np.full((3, clip.LENGTH), clip.END, np.int32)
    gen = np.random.default_rng(0)
    for row, pieces in zip(rows, (END - 1, 0, 75), strict=True):
        row[: pieces + 1] = [clip.START, *gen.integers(1, 40_000, pieces)]
    return rows


@pytest.fixture(scope="module")
def params(tokens):
    """Of OPEN; those of QUICK are the same without the projection."""
    return helpers.random_params(helpers.init_shapes(clip.TextEncoder(OPEN), tokens))


def encode(params, tokens, encoder=OPEN, **switches):
    net = clip.TextEncoder(encoder, **switches)
    if not encoder.projection:
        params = {k: v for k, v in params.items() if k != "projection"}
    sequence, pooled = helpers.apply(net, params, tokens)
    return np.asarray(sequence), None if pooled is None else np.asarray(pooled)


def written_out(params, tokens, encoder):
    """The state after each block in float64."""
    p = numpy_layers.double(params)
    length, heads = tokens.shape[1], encoder.heads
    h = p["tokens"]["embedding"][tokens] + p["positions"]["embedding"]
    unseen = np.triu(np.full((length, length), -np.inf), 1)
    states = [h]
    for i in range(encoder.depth):
        block = p[f"block_{i}"]
        x = numpy_layers.dense(
            block["qkv"], numpy_layers.layer_norm(block["norm_attn"], h)
        )
        q, k, v = (
            part.reshape(*part.shape[:2], heads, -1) for part in np.split(x, 3, -1)
        )
        scores = np.einsum("blhd,bmhd->bhlm", q, k) / np.sqrt(q.shape[-1]) + unseen
        x = np.einsum("bhlm,bmhd->blhd", numpy_layers.softmax(scores), v)
        h = h + numpy_layers.dense(block["attn_out"], x.reshape(h.shape))
        x = numpy_layers.layer_norm(block["norm_mlp"], h)
        x = numpy_layers.dense(block["mlp_in"], x)
        if encoder.activation == "gelu":
            x = numpy_layers.gelu(x)
        else:
            x = x / (1 + np.exp(-1.702 * x))
        h = h + numpy_layers.dense(block["mlp_out"], x)
        states.append(h)
    return states


@pytest.mark.parametrize("encoder", [QUICK, OPEN], ids=["quick", "open"])
def test_it_is_the_written_out_one(params, tokens, encoder):
    filled = tokens.copy()
    filled[0, END + 1 :] = filled[1, 2:] = encoder.pad
    states = written_out(params, filled, encoder)
    norm = numpy_layers.double(params["norm_out"])
    whole = numpy_layers.layer_norm(norm, states[-1])
    sequence, pooled = encode(params, tokens, encoder)
    assert sequence.shape == (3, 77, 16) and sequence.dtype == np.float32
    np.testing.assert_allclose(sequence, whole, atol=2e-4)
    if encoder is QUICK:
        assert pooled is None
        return
    kernel = np.asarray(params["projection"]["kernel"], np.float64)
    want = whole[range(3), [END, 1, 76]] @ kernel  # of the first end in each text
    assert pooled.shape == (3, 12)
    np.testing.assert_allclose(pooled, want, atol=2e-4)


def test_each_switch_takes_another_state(params, tokens):
    """And none of them changes the pooled text, which is that of all blocks."""
    filled = tokens.copy()
    filled[0, END + 1 :] = filled[1, 2:] = 0
    states = written_out(params, filled, OPEN)
    norm = numpy_layers.double(params["norm_out"])
    _, plain = encode(params, tokens)
    for skip, final_norm in ((0, False), (1, True), (2, False)):
        want = states[-1 - skip]
        want = numpy_layers.layer_norm(norm, want) if final_norm else want
        sequence, pooled = encode(params, tokens, skip=skip, final_norm=final_norm)
        np.testing.assert_allclose(sequence, want, atol=2e-4)
        np.testing.assert_allclose(pooled, plain, atol=1e-5)
    assert np.abs(states[-1] - states[-2]).max() > 0.1


def test_a_later_token_changes_nothing_before_it(params, tokens):
    other = tokens.copy()
    other[0, 5] += 1
    (plain, pooled), (found, moved) = (encode(params, x) for x in (tokens, other))
    np.testing.assert_array_equal(found[0, :5], plain[0, :5])
    assert np.abs(found[0, 5:] - plain[0, 5:]).max(-1).min() > 1e-3
    np.testing.assert_array_equal(found[1:], plain[1:])
    assert np.abs(moved[0] - pooled[0]).max() > 1e-3


def test_what_fills_up_is_the_encoders_own(params, tokens):
    """The ends after the last word's are read as `pad`."""
    other = tokens.copy()
    other[0, END + 1 :] = 0
    plain, pooled = encode(params, tokens)
    found, again = encode(params, other)
    np.testing.assert_array_equal(found, plain)
    np.testing.assert_array_equal(again, pooled)

    ended = dataclasses.replace(OPEN, pad=clip.END)
    found, again = encode(params, tokens, ended)
    np.testing.assert_allclose(found[0, : END + 1], plain[0, : END + 1], atol=1e-6)
    assert np.abs(found[0, END + 1 :] - plain[0, END + 1 :]).max(-1).min() > 1e-3
    np.testing.assert_allclose(again, pooled, atol=1e-6)
    np.testing.assert_allclose(found[2], plain[2], atol=1e-6)  # a full one has no pad


@pytest.mark.parametrize("encoder", [QUICK, OPEN], ids=["quick", "open"])
def test_what_follows_an_end_that_the_text_names_is_read(params, tokens, encoder):
    """As in the originals; the pooled text is at the first end all the same."""
    named = tokens.copy()
    named[0, 3:5] = clip.END
    read = named.copy()
    read[0, END + 1 :] = read[1, 2:] = encoder.pad
    whole = numpy_layers.layer_norm(
        numpy_layers.double(params["norm_out"]),
        written_out(params, read, encoder)[-1],
    )
    sequence, pooled = encode(params, named, encoder)
    np.testing.assert_allclose(sequence, whole, atol=2e-4)
    if encoder is OPEN:
        kernel = np.asarray(params["projection"]["kernel"], np.float64)
        np.testing.assert_allclose(
            pooled, whole[range(3), [3, 1, 76]] @ kernel, atol=2e-4
        )


def test_only_the_end_of_a_row_is_filled():
    e, p = clip.END, 0
    rows = np.array(
        [[1, e, 2, e, e, e], [e] * 6, [1, 2, 3, 4, 5, e], [1, 2, e, e, 3, 4]]
    )
    want = [[1, e, 2, e, p, p], [e, *[p] * 5], [1, 2, 3, 4, 5, e], [1, 2, e, e, 3, 4]]
    np.testing.assert_array_equal(clip.filled(rows, p), want)
    assert clip.filled(rows, clip.END) is rows


def test_the_pooled_text_is_at_the_first_end(params, tokens):
    """Wherever another one is: to move the first one moves the pooled text."""
    earlier = tokens.copy()
    earlier[2, 40] = clip.END
    _, plain = encode(params, tokens)
    sequence, pooled = encode(params, earlier)
    np.testing.assert_allclose(
        pooled[2], sequence[2, 40] @ params["projection"]["kernel"], atol=1e-5
    )
    assert np.abs(pooled[2] - plain[2]).max() > 1e-2


def test_a_text_without_an_end_is_pooled_at_its_last_token(params, tokens):
    """Nor is anything of it filling: zeros in it are token 0."""
    endless = tokens.copy()
    endless[0, END:] = 7
    sequence, pooled = encode(params, endless)
    want = sequence[0, -1] @ params["projection"]["kernel"]
    np.testing.assert_allclose(pooled[0], want, atol=1e-5)
    other = endless.copy()
    other[0, -1] = 8
    again, _ = encode(params, other)
    assert np.abs(again[0, -1] - sequence[0, -1]).max() > 1e-3


def test_the_two_activations():
    x = np.linspace(-4, 4, 17, dtype=np.float32)
    exact = [a * (1 + math.erf(a / math.sqrt(2))) / 2 for a in x]
    quick = [a / (1 + math.exp(-1.702 * a)) for a in x]
    np.testing.assert_allclose(clip.ACTIVATIONS["gelu"](x), exact, atol=1e-5)
    np.testing.assert_allclose(clip.ACTIVATIONS["quick_gelu"](x), quick, atol=1e-5)
    assert np.abs(np.subtract(exact, quick)).max() > 0.01


def test_the_activation_is_that_of_the_encoder(params, tokens):
    other = dataclasses.replace(OPEN, activation="quick_gelu")
    gap = np.abs(encode(params, tokens, other)[0] - encode(params, tokens)[0]).max()
    assert 1e-3 < gap < 1.0


def test_an_encoder_without_a_projection_has_no_such_parameter(tokens):
    with_it = helpers.init_shapes(clip.TextEncoder(OPEN), tokens)
    without = helpers.init_shapes(clip.TextEncoder(QUICK), tokens)
    assert set(with_it) - set(without) == {"projection"}
    assert set(with_it["projection"]) == {"kernel"}
    assert with_it["tokens"]["embedding"].shape == (clip.VOCAB, 16)


def test_half_precision_inside_float32_outside(params, tokens):
    plain, _ = encode(params, tokens)
    half, pooled = encode(params, tokens, dtype="bfloat16")
    assert half.dtype == pooled.dtype == np.float32
    assert 1e-4 < np.abs(half - plain).max() < 0.5
