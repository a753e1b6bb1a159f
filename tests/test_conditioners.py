"""What each conditioner makes of a batch, and what says "no condition"."""

import helpers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_stable_diffusion  # noqa: F401  (its encoders)

from ldm_jax.models import clip, conditioners

BASE = dict(
    encoders=("clip_tiny", "openclip_tiny"),
    skip=(1, 0),
    final_norm=(False, True),
    vocab=clip.VOCAB,
    pooled=True,
    micro=("original_size", "crop", "target_size"),
    length=77,
    null_tokens=(),
    dtype="float32",
)
SIZES = np.float32([[512, 640, 0, 8, 1024, 768], [16, 16, 1, 2, 3, 4]])


def make(**changes):
    return conditioners.clip(**{**BASE, **changes})


@pytest.fixture(scope="module")
def params():
    shapes = jax.eval_shape(make().init, jax.random.key(0))
    return helpers.random_params(shapes)


def rows(*lengths, seed=0):
    """Texts of so many pieces."""
    gen = np.random.default_rng(seed)
    found = np.full((len(lengths), clip.LENGTH), clip.END, np.int32)
    for row, pieces in zip(found, lengths, strict=True):
        row[: pieces + 1] = [clip.START, *gen.integers(0, clip.START, pieces)]
    return found


BATCH = {"tokens": rows(5, 20), "micro": SIZES}
COMPILED = {}


def apply(params, batch, **changes):
    """(context, vector) as numpy, each conditioner compiled once."""
    key = repr(sorted(changes.items()))
    run = COMPILED.setdefault(key, jax.jit(make(**changes).apply))
    cond = run(params, batch)
    assert cond.concat is None
    return tuple(x if x is None else np.asarray(x) for x in (cond.context, cond.vector))


@pytest.fixture(scope="module")
def plain(params):
    return apply(params, BATCH)


def test_two_encoders_stand_side_by_side(params, plain):
    context, vector = plain
    assert context.shape == (2, 77, 32 + 16) and vector.shape == (2, 16 + 6 * 256)
    said = {}
    for i, name in enumerate(BASE["encoders"]):
        switches = dict(skip=BASE["skip"][i], final_norm=BASE["final_norm"][i])
        net = clip.TextEncoder(clip.ENCODERS[name], **switches)
        said[name] = helpers.apply(net, params[name], BATCH["tokens"])
    first, second = said.values()
    np.testing.assert_allclose(context[..., :32], first[0], atol=1e-5)
    np.testing.assert_allclose(context[..., 32:], second[0], atol=1e-5)
    np.testing.assert_allclose(vector[:, :16], second[1], atol=1e-5)


def test_the_numbers_join_as_sinusoids(params, plain):
    """Each number apart: 128 cosines, then as many sines."""
    _, vector = plain
    frequencies = 10_000.0 ** (-np.arange(128) / 128)
    angles = np.float64(SIZES)[..., None] * frequencies
    want = np.concatenate([np.cos(angles), np.sin(angles)], -1)
    np.testing.assert_allclose(vector[:, 16:], want.reshape(2, -1), atol=1e-3)

    other = {**BATCH, "micro": SIZES + np.float32([[0, 0, 64, 0, 0, 0]])}
    context, moved = apply(params, other)
    np.testing.assert_array_equal(context, plain[0])
    changed = np.flatnonzero(np.abs(moved - vector).max(0) > 1e-4)
    assert changed.min() >= 16 + 2 * 256 and changed.max() < 16 + 3 * 256


def test_without_numbers_the_vector_is_the_pooled_text(params, plain):
    assert set(make(micro=()).inputs) == {"tokens"}
    _, vector = apply(params, {"tokens": BATCH["tokens"]}, micro=())
    np.testing.assert_allclose(vector, plain[1][:, :16], atol=1e-5)
    refiner = ("original_size", "crop", "aesthetic")
    assert make(micro=refiner).inputs["micro"] == ((5,), "float32")


def test_pooled_is_a_switch(params, plain):
    context, vector = apply(params, BATCH, pooled=False, micro=())
    assert vector is None
    np.testing.assert_allclose(context, plain[0], atol=1e-5)


def test_a_long_text_is_two_encoded_apart(params, plain):
    first, second = rows(75, 75), rows(3, 0, seed=1)
    long = {**BATCH, "tokens": np.concatenate([first, second], 1)}
    context, vector = apply(params, long, length=154)
    parts = [apply(params, {**BATCH, "tokens": half}) for half in (first, second)]
    want = np.concatenate([context for context, _ in parts], 1)
    np.testing.assert_allclose(context, want, atol=1e-5)
    np.testing.assert_allclose(vector, parts[0][1], atol=1e-5)
    assert make(length=154).inputs["tokens"] == ((154,), "int32")


def factors(*changes):
    found = np.ones((2, 77), np.float32)
    for row, place, factor in changes:
        found[row, place] = factor
    return found


def test_no_emphasis_changes_nothing(params, plain):
    context = jnp.asarray(plain[0])
    found = jax.jit(conditioners.emphasised)(context, factors())
    np.testing.assert_array_equal(found, context)
    context, vector = apply(params, {**BATCH, "emphasis": factors()})
    np.testing.assert_allclose(context, plain[0], atol=1e-6)
    np.testing.assert_array_equal(vector, plain[1])


def test_emphasis_is_of_its_row_and_keeps_the_mean(params, plain):
    """Of each encoder alone, as the web UIs do."""
    told = factors((0, 2, 1.3), (0, 4, 0.5))
    context, vector = apply(params, {**BATCH, "emphasis": told})
    np.testing.assert_allclose(context[1], plain[0][1], atol=1e-6)
    np.testing.assert_array_equal(vector, plain[1])
    for part in (slice(None, 32), slice(32, None)):
        before = np.float64(plain[0][0, :, part])
        louder = before * told[0][:, None]
        want = louder * before.mean() / louder.mean()
        np.testing.assert_allclose(context[0, :, part], want, rtol=1e-2, atol=1e-3)
        assert context[0, :, part].mean() == pytest.approx(before.mean(), rel=1e-3)
        assert np.abs(want - before).max() > 0.1


def test_emphasis_of_a_long_text_is_of_its_own_chunk(params):
    first, second = rows(75, 75), rows(3, 4, seed=1)
    tokens = np.concatenate([first, second], 1)
    told = np.concatenate([factors((0, 9, 1.5)), factors()], 1)
    plain, _ = apply(params, {**BATCH, "tokens": tokens}, length=154)
    batch = {**BATCH, "tokens": tokens, "emphasis": told}
    context, _ = apply(params, batch, length=154)
    np.testing.assert_allclose(context[:, 77:], plain[:, 77:], atol=1e-6)
    np.testing.assert_allclose(context[1], plain[1], atol=1e-6)
    assert np.abs(context[0, :77] - plain[0, :77]).max() > 0.1


def test_a_null_of_no_tokens_is_zeros(params, plain):
    """SDXL's: the texts say nothing, the sizes what they say of the picture."""
    null = make().null({**BATCH, "emphasis": factors((0, 2, 1.3))})
    assert np.all(null["tokens"] == -1) and np.all(null["emphasis"] == 1)
    context, vector = apply(params, null)
    assert np.all(context == 0) and np.all(vector[:, :16] == 0)
    np.testing.assert_array_equal(vector[:, 16:], plain[1][:, 16:])


def test_one_row_may_say_nothing(params, plain):
    tokens = BATCH["tokens"].copy()
    tokens[0] = -1
    context, vector = apply(params, {**BATCH, "tokens": tokens})
    assert np.all(context[0] == 0) and np.all(vector[0, :16] == 0)
    np.testing.assert_allclose(context[1], plain[0][1], atol=1e-6)


@pytest.mark.parametrize("length", [77, 154])
def test_a_null_of_tokens_is_the_empty_text(length):
    null = make(null_tokens=(clip.START, clip.END), length=length).null
    tokens = np.tile(BATCH["tokens"], length // 77)
    want = np.tile(rows(0, 0), length // 77)
    np.testing.assert_array_equal(null({"tokens": tokens})["tokens"], want)


def test_a_negative_prompt_takes_the_place_of_the_null():
    given = {
        "negative_tokens": rows(3, 3, seed=2),
        "negative_micro": SIZES + 1,
        "negative_emphasis": factors((1, 2, 0.7)),
    }
    batch = {**BATCH, "emphasis": factors((0, 2, 1.3)), **given}
    null = make().null(batch)
    for name in ("tokens", "micro", "emphasis"):
        np.testing.assert_array_equal(null[name], given[f"negative_{name}"])
    assert set(null) == set(batch)


def test_what_does_not_fit_is_told():
    alone = dict(skip=(0,), final_norm=(True,), micro=())
    with pytest.raises(ValueError, match="pooled: 'clip_tiny' has no pooled text"):
        make(encoders=("clip_tiny",), **alone)
    with pytest.raises(ValueError, match="did you mean 'openclip_tiny'"):
        make(encoders=("openclip_tny",), **alone)
    short = "cond_stage.skip 2 must be less than the depth of 'clip_tiny', .* 2 blocks"
    with pytest.raises(ValueError, match=short):
        make(skip=(2, 0))
    with pytest.raises(ValueError, match="did you mean 'crop'"):
        make(micro=("crops",))


def test_a_class_is_one_token_and_the_last_one_is_the_null():
    kind = conditioners.label(classes=5, width=8)
    params = helpers.random_params(jax.eval_shape(kind.init, jax.random.key(0)))
    table = np.asarray(params["classes"]["embedding"])
    assert table.shape == (5, 8)
    batch = {"label": np.array([3, 0], np.int32)}
    cond = kind.apply(params, batch)
    np.testing.assert_array_equal(cond.context, table[[3, 0]][:, None])
    assert cond.vector is None and cond.concat is None
    null = kind.apply(params, kind.null(batch))
    np.testing.assert_array_equal(null.context, table[[4, 4]][:, None])
    assert kind.inputs == {"label": ((), "int32")}


def test_a_map_is_the_share_of_each_class_in_each_square():
    kind = conditioners.segmentation(classes=5, width=3, stages=2, image_size=16)
    assert kind.inputs == {"segmentation": ((16, 16), "uint8")} and kind.null is None
    params = helpers.random_params(jax.eval_shape(kind.init, jax.random.key(0)))
    assert set(params["channel_mapper"]) == {"kernel"}
    matrix = np.asarray(params["channel_mapper"]["kernel"], np.float64)
    told = np.random.default_rng(0).integers(0, 5, (2, 16, 16)).astype(np.uint8)
    found = kind.apply(params, {"segmentation": told}).concat
    assert found.shape == (2, 4, 4, 3)
    for b, y, x in np.ndindex(2, 4, 4):
        square = told[b, 4 * y : 4 * y + 4, 4 * x : 4 * x + 4]
        share = np.bincount(square.ravel(), minlength=5) / 16
        np.testing.assert_allclose(found[b, y, x], share @ matrix, atol=1e-5)


def test_a_small_picture_joins_as_its_pixels():
    kind = conditioners.low_res(stages=2, image_size=16)
    assert kind.inputs == {"low_res": ((4, 4, 3), "uint8")} and kind.null is None
    x = np.random.default_rng(0).integers(0, 256, (2, 4, 4, 3)).astype(np.uint8)
    cond = kind.apply({}, {"low_res": x})
    np.testing.assert_allclose(cond.concat, x / 127.5 - 1, atol=1e-6)
    assert cond.context is None and cond.vector is None


def test_no_condition_says_nothing():
    kind = conditioners.none()
    assert kind.init(None) == {} and kind.inputs == {} and kind.null is None
    assert jax.tree.leaves(kind.apply({}, {})) == []
