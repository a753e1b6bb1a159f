import helpers
import jax
from jax import lax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax import sharding
from ldm_jax.models import quantize

BETA = 0.25
CODES, WIDTH = 7, 3


@pytest.fixture(scope="module")
def table():
    return helpers.normal(0, CODES, WIDTH)


@pytest.fixture(scope="module")
def z():
    return helpers.normal(1, 2, 3, 5, WIDTH)


def brute_force(table, z):
    gaps = np.float64(z)[..., None, :] - np.float64(table)
    return np.argmin(np.sum(gaps**2, axis=-1), axis=-1)


@pytest.mark.parametrize("chunk", [4, 15, 1024])  # of the 15 pixels 3 are left over
def test_the_nearest_vector_is_that_of_a_search(table, z, chunk, monkeypatch):
    monkeypatch.setattr(quantize, "CHUNK", chunk)
    found = quantize.nearest(table, z)
    assert found.dtype == jnp.int32
    np.testing.assert_array_equal(found, brute_force(table, z))
    assert len(np.unique(found)) > CODES // 2
    # Lengths count: next to a short vector a long one has the larger product.
    pair = jnp.array([[0.5, 0, 0], [5.0, 0, 0]])
    assert quantize.nearest(pair, jnp.ones((1, 1, 1, 3))).item() == 0


def test_the_codebook_gives_rows_of_its_table(table, z):
    net, params = quantize.Codebook(CODES, WIDTH), {"codes": {"embedding": table}}
    indices = helpers.apply(net, params, z, method="indices")
    np.testing.assert_array_equal(indices, brute_force(table, z))
    rows = helpers.apply(net, params, z)
    np.testing.assert_array_equal(rows, table[indices])
    back = helpers.apply(net, params, indices, method="lookup")
    np.testing.assert_array_equal(back, rows)


def test_vectors_start_between_minus_and_plus_one_by_their_number():
    net = quantize.Codebook(50, 40)
    codes = helpers.fresh_params(net, jnp.zeros((1, 1, 1, 40)))["codes"]["embedding"]
    scaled = 50 * np.float64(codes)
    assert scaled.shape == (50, 40)
    assert -1 <= scaled.min() < -0.99 and 0.99 < scaled.max() <= 1.0001
    assert abs(scaled.mean()) < 0.05
    assert scaled.std() == pytest.approx(3**-0.5, rel=0.05)  # uniform


def test_gradients_go_straight_through(table, z):
    def loss(z, table):
        picked = table[quantize.nearest(table, z)]
        passed = quantize.straight_through(z, picked)
        return jnp.sum(passed**3), (passed, picked)

    slopes, (passed, picked) = jax.grad(loss, (0, 1), has_aux=True)(z, table)
    np.testing.assert_allclose(passed, picked, atol=1e-6)
    np.testing.assert_allclose(slopes[0], 3 * picked**2, rtol=1e-4, atol=1e-5)
    assert not np.any(slopes[1])


def of_the_originals(z, z_q, legacy):
    """VectorQuantizer2.forward of taming-transformers, line by line."""
    still = lax.stop_gradient
    if not legacy:
        return BETA * jnp.mean((still(z_q) - z) ** 2) + jnp.mean((z_q - still(z)) ** 2)
    return jnp.mean((still(z_q) - z) ** 2) + BETA * jnp.mean((z_q - still(z)) ** 2)


@pytest.mark.parametrize("legacy", [False, True])
def test_the_codebook_loss_pulls_from_both_sides(table, z, legacy):
    """By hand: 2 (a - b) over the count; beta weights the encoder, or the codebook."""
    indices = quantize.nearest(table, z)
    ours = lambda z, table: jnp.mean(
        quantize.loss(z, table[indices], BETA, legacy=legacy)
    )
    theirs = lambda z, table: of_the_originals(z, table[indices], legacy)
    value, (to_z, to_table) = jax.value_and_grad(ours, (0, 1))(z, table)

    gaps = np.float64(z) - np.float64(table)[indices]
    on_z, on_table = (1, BETA) if legacy else (BETA, 1)
    assert float(value) == pytest.approx((1 + BETA) * np.mean(gaps**2), rel=1e-5)
    np.testing.assert_allclose(to_z, on_z * 2 * gaps / z.size, atol=1e-7)
    rows = np.zeros((CODES, WIDTH))
    np.add.at(rows, np.asarray(indices).ravel(), -gaps.reshape(-1, WIDTH))
    np.testing.assert_allclose(to_table, on_table * 2 * rows / z.size, atol=1e-7)

    wanted = jax.value_and_grad(theirs, (0, 1))(z, table)
    assert helpers.largest_difference((value, (to_z, to_table)), wanted) < 1e-6


def test_the_codebook_loss_belongs_to_pictures(table, z):
    picked = table[quantize.nearest(table, z)]
    found = quantize.loss(z, picked, BETA, False)
    gaps = np.float64(z) - np.float64(picked)
    np.testing.assert_allclose(
        found, (1 + BETA) * np.mean(gaps**2, axis=(1, 2, 3)), rtol=1e-5
    )
    np.testing.assert_array_equal(found, quantize.loss(z, picked, BETA, True))


@pytest.mark.parametrize(
    ("chosen", "usage", "perplexity"),
    [
        ([2, 2, 2, 2], 1 / 4, 1),
        ([3, 1, 0, 2], 1, 4),
        ([0, 0, 1, 3], 3 / 4, 2**1.5),  # 1/2 log 2 + 2/4 log 4
    ],
)
def test_statistics_by_hand(chosen, usage, perplexity):
    indices = jnp.array(chosen, jnp.int32).reshape(2, 1, 2)
    found = quantize.statistics(indices, 4)
    assert float(found["usage"]) == usage
    assert float(found["perplexity"]) == pytest.approx(perplexity, rel=1e-6)


def watched(last_used, spare=0.0):
    size = len(last_used)
    return {
        "last_used": jnp.array(last_used, jnp.int32),
        "spare": jnp.full((size, WIDTH), spare),
    }


def test_a_batch_is_remembered(z):
    """What it chose was used at this step; spare vectors are pixels of it."""
    indices = jnp.zeros((2, 3, 5), jnp.int32).at[1, 2, 4].set(2)
    rng = jax.random.key(3)
    found = quantize.watch(watched([1, 2, 3, 4]), indices, z, jnp.int32(9), rng)
    np.testing.assert_array_equal(found["last_used"], [9, 2, 9, 4])
    assert found["last_used"].dtype == jnp.int32
    pixels = {row.tobytes() for row in np.asarray(z).reshape(-1, WIDTH)}
    spare = [row.tobytes() for row in np.asarray(found["spare"])]
    assert len(spare) == 4 and set(spare) <= pixels and len(set(spare)) > 1

    again = quantize.watch(watched([1, 2, 3, 4]), indices, z, jnp.int32(9), rng)
    assert helpers.largest_difference(found, again) == 0
    other = jax.random.key(4)
    other = quantize.watch(watched([1, 2, 3, 4]), indices, z, jnp.int32(9), other)
    assert helpers.largest_difference(found["spare"], other["spare"]) > 0


def test_codes_start_anew_after_so_many_steps_without_use(table):
    """Of the steps 5 to 8 the code of 4 was in none: that is four, of 5 three."""
    last_used = [8, 5, 4, 7, 3, 8, 8]
    spare = helpers.normal(2, CODES, WIDTH)
    before = {**watched(last_used), "spare": spare}
    told = [table, 2 * table], before, jnp.int32(8), 4
    (first, average), after = quantize.restart(*told)
    dead = np.array([False, False, True, False, True, False, False])
    for found, old in ((first, table), (average, 2 * table)):
        np.testing.assert_array_equal(found[dead], spare[dead])
        np.testing.assert_array_equal(found[~dead], old[~dead])
    np.testing.assert_array_equal(after["last_used"], [8, 5, 8, 7, 8, 8, 8])
    np.testing.assert_array_equal(after["spare"], spare)
    # The clock starts anew too: in the next three steps none of the two is dead.
    _, later = quantize.restart([table], after, jnp.int32(11), 4)
    np.testing.assert_array_equal(later["last_used"], [8, 11, 8, 11, 8, 8, 8])


def test_four_devices_choose_and_restart_as_one_does(table):
    z = helpers.normal(4, 8, 3, 5, WIDTH)

    @jax.jit
    def step(table, z):
        indices = quantize.nearest(table, z)
        picked = table[indices]
        told = quantize.statistics(indices, CODES)
        told["loss"] = quantize.loss(z, picked, BETA, False)
        old = watched([0, 1, 2, 3, 4, 5, -90])
        seen = quantize.watch(old, indices, z, jnp.int32(9), jax.random.key(0))
        return indices, told, seen, quantize.restart([table], seen, jnp.int32(9), 9)

    # The last code is far away from every pixel, so that it starts anew.
    table = table.at[-1].set(100.0)
    alone = step(table, z)
    mesh = sharding.make_mesh()
    assert mesh.size == 4
    spread = step(
        jax.device_put(table, sharding.replicated(mesh)),
        jax.device_put(z, sharding.batch_sharding(mesh)),
    )
    assert helpers.largest_difference(alone[0], spread[0]) == 0
    assert helpers.largest_difference(alone[1], spread[1]) < 1e-6
    assert helpers.largest_difference(alone[2:], spread[2:]) == 0
    assert np.abs(alone[3][0][0][-1]).max() < 50
