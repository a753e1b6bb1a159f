import dataclasses

import helpers
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax import config, losses, system
from ldm_jax.models import autoencoder, discriminator, perceptual

OFF, ON = 1, 2  # tiny_autoencoder_config: disc_start is 2


@dataclasses.dataclass(frozen=True)
class Rig:
    config: object
    system: system.System
    params: dict
    frozen: dict
    extra: dict
    keys: jax.Array
    batch: dict


@pytest.fixture(scope="module")
def rig():
    c = helpers.tiny_autoencoder_config()
    c.data.batch_size = 2
    c.first_stage.update(channels=4, mult=(1,), attention=(0,), groups=2)
    c.first_stage.mid_attention = False
    c.discriminator.update(channels=4, depth=1)
    c.loss.update(kl_weight=3.0, perceptual_weight=0.7, disc_weight=0.6)
    built = system.build(c)
    params = helpers.random_params(jax.eval_shape(built.init, jax.random.key(0)))
    judge = helpers.random_params(perceptual.shapes("alexnet"), scale=1.4, seed=1)
    judge["heads"] = jax.tree.map(jnp.abs, judge["heads"])
    extra = {**built.init_extra(params), "kept": jnp.float32(3)}
    keys = jax.random.split(jax.random.key(5), 2)
    batch = helpers.random_batch(built.batch)
    return Rig(c, built, params, {"perceptual": judge}, extra, keys, batch)


@pytest.fixture(scope="module")
def results(rig):
    """(grads, extra, metrics) of the step before the discriminator and the first."""
    run = jax.jit(rig.system.grads)
    return {
        step: run(
            rig.params, rig.frozen, rig.extra, jnp.int32(step), rig.keys, rig.batch
        )
        for step in (OFF, ON)
    }


@pytest.fixture(scope="module")
def written_out(rig):
    """Each term and its gradients, one after the other, by jax.grad alone."""
    arch = system.arch_of_first_stage(rig.config)
    net = autoencoder.Autoencoder(arch)
    disc = discriminator.PatchDiscriminator(channels=4, depth=1)
    x = jnp.float32(rig.batch["image"]) / 127.5 - 1
    noise = losses.normal(losses.split(rig.keys, "encode"), (32, 32, 4))
    stats = rig.extra["batch_stats"]

    def judge(p, x):
        held = {"params": p, "batch_stats": stats}
        return disc.apply(held, x, mutable=["batch_stats"])[0]

    def forward(p):
        posterior = net.apply({"params": p}, x, method="encode")
        z = posterior.mean + jnp.exp(0.5 * posterior.logvar) * noise
        return net.apply({"params": p}, z, method="decode"), posterior

    def terms(p):
        """Every pixel's |x - x_hat| plus its picture's LPIPS, summed; KL; GAN."""
        x_hat, q = forward(p)
        lpips = perceptual.lpips(rig.frozen["perceptual"], x, x_hat, "alexnet")
        pixels = jnp.abs(x - x_hat) + 0.7 * lpips[:, None, None, None]
        nats = 0.5 * jnp.sum(q.mean**2 + jnp.exp(q.logvar) - 1 - q.logvar)
        logits = judge(rig.params["discriminator"], x_hat)
        rows = jnp.sum(pixels) / len(x), nats / len(x), -jnp.mean(logits)
        return jnp.stack(rows), jnp.stack(rows)

    def adversary(p):
        fake = forward(rig.params["first_stage"])[0]
        real, fake = judge(p, x), judge(p, fake)
        return 0.5 * jnp.mean(jax.nn.relu(1 - real)) + 0.5 * jnp.mean(
            jax.nn.relu(1 + fake)
        )

    @jax.jit
    def everything(params):
        slopes, values = jax.jacrev(terms, has_aux=True)(params["first_stage"])
        disc = jax.value_and_grad(adversary)(params["discriminator"])
        return slopes, values, disc

    slopes, values, disc = everything(rig.params)
    out = {
        name: (values[i], jax.tree.map(lambda slope, i=i: slope[i], slopes))
        for i, name in enumerate(("reconstruction", "kl", "generator"))
    }
    return {**out, "adversary": disc}


def assert_near(found, wanted):
    """Leaf by leaf, relative to the leaf's largest entry."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(wanted):
        have = found
        for key in path:
            have = have[key.key]
        largest = np.abs(leaf).max()
        np.testing.assert_allclose(
            have, leaf, atol=1e-4 * largest, err_msg=jax.tree_util.keystr(path)
        )


def kernel_norm(term):
    return float(jnp.linalg.norm(term[1]["decoder"]["conv_out"]["kernel"]))


def test_the_weight_is_the_ratio_at_the_decoders_last_kernel(results, written_out):
    ratio = kernel_norm(written_out["reconstruction"]) / (
        kernel_norm(written_out["generator"]) + 1e-4
    )
    assert 1e-3 < ratio < 9e3
    told = results[ON][2]
    assert float(told["gan_weight"]) == pytest.approx(0.6 * ratio, rel=1e-4)
    for name, term in (("rec_norm", "reconstruction"), ("gan_norm", "generator")):
        wanted = kernel_norm(written_out[term])
        assert float(told[name]) == pytest.approx(wanted, rel=1e-4)


@pytest.mark.parametrize("step", [OFF, ON])
def test_gradients_are_those_of_the_written_out_loss(results, written_out, step):
    """The weight is a constant of the backward pass."""
    grads, _, metrics = results[step]
    weight = float(metrics["gan_weight"])
    wanted = jax.tree.map(
        lambda rec, kl, gan: rec + 3 * kl + weight * gan,
        *(written_out[name][1] for name in ("reconstruction", "kl", "generator")),
    )
    assert_near(grads["first_stage"], wanted)


def test_the_discriminator_waits_for_its_start(results, written_out):
    before, after = results[OFF], results[ON]
    for leaf in jax.tree.leaves(before[0]["discriminator"]):
        assert not np.any(leaf)
    assert float(before[2]["gan_weight"]) == float(before[2]["disc_loss"]) == 0
    assert float(after[2]["gan_weight"]) > 0
    assert_near(after[0]["discriminator"], written_out["adversary"][1])
    found, wanted = after[2]["disc_loss"], written_out["adversary"][0]
    assert float(found) == pytest.approx(float(wanted), rel=1e-4)


@pytest.mark.parametrize("step", [OFF, ON])
def test_metrics_are_the_terms(results, written_out, step):
    metrics = {name: float(value) for name, value in results[step][2].items()}
    terms = {name: float(value) for name, (value, _) in written_out.items()}
    values = 32 * 32 * 3
    assert metrics["kl"] == pytest.approx(terms["kl"], rel=1e-4)
    assert metrics["gan"] == pytest.approx(terms["generator"], rel=1e-3)
    rec = values * (metrics["l1"] + 0.7 * metrics["lpips"])
    assert rec == pytest.approx(terms["reconstruction"], rel=1e-4)
    loss = rec + 3 * metrics["kl"] + metrics["gan_weight"] * metrics["gan"]
    assert metrics["loss"] == pytest.approx(loss, rel=1e-4)


def test_batch_statistics_move_and_the_rest_of_extra_stays(rig, results):
    _, extra, _ = results[ON]
    assert extra.keys() == rig.extra.keys() and float(extra["kept"]) == 3
    before, after = rig.extra["batch_stats"], extra["batch_stats"]
    assert jax.tree.structure(before) == jax.tree.structure(after)
    for old, new in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
        assert np.all(np.isfinite(new)) and np.any(old != new)


def test_validation_uses_the_mean_and_gives_numbers_per_picture(rig):
    params = {**rig.params, **rig.frozen}
    run = jax.jit(rig.system.validate)
    found = run(params, rig.keys, rig.batch)
    assert {name: x.shape for name, x in found.items()} == {
        name: (2,) for name in ("l1", "psnr", "lpips", "kl")
    }
    other = run(params, rig.keys[::-1], rig.batch)
    assert helpers.largest_difference(found, other) == 0

    x = np.float64(rig.batch["image"]) / 127.5 - 1
    arch = system.arch_of_first_stage(rig.config)
    net = autoencoder.Autoencoder(arch)
    x_hat = np.float64(helpers.apply(net, rig.params["first_stage"], jnp.float32(x)))
    np.testing.assert_allclose(
        found["l1"], np.abs(x - x_hat).mean((1, 2, 3)), rtol=1e-4
    )
    error = ((np.clip(x_hat, -1, 1) - x) / 2) ** 2
    psnr = -10 * np.log10(error.mean((1, 2, 3)))
    np.testing.assert_allclose(found["psnr"], psnr, rtol=1e-4)


def test_without_lpips_no_net_is_needed(rig):
    c = rig.config.copy_and_resolve_references()
    c.loss.perceptual_weight = 0.0
    built = system.build(c)
    told = {}, rig.extra, jnp.int32(ON), rig.keys, rig.batch
    grads, _, metrics = jax.eval_shape(built.grads, rig.params, *told)
    assert jax.tree.structure(grads) == jax.tree.structure(rig.params)
    rows = jax.eval_shape(built.validate, rig.params, rig.keys, rig.batch)
    assert "lpips" not in metrics and set(rows) == {"l1", "psnr", "kl"}


@pytest.fixture(scope="module")
def with_logvar(rig):
    """(rig's system with loss.learn_logvar, its compiled grads)."""
    c = rig.config.copy_and_resolve_references()
    c.loss.learn_logvar = True
    c.train.trainable = (*c.train.trainable, "logvar")
    built = system.build(config.check(c))

    @jax.jit
    def run(logvar):
        params = {**rig.params, "logvar": logvar}
        told = rig.frozen, rig.extra, jnp.int32(ON), rig.keys, rig.batch
        return built.grads(params, *told)

    return built, run


def test_a_logvar_of_0_changes_nothing_but_is_learned(rig, results, with_logvar):
    built, run = with_logvar
    fresh = jax.eval_shape(built.init, jax.random.key(0))
    assert fresh.keys() == {"first_stage", "discriminator", "logvar"}
    drawn = jax.jit(lambda rng: built.init(rng)["logvar"])(jax.random.key(0))
    assert drawn.shape == () and drawn.dtype == jnp.float32 and float(drawn) == 0

    grads, _, metrics = run(jnp.float32(0))
    wanted, _, plain = results[ON]
    assert_near({k: grads[k] for k in wanted}, wanted)
    assert metrics.keys() - plain.keys() == {"logvar"} and float(metrics["logvar"]) == 0
    for name, value in plain.items():
        assert float(metrics[name]) == pytest.approx(float(value), rel=1e-4)
    # The slope of count * (error / exp(logvar) + logvar), by hand.
    error = float(plain["l1"]) + 0.7 * float(plain["lpips"])
    assert float(grads["logvar"]) == pytest.approx(3072 * (1 - error), rel=1e-4)


def test_logvar_is_the_scale_of_the_reconstruction(results, written_out, with_logvar):
    _, run = with_logvar
    grads, _, metrics = run(jnp.float32(0.8))
    plain = results[ON][2]
    error = float(plain["l1"]) + 0.7 * float(plain["lpips"])
    assert float(metrics["l1"]) == pytest.approx(float(plain["l1"]), rel=1e-5)
    rec = 3072 * (error / np.exp(0.8) + 0.8)
    gan = float(metrics["gan_weight"]) * float(metrics["gan"])
    loss = rec + 3 * float(plain["kl"]) + gan
    assert float(metrics["loss"]) == pytest.approx(loss, rel=1e-4)
    slope = 3072 * (1 - error / np.exp(0.8))
    assert float(grads["logvar"]) == pytest.approx(slope, rel=1e-4)

    # The adaptive weight shrinks with the reconstruction's gradient, KL's term stays.
    share = np.exp(-0.8)
    weight = share * float(plain["gan_weight"])
    assert float(metrics["gan_weight"]) == pytest.approx(weight, rel=1e-4)
    wanted = jax.tree.map(
        lambda rec, kl, gan: share * rec + 3 * kl + weight * gan,
        *(written_out[name][1] for name in ("reconstruction", "kl", "generator")),
    )
    assert_near(grads["first_stage"], wanted)
