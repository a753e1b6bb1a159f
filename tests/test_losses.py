import helpers
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax import denoise, losses
from ldm_jax import schedule as schedule_lib

SHAPE = (3, 2, 2, 2)
KINDS = ["eps", "v", "z_0"]


@pytest.fixture(scope="module")
def schedule():
    return schedule_lib.linear(10, 0.01, 0.3)


@pytest.fixture(scope="module")
def drawn():
    """z_0, eps and t."""
    t = jnp.array([1, 4, 9])
    return helpers.normal(0, *SHAPE), helpers.normal(1, *SHAPE), t


def exact(schedule, z_0, eps, t):
    """What a network would say that knows everything."""
    return lambda z_t: denoise.Pred(z_0, eps)


def offset(schedule, eps, t, by):
    """A network whose eps is wrong by a constant, and whose z_0 follows from it."""

    def predict(z_t):
        said = eps + by
        return denoise.Pred(*schedule_lib.solve(schedule, "eps", said, z_t, t))

    return predict


@pytest.mark.parametrize("predicts", KINDS)
@pytest.mark.parametrize("norm", ["l1", "l2"])
def test_the_exact_answer_costs_nothing(schedule, drawn, predicts, norm):
    z_0, eps, t = drawn
    predict = exact(schedule, z_0, eps, t)
    loss, _ = losses.diffusion(
        predict, schedule, z_0, t, eps, predicts=predicts, norm=norm
    )
    assert loss.shape == (3,) and loss.dtype == jnp.float32
    np.testing.assert_allclose(loss, np.zeros(3), atol=1e-7)


@pytest.mark.parametrize("norm", ["l1", "l2"])
@pytest.mark.parametrize("predicts", KINDS)
def test_an_error_of_eps_costs_by_kind_and_norm(schedule, drawn, predicts, norm):
    """An error e of eps is -e sqrt(1 - a) / sqrt(a) of z_0 and e / sqrt(a) of v."""
    z_0, eps, t = drawn
    loss, _ = losses.diffusion(
        offset(schedule, eps, t, 0.3),
        schedule,
        z_0,
        t,
        eps,
        predicts=predicts,
        norm=norm,
    )
    share = schedule.alpha_bar[np.asarray(t)]
    factor = {"eps": 1, "v": share**-0.5, "z_0": ((1 - share) / share) ** 0.5}
    error = 0.3 * factor[predicts] * np.ones(3)
    np.testing.assert_allclose(loss, error if norm == "l1" else error**2, rtol=1e-4)


def test_the_network_is_shown_the_noised_latent(schedule, drawn):
    z_0, eps, t = drawn
    seen = []

    def predict(z_t):
        seen.append(z_t)
        return denoise.Pred(z_0, eps)

    losses.diffusion(predict, schedule, z_0, t, eps, predicts="eps", norm="l2")
    share = schedule.alpha_bar[np.asarray(t)][:, None, None, None]
    wanted = np.sqrt(share) * z_0 + np.sqrt(1 - share) * eps
    np.testing.assert_allclose(seen[0], wanted, atol=1e-6)


def test_an_unknown_norm_is_named(schedule, drawn):
    z_0, eps, t = drawn
    predict = exact(schedule, z_0, eps, t)
    with pytest.raises(ValueError, match="'l3' is not one of l1, l2"):
        losses.diffusion(predict, schedule, z_0, t, eps, predicts="eps", norm="l3")


def gaussian_kl(mean, variance, other_mean, other_variance):
    ratio = variance / other_variance
    distance = (mean - other_mean) ** 2 / other_variance
    return 0.5 * (ratio + distance - 1 - np.log(ratio))


def test_the_bound_is_a_sum_of_kl_divergences(schedule):
    """One value z_0 and a network that says eps + 0.3, over all ten steps.

    The mean over t of the bound is then the sum of KL(q(z_{t-1} | z_t, z_0) || p),
    the first one standing in twice, plus the prior's, in bits.
    """
    value, by = 0.7, 0.3
    betas, share = schedule.betas, schedule.alpha_bar
    before = np.append(1.0, share[:-1])
    terms = np.zeros(10)
    for t in range(1, 10):
        variance = betas[t] * (1 - before[t]) / (1 - share[t])
        # p's mean differs from q's by what the error of eps moves it.
        moved = by * betas[t] / np.sqrt((1 - share[t]) * (1 - betas[t]))
        terms[t] = gaussian_kl(0.0, variance, moved, variance)
    terms[0] = terms[1]
    mean = np.sqrt(share[-1]) * value
    prior = gaussian_kl(mean, 1 - share[-1], 0.0, 1.0)
    wanted = (terms.sum() + prior) / np.log(2)

    t = jnp.arange(10)
    z_0 = jnp.full((10, 2, 2, 1), value)
    eps = helpers.normal(0, *z_0.shape)
    predict = offset(schedule, eps, t, by)
    _, bound = losses.diffusion(
        predict, schedule, z_0, t, eps, predicts="eps", norm="l2"
    )
    assert bound.shape == (10,)
    np.testing.assert_allclose(np.mean(bound), wanted, rtol=1e-4)
    each = (10 * terms + prior) / np.log(2)
    np.testing.assert_allclose(bound, each, rtol=1e-4)


REAL = jnp.array([2.0, 0.5, -1.0, 1.0]).reshape(2, 2, 1, 1)
FAKE = jnp.array([-3.0, -0.5, 0.0, 2.0]).reshape(2, 2, 1, 1)


def test_hinges_by_hand():
    # max(0, 1 - real) = 0, 0.5, 2, 0; max(0, 1 + fake) = 0, 0.5, 1, 3
    wanted = 0.5 * (2.5 / 4 + 4.5 / 4)
    assert float(losses.hinge(REAL, FAKE)) == pytest.approx(wanted)
    assert float(losses.generator(FAKE)) == pytest.approx(1.5 / 4)
    right, wrong = jnp.full((1, 2, 2, 1), 1.5), jnp.full((1, 2, 2, 1), -1.5)
    assert float(losses.hinge(right, wrong)) == 0


def test_cross_entropies_by_hand():
    """-log of the probability of being right, which is a sigmoid of the logit."""
    right = lambda logits: 1 / (1 + np.exp(-np.float64(logits)))
    real, fake = right(REAL), 1 - right(FAKE)
    wanted = -0.5 * (np.mean(np.log(real)) + np.mean(np.log(fake)))
    assert float(losses.vanilla(REAL, FAKE)) == pytest.approx(wanted, rel=1e-6)
    undecided = float(losses.vanilla(0 * REAL, 0 * FAKE))
    assert undecided == pytest.approx(np.log(2))
    assert {"hinge": losses.hinge, "vanilla": losses.vanilla} == losses.DISCRIMINATOR


def test_the_gradient_penalty_by_hand():
    """Logits of slope 2x and 3 in each pixel: half the sum of squares of a picture."""
    x = helpers.normal(0, 2, 3, 3, 3)
    judge = lambda x: jnp.stack([jnp.sum(x**2, axis=(1, 2, 3)), 3 * x[:, 0, 0, 0]])
    slope = 2 * np.float64(x)
    slope[:, 0, 0, 0] += 3
    wanted = 0.5 * np.mean(np.sum(slope**2, axis=(1, 2, 3)))
    assert float(losses.r1(judge, x)) == pytest.approx(wanted, rel=1e-5)


def test_lecam_by_hand():
    """What lies above the other side's mean counts: of the real ones, and below."""
    averages = {"real": jnp.float32(0.75), "fake": jnp.float32(-0.5)}
    # real - (-0.5) = 2.5, 1, -0.5, 1.5; 0.75 - fake = 3.75, 1.25, 0.75, -1.25
    wanted = (2.5**2 + 1 + 1.5**2) / 4 + (3.75**2 + 1.25**2 + 0.75**2) / 4
    assert float(losses.lecam(REAL, FAKE, averages)) == pytest.approx(wanted)


def test_the_adaptive_weight_is_a_ratio_of_norms_with_a_limit():
    rec, gan = jnp.array([[3.0, 4.0]]), jnp.array([[0.0, 2.0]])
    weight, *norms = losses.adaptive_weight(rec, gan)
    assert float(weight) == pytest.approx(5 / 2.0001)
    assert [float(norm) for norm in norms] == [5, 2]
    limit, *norms = losses.adaptive_weight(rec, 0 * gan)
    assert float(limit) == 1e4 and float(norms[0]) == 5  # which have none
    assert float(losses.adaptive_weight(0 * rec, gan)[0]) == 0
    small = losses.adaptive_weight(rec * 1e-5, 0 * gan)[0]
    assert float(small) == pytest.approx(5e-5 / 1e-4, rel=1e-4)


def test_the_adaptive_weight_is_a_constant():
    rec, gan = jnp.array([3.0, 4.0]), jnp.array([1.0, 2.0])
    total = lambda *told: sum(losses.adaptive_weight(*told))
    slopes = jax.grad(total, (0, 1))(rec, gan)
    assert helpers.largest_difference(slopes, (0 * rec, 0 * gan)) == 0


def test_purposes_draw_different_noise():
    keys = jax.random.split(jax.random.key(0), 2)
    purposes = ("encode", "t", "eps", "drop", "dropout", "restart")
    drawn = [np.asarray(losses.normal(losses.split(keys, p), (4,))) for p in purposes]
    assert len({x.tobytes() for x in drawn}) == len(purposes)
    assert drawn[0].shape == (2, 4) and np.any(drawn[0][0] != drawn[0][1])
    one = losses.normal(losses.split(keys[1:], "eps"), (4,))
    np.testing.assert_array_equal(one[0], drawn[2][1])


@pytest.mark.parametrize("predicts", KINDS)
def test_min_snr_weighs_the_loss_and_leaves_the_bound(schedule, drawn, predicts):
    z_0, eps, t = drawn
    told = dict(predicts=predicts, norm="l2")
    args = offset(schedule, eps, t, 0.3), schedule, z_0, t, eps
    plain, bound = losses.diffusion(*args, **told)
    loss, same = losses.diffusion(*args, **told, min_snr=5.0)
    weights = schedule_lib.min_snr(schedule, predicts, 5.0, t)
    np.testing.assert_allclose(loss, plain * weights, rtol=1e-6)
    assert np.all(weights > 0) and np.any(abs(weights - 1) > 0.1)
    np.testing.assert_array_equal(bound, same)


def test_no_bound_where_the_last_step_has_no_signal(drawn):
    z_0, eps, t = drawn
    ended = schedule_lib.linear(10, 0.01, 0.3, zero_terminal=True)
    predict = exact(ended, z_0, eps, t)
    loss, bound = losses.diffusion(predict, ended, z_0, t, eps, predicts="v", norm="l2")
    assert bound is None and np.all(np.isfinite(loss))
