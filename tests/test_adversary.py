"""The discriminator's side alone, on pictures that are given."""

import types

import helpers
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax import adversary as adversary_lib
from ldm_jax import config
from ldm_jax.models import discriminator

START = 4
DISC = {"channels": 4, "depth": 2, "norm": "batch"}


def section(**changes):
    loss = config.autoencoder().loss
    loss.update(disc_start=START, disc_weight=0.6, **changes)
    return loss


@pytest.fixture(scope="module")
def given():
    """What a move is told: pictures, their reconstructions and the slope there."""
    adversary = adversary_lib.make(DISC, section())
    x = jnp.clip(helpers.normal(0, 2, 32, 32, 3), -1, 1)
    shapes = jax.eval_shape(adversary.init, jax.random.key(0), x)
    return types.SimpleNamespace(
        params=helpers.random_params(shapes),
        x=x,
        x_hat=jnp.clip(helpers.normal(1, 2, 32, 32, 3), -1, 1),
        slope=helpers.normal(2, 2, 32, 32, 3, scale=1e-3),
        stats=adversary.init_extra()["batch_stats"],
    )


def last_kernel(slope):
    """A decoder whose last kernel moves pixels by these numbers."""
    return jnp.mean(slope, axis=0) * jnp.linspace(0.5, 2.0, 32)[:, None, None]


@pytest.fixture(scope="module")
def play(given):
    """(extra, **knobs) -> step -> what a move gives, compiled once for both."""

    def of(extra=None, **changes):
        adversary = adversary_lib.make(DISC, section(**changes))
        start = adversary.init_extra() if extra is None else extra
        start = {**start, "kept": jnp.float32(3)}

        @jax.jit
        def run(step):
            told = given.x, given.x_hat, given.slope, last_kernel
            return adversary.play(given.params, start, step, *told)

        return lambda step: run(jnp.int32(step))

    return of


@pytest.fixture(scope="module")
def plain(play):
    return play()


def judged(given, params, x):
    """Logits, by the network itself."""
    net = discriminator.PatchDiscriminator(**DISC)
    held = {"params": params, "batch_stats": given.stats}
    return net.apply(held, x, mutable=["batch_stats"])[0]


def test_the_generators_move_written_out(given, plain):
    term, slope, _, _, told = plain(START)
    trained = given.params["discriminator"]
    loss = lambda x_hat: -jnp.mean(judged(given, trained, x_hat))
    gan, gan_slope = jax.jit(jax.value_and_grad(loss))(given.x_hat)
    norms = [jnp.linalg.norm(last_kernel(s)) for s in (given.slope, gan_slope)]
    assert float(told["rec_norm"]) == pytest.approx(float(norms[0]), rel=1e-4)
    assert float(told["gan_norm"]) == pytest.approx(float(norms[1]), rel=1e-3)
    weight = 0.6 * float(norms[0]) / (float(norms[1]) + 1e-4)
    assert 0.01 < weight < 1e3
    assert float(told["gan_weight"]) == pytest.approx(weight, rel=1e-3)
    assert float(told["gan"]) == pytest.approx(float(gan), rel=1e-3)
    assert float(term) == pytest.approx(weight * float(gan), rel=1e-3)
    largest = weight * np.abs(gan_slope).max()
    np.testing.assert_allclose(slope, weight * gan_slope, atol=1e-3 * largest)


@pytest.mark.parametrize("kind", ["hinge", "vanilla"])
def test_the_discriminators_move_written_out(given, play, kind):
    def loss(params):
        real, fake = (judged(given, params, x) for x in (given.x, given.x_hat))
        if kind == "hinge":
            sides = jnp.maximum(0, 1 - real), jnp.maximum(0, 1 + fake)
        else:
            sides = jnp.log1p(jnp.exp(-real)), jnp.log1p(jnp.exp(fake))
        return 0.5 * (jnp.mean(sides[0]) + jnp.mean(sides[1]))

    value, slopes = jax.jit(jax.value_and_grad(loss))(given.params["discriminator"])
    _, _, grads, _, told = play(disc_loss=kind)(START)
    assert float(told["disc_loss"]) == pytest.approx(float(value), rel=1e-4)
    largest = max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(slopes))
    assert helpers.largest_difference(grads, slopes) < 1e-3 * largest


def test_an_unknown_loss_is_named():
    with pytest.raises(ValueError, match="'hing' is not one of hinge, vanilla"):
        adversary_lib.make(DISC, section(disc_loss="hing"))


def test_nothing_moves_before_the_start(plain):
    term, slope, grads, extra, told = plain(START - 1)
    assert float(term) == 0 and not np.any(slope)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(grads))
    assert float(told["gan_weight"]) == float(told["disc_loss"]) == 0
    # What is told of the other numbers says how it would be.
    after = plain(START)
    for name in ("gan", "rec_norm", "gan_norm"):
        assert float(told[name]) == float(after[-1][name]) != 0
    assert float(extra["kept"]) == float(after[3]["kept"]) == 3
    assert all(np.any(leaf) for leaf in jax.tree.leaves(after[2]))


def test_the_weight_rises_in_the_warm_up(play, plain):
    run, whole = play(disc_warmup=4), plain(START)
    for step, share in ((START - 1, 0), (START, 0.25), (START + 2, 0.75)):
        told = run(step)
        wanted = share * float(whole[-1]["gan_weight"])
        assert float(told[-1]["gan_weight"]) == pytest.approx(wanted, rel=1e-5)
        assert float(told[0]) == pytest.approx(share * float(whole[0]), rel=1e-5)
        gap = helpers.largest_difference(told[1], share * whole[1])
        assert gap <= 1e-5 * np.abs(whole[1]).max()
    for step in (START + 3, START + 4, START + 1000):
        found = run(step)[-1]["gan_weight"]
        assert float(found) == pytest.approx(float(whole[-1]["gan_weight"]), rel=1e-5)
    # The discriminator has no warm-up.
    gap = helpers.largest_difference(run(START)[2], whole[2])
    assert gap <= 1e-5 * max(np.abs(g).max() for g in jax.tree.leaves(whole[2]))


def assert_generator_is_the_same(found, wanted):
    """To the last bit: the term, its slope, the weight and both norms."""
    assert helpers.largest_difference(found[:2], wanted[:2]) == 0
    for name in ("gan", "gan_weight", "rec_norm", "gan_norm"):
        assert float(found[-1][name]) == float(wanted[-1][name])


def assert_adds(found, plain, extra_slopes):
    """The discriminator's gradients are the plain ones and these, and differ."""
    wanted = jax.tree.map(jnp.add, plain[2], extra_slopes)
    largest = max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(wanted))
    assert helpers.largest_difference(found[2], wanted) < 1e-3 * largest
    assert helpers.largest_difference(found[2], plain[2]) > 1e-2 * largest


def test_r1_is_the_discriminators_alone(given, play, plain):
    def penalty(params):
        slope = jax.grad(lambda x: jnp.sum(judged(given, params, x)))(given.x)
        return 0.5 * 5.0 * jnp.sum(slope**2) / len(given.x)

    value, slopes = jax.jit(jax.value_and_grad(penalty))(given.params["discriminator"])
    run = play(r1_weight=5.0)
    found, wanted = run(START), plain(START)
    assert_generator_is_the_same(found, wanted)
    assert_adds(found, wanted, slopes)
    total = float(wanted[-1]["disc_loss"]) + float(value)
    assert float(found[-1]["disc_loss"]) == pytest.approx(total, rel=1e-4)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(run(START - 1)[2]))


def test_lecam_is_the_discriminators_alone(given, play, plain):
    means = {"real": 0.4, "fake": -0.3}

    def penalty(params):
        real, fake = (judged(given, params, x) for x in (given.x, given.x_hat))
        above, below = jax.nn.relu(real + 0.3) ** 2, jax.nn.relu(0.4 - fake) ** 2
        return 0.7 * (jnp.mean(above) + jnp.mean(below)), (real, fake)

    (value, logits), slopes = jax.jit(jax.value_and_grad(penalty, has_aux=True))(
        given.params["discriminator"]
    )
    extra = {"batch_stats": given.stats, "lecam": jax.tree.map(jnp.float32, means)}
    run = play(extra, lecam_weight=0.7)
    found, wanted = run(START), plain(START)
    assert_generator_is_the_same(found, wanted)
    assert_adds(found, wanted, slopes)
    total = float(wanted[-1]["disc_loss"]) + float(value)
    assert float(found[-1]["disc_loss"]) == pytest.approx(total, rel=1e-4)

    now = dict(zip(("real", "fake"), logits, strict=True))
    before = run(START - 1)[3]["lecam"]
    for name, old in means.items():
        assert float(before[name]) == np.float32(old)
        new = 0.99 * old + 0.01 * float(jnp.mean(now[name]))
        assert float(found[3]["lecam"][name]) == pytest.approx(new, rel=1e-5)


def test_means_of_logits_start_at_zero_and_only_where_they_are_used(plain, play):
    assert "lecam" not in plain(START)[3]
    adversary = adversary_lib.make(DISC, section(lecam_weight=0.1))
    assert adversary.init_extra()["lecam"] == {"real": 0, "fake": 0}


def test_a_weight_of_0_leaves_both_at_rest(given):
    loss = section()
    loss.update(disc_weight=0.0)
    adversary = adversary_lib.make(DISC, loss)
    extra = adversary.init_extra()
    told = given.x, given.x_hat, given.slope, last_kernel
    term, slope, grads, after, metrics = adversary.play(
        given.params, extra, jnp.int32(START), *told
    )
    assert float(term) == 0 and not np.any(slope) and metrics == {}
    assert jax.tree.structure(grads) == jax.tree.structure(
        given.params["discriminator"]
    )
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(grads))
    assert helpers.largest_difference(extra, after) == 0


def test_the_first_means_begin_at_zero(given, play):
    found = play(lecam_weight=0.7)(START)
    trained = given.params["discriminator"]
    real, fake = (judged(given, trained, x) for x in (given.x, given.x_hat))
    wanted = {"real": 0.01 * jnp.mean(real), "fake": 0.01 * jnp.mean(fake)}
    gap = helpers.largest_difference(found[3]["lecam"], wanted)
    assert gap < 1e-5
