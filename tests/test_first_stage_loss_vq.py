"""The loss of a first stage with a codebook; test_first_stage_loss has KL's."""

import types

import helpers
import jax
from jax import lax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax import config, system
from ldm_jax.models import autoencoder, discriminator, perceptual

OFF, ON = 1, 2  # disc_start is 2
BETA, CODES = 0.3, 12


def config_of(**changes):
    c = helpers.tiny_autoencoder_config()
    c.data.batch_size = 2
    c.first_stage.update(channels=4, mult=(1,), attention=(0,), groups=2)
    c.first_stage.update(kind="vq", codes=CODES, mid_attention=False)
    c.discriminator.update(channels=4, depth=1)
    c.loss.update(perceptual_weight=0.7, disc_weight=0.6)
    c.loss.update(codebook_weight=2.0, beta=BETA, **changes)
    return config.check(c)


@pytest.fixture(scope="module")
def rig():
    built = system.build(config_of())
    shapes = jax.eval_shape(built.init, jax.random.key(0))
    params = helpers.random_params(shapes, seed=3)
    judge = helpers.random_params(perceptual.shapes("alexnet"), scale=1.4, seed=1)
    judge["heads"] = jax.tree.map(jnp.abs, judge["heads"])
    return types.SimpleNamespace(
        params=params,
        frozen={"perceptual": judge},
        extra=built.init_extra(params),
        keys=jax.random.split(jax.random.key(5), 2),
        batch=helpers.random_batch(built.batch),
    )


def run_of(rig, c):
    """step -> (grads, extra, metrics), compiled."""
    built = system.build(c)

    @jax.jit
    def run(step):
        told = rig.extra, step, rig.keys, rig.batch
        return built.grads(rig.params, rig.frozen, *told)

    return lambda step: run(jnp.int32(step))


@pytest.fixture(scope="module")
def results(rig):
    run = run_of(rig, config_of())
    return {step: run(step) for step in (OFF, ON)}


@pytest.fixture(scope="module")
def written_out(rig):
    """{term: (value, gradients)}, by jax.grad alone, all as means."""
    arch = system.arch_of_first_stage(config_of())
    net = autoencoder.Autoencoder(arch)
    disc = discriminator.PatchDiscriminator(channels=4, depth=1)
    x = jnp.float32(rig.batch["image"]) / 127.5 - 1

    def terms(p):
        z = net.apply({"params": p}, x, method="encode").mean
        table = p["codebook"]["codes"]["embedding"]
        gaps = z[..., None, :] - table
        indices = jnp.argmin(jnp.sum(gaps**2, axis=-1), axis=-1)
        z_q, still = table[indices], lax.stop_gradient
        x_hat = net.apply({"params": p}, z + still(z_q - z), method="render")
        pixels = jnp.abs(x - x_hat)
        lpips = perceptual.lpips(rig.frozen["perceptual"], x, x_hat, "alexnet")
        pixels += 0.7 * lpips[:, None, None, None]
        held = {"params": rig.params["discriminator"], **rig.extra}
        logits = disc.apply(held, x_hat, mutable=["batch_stats"])[0]
        rows = {
            "reconstruction": jnp.mean(pixels),
            "commitment": jnp.mean((still(z_q) - z) ** 2),
            "codebook": jnp.mean((z_q - still(z)) ** 2),
            "generator": -jnp.mean(logits),
        }
        return rows, (rows, indices)

    @jax.jit
    def everything(p):
        slopes, (values, indices) = jax.jacrev(terms, has_aux=True)(p)
        return {name: (values[name], slopes[name]) for name in values}, indices

    return everything(rig.params["first_stage"])


def kernel_norm(term):
    return float(jnp.linalg.norm(term[1]["decoder"]["conv_out"]["kernel"]))


def assert_near(found, wanted):
    """Leaf by leaf, relative to the leaf's largest entry."""
    assert jax.tree.structure(found) == jax.tree.structure(wanted)

    def near(path, have, want):
        largest = np.abs(want).max()
        assert largest > 0, path
        np.testing.assert_allclose(
            have, want, atol=2e-4 * largest, err_msg=jax.tree_util.keystr(path)
        )

    jax.tree_util.tree_map_with_path(near, found, wanted)


def added(terms, weights):
    names = list(weights)
    return jax.tree.map(
        lambda *slopes: sum(
            weights[name] * slope for name, slope in zip(names, slopes, strict=True)
        ),
        *(terms[name][1] for name in names),
    )


def test_the_weight_is_the_ratio_of_both_norms(results, written_out):
    terms, _ = written_out
    rec, gan = (kernel_norm(terms[name]) for name in ("reconstruction", "generator"))
    for step in (OFF, ON):
        told = results[step][2]
        assert float(told["rec_norm"]) == pytest.approx(rec, rel=1e-3)
        assert float(told["gan_norm"]) == pytest.approx(gan, rel=1e-3)
    weight = 0.6 * rec / (gan + 1e-4)
    assert 1e-3 < weight < 9e3
    assert float(results[ON][2]["gan_weight"]) == pytest.approx(weight, rel=1e-3)
    assert float(results[OFF][2]["gan_weight"]) == 0


@pytest.mark.parametrize("step", [OFF, ON])
def test_gradients_are_those_of_the_written_out_loss(results, written_out, step):
    terms, _ = written_out
    weights = {"reconstruction": 1, "commitment": 2 * BETA, "codebook": 2}
    weights["generator"] = float(results[step][2]["gan_weight"])
    assert_near(results[step][0]["first_stage"], added(terms, weights))


def test_legacy_moves_beta_to_the_other_side(rig, results, written_out):
    """The value stays; the encoder's gradients and the codebook's do not."""
    terms, _ = written_out
    grads, _, told = run_of(rig, config_of(legacy_beta=True))(ON)
    plain, _, metrics = results[ON]
    assert told.keys() == metrics.keys()
    for name, value in metrics.items():
        assert float(told[name]) == pytest.approx(float(value), rel=1e-5)
    weights = {"reconstruction": 1, "commitment": 2, "codebook": 2 * BETA}
    weights["generator"] = float(metrics["gan_weight"])
    assert_near(grads["first_stage"], added(terms, weights))
    old, new = (tree["first_stage"] for tree in (plain, grads))
    for part in ("codebook", "quant_conv"):
        gap = helpers.largest_difference(old[part], new[part])
        assert gap > 0.05 * max(np.abs(x).max() for x in jax.tree.leaves(old[part]))
    largest = max(np.abs(x).max() for x in jax.tree.leaves(old["decoder"]))
    gap = helpers.largest_difference(old["decoder"], new["decoder"])
    assert gap < 1e-5 * largest


@pytest.mark.parametrize("step", [OFF, ON])
def test_metrics_are_the_terms(results, written_out, step):
    terms, indices = written_out
    told = {name: float(value) for name, value in results[step][2].items()}
    terms = {name: float(value) for name, (value, _) in terms.items()}
    rec = told["l1"] + 0.7 * told["lpips"]
    assert rec == pytest.approx(terms["reconstruction"], rel=1e-4)
    distance = terms["commitment"]
    assert terms["codebook"] == distance
    assert told["codebook"] == pytest.approx((1 + BETA) * distance, rel=1e-4)
    assert told["gan"] == pytest.approx(terms["generator"], rel=1e-3)
    loss = rec + 2 * told["codebook"] + told["gan_weight"] * told["gan"]
    assert told["loss"] == pytest.approx(loss, rel=1e-4)

    share = np.bincount(np.ravel(indices), minlength=CODES) / indices.size
    used = share[share > 0]
    assert 1 < len(used) < CODES
    assert told["usage"] == pytest.approx(len(used) / CODES)
    perplexity = np.exp(-np.sum(used * np.log(used)))
    assert told["perplexity"] == pytest.approx(perplexity, rel=1e-5)
    assert "kl" not in told


def test_kl_sums_what_vq_averages(rig):
    """One decoder, one latent: the ratio is the count of a picture's numbers."""
    c = config_of()
    c.loss.update(codebook_weight=0.0)
    kl = config_of()
    kl.first_stage.update(kind="kl", codes=0)
    kl.loss.update(kl_weight=0.0, codebook_weight=1.0, beta=0.25)
    stage = rig.params["first_stage"]

    # The mean is the code's vector whatever x is, the deviation exp(-15).
    built = system.build(config.check(kl))
    shapes = jax.eval_shape(built.init, jax.random.key(0))["first_stage"]
    table = stage["codebook"]["codes"]["embedding"]
    still = {
        "kernel": jnp.zeros(shapes["quant_conv"]["kernel"].shape),
        "bias": jnp.concatenate([table[0], jnp.full(4, -30.0)]),
    }
    one = {**stage, "codebook": {"codes": {"embedding": table[:1]}}}
    ours = {k: stage[k] for k in ("decoder", "post_quant_conv")} | {
        "encoder": helpers.random_params(shapes["encoder"]),
        "quant_conv": still,
    }

    def slope_of(built, params):
        told = rig.extra, jnp.int32(OFF), rig.keys, rig.batch
        params = {**rig.params, "first_stage": params}
        grads, _, metrics = jax.jit(built.grads)(params, rig.frozen, *told)
        return grads["first_stage"]["decoder"], metrics

    c.first_stage.codes = 1
    means, vq_told = slope_of(system.build(config.check(c)), one)
    sums, kl_told = slope_of(built, ours)
    assert float(kl_told["l1"]) == pytest.approx(float(vq_told["l1"]), rel=1e-5)
    count = 32 * 32 * 3
    ratio = float(kl_told["loss"]) / float(vq_told["loss"])
    assert ratio == pytest.approx(count, rel=1e-4)
    assert_near(sums, jax.tree.map(lambda g: count * g, means))


def test_validation_quantises_and_has_no_kl(rig):
    built = system.build(config_of())
    params = {**rig.params, **rig.frozen}
    rows = jax.jit(built.validate)(params, rig.keys, rig.batch)
    assert {name: x.shape for name, x in rows.items()} == {
        name: (2,) for name in ("l1", "psnr", "lpips")
    }
    x = jnp.float32(rig.batch["image"]) / 127.5 - 1
    net = autoencoder.Autoencoder(system.arch_of_first_stage(config_of()))
    x_hat = helpers.apply(net, rig.params["first_stage"], x)
    wanted = np.mean(np.abs(np.float64(x_hat) - np.float64(x)), axis=(1, 2, 3))
    np.testing.assert_allclose(rows["l1"], wanted, rtol=1e-4)
