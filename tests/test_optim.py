import helpers
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ldm_jax import config
from ldm_jax import optim as optim_lib


def section(**changes):
    c = config.latent_diffusion().optim
    c.update(lr=1e-2, warmup_steps=10, decay_steps=30, start_factor=0.1)
    c.update(final_factor=0.2)
    c.update(changes)
    return c


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("constant", {0: 1.0, 5: 1.0, 1000: 1.0}),
        ("warmup", {0: 0.1, 5: 0.55, 10: 1.0, 1000: 1.0}),
        ("warmup_cosine", {0: 0.1, 5: 0.55, 10: 1.0, 20: 0.6, 30: 0.2, 1000: 0.2}),
    ],
)
def test_rates_at_key_steps(name, wanted):
    rate = optim_lib.learning_rate(section(schedule=name))
    found = {step: float(rate(jnp.int32(step))) / 1e-2 for step in wanted}
    assert found == pytest.approx(wanted, rel=1e-5)


def test_a_rate_is_traced():
    rate = jax.jit(optim_lib.learning_rate(section(schedule="warmup_cosine")))
    assert float(rate(jnp.int32(20))) == pytest.approx(0.6e-2, rel=1e-5)


@pytest.mark.parametrize(
    ("key", "words"), [("schedule", "constant, warmup"), ("optimizer", "adamw, adam")]
)
def test_an_unknown_name_is_refused(key, words):
    with pytest.raises(ValueError, match=f"'wamup' is not one of {words}"):
        optim_lib.make(section(**{key: "wamup"})).init({"unet": jnp.ones(2)})


def params():
    return {
        "unet": {"kernel": helpers.normal(0, 3, 2), "bias": helpers.normal(1, 2)},
        "cond_stage": {"scale": helpers.normal(2, 4)},
    }


def gradients(step):
    draw = lambda leaf: helpers.normal(step * 10 + leaf.size, *leaf.shape)
    return jax.tree.map(draw, params())


def run(tx, steps, start=None, given=gradients):
    """The parameters after each step."""
    now = params() if start is None else start
    state = tx.init(now)
    update = jax.jit(tx.update)
    seen = []
    for step in range(steps):
        updates, state = update(given(step), state, now)
        now = optax.apply_updates(now, updates)
        seen.append(now)
    return seen


def torch_adam(start, rates, decay, betas=(0.9, 0.999), eps=1e-8):
    """torch.optim.AdamW's rule, one parameter at a time, in float64."""
    now = jax.tree.map(np.float64, start)
    m = jax.tree.map(np.zeros_like, now)
    v = jax.tree.map(np.zeros_like, now)
    for i, rate in enumerate(rates):
        g = jax.tree.map(np.float64, gradients(i))
        m = jax.tree.map(lambda m, g: betas[0] * m + (1 - betas[0]) * g, m, g)
        v = jax.tree.map(lambda v, g: betas[1] * v + (1 - betas[1]) * g**2, v, g)
        first, second = (1 - b ** (i + 1) for b in betas)

        def new(p, m, v, rate=rate, first=first, second=second):
            p = p * (1 - rate * decay)
            return p - rate * (m / first) / (np.sqrt(v / second) + eps)

        now = jax.tree.map(new, now, m, v)
        yield now


@pytest.mark.parametrize("name", ["adamw", "adam"])
def test_updates_are_torchs(name):
    """Weight decay reaches every parameter: kernels, biases and norms alike."""
    optim = section(optimizer=name, schedule="warmup", weight_decay=0.5)
    rates = [1e-2 * (0.1 + 0.09 * i) for i in range(4)]
    decay = 0.5 if name == "adamw" else 0.0
    wanted = list(torch_adam(params(), rates, decay))
    found = run(optim_lib.make(optim), 4)
    for have, want in zip(found, wanted, strict=True):
        assert helpers.largest_difference(have, want) < 2e-6


def test_the_default_decay_is_torchs():
    optim = section(lr=0.5, schedule="constant")
    still = lambda step: jax.tree.map(jnp.zeros_like, params())
    (found,) = run(optim_lib.make(optim), 1, given=still)
    wanted = jax.tree.map(lambda p: p * (1 - 0.5 * 0.01), params())
    assert helpers.largest_difference(found, wanted) < 1e-6


def test_betas_are_used():
    optim = section(optimizer="adam", schedule="constant", betas=(0.5, 0.9))
    wanted = list(torch_adam(params(), [1e-2] * 3, 0.0, (0.5, 0.9)))[-1]
    found = run(optim_lib.make(optim), 3)[-1]
    assert helpers.largest_difference(found, wanted) < 2e-6


def test_clipping_scales_all_gradients_by_one_factor():
    """Adam forgets a constant factor, so the gradients grow from step to step."""
    growing = lambda step: jax.tree.map(lambda g: g * 10.0**step, gradients(step))
    clipped = lambda step: jax.tree.map(
        lambda g: g * min(1.0, 2.0 / float(optax.tree.norm(growing(step)))),
        growing(step),
    )
    free, bound = (section(schedule="constant", clip_norm=n) for n in (0.0, 2.0))
    found = run(optim_lib.make(bound), 3, given=growing)[-1]
    wanted = run(optim_lib.make(free), 3, given=clipped)[-1]
    assert helpers.largest_difference(found, wanted) < 1e-6
    loose = run(optim_lib.make(free), 3, given=growing)[-1]
    assert helpers.largest_difference(loose, found) > 1e-3


def test_players_have_states_of_their_own():
    """The discriminator's gradients change neither moments nor clipping outside."""
    tx = optim_lib.make(section(schedule="constant", clip_norm=1.0))
    start = {"first_stage": jnp.ones(3), "discriminator": jnp.ones(3)}
    given = lambda loud: (
        lambda step: {
            "first_stage": helpers.normal(step, 3),
            "discriminator": loud * helpers.normal(step + 9, 3),
        }
    )
    quiet = run(tx, 3, start, given(0.01))[-1]
    loud = run(tx, 3, start, given(1e3))[-1]
    np.testing.assert_array_equal(quiet["first_stage"], loud["first_stage"])
    assert np.any(quiet["discriminator"] != loud["discriminator"])

    state = tx.init(start)
    assert set(state.inner_states) == {"generator", "discriminator"}
    moments = [s.shape for s in jax.tree.leaves(state.inner_states["discriminator"])]
    assert moments.count((3,)) == 2


def orthogonal_part(matrix):
    """U V^T of the singular value decomposition: what Muon steps along."""
    u, _, vt = np.linalg.svd(np.float64(matrix), full_matrices=False)
    return u @ vt


def test_muon_makes_the_update_of_a_kernel_orthogonal():
    """A convolution's kernel is one matrix, all its inputs against the outputs.

    Newton-Schulz in five steps brings every singular value near 1, not onto it.
    """
    optim = section(optimizer="muon", schedule="constant", weight_decay=0.0)
    start = {"unet": {"kernel": jnp.zeros((3, 3, 5, 8))}}
    given = helpers.normal(0, 3, 3, 5, 8)
    (found,) = run(
        optim_lib.make(optim), 1, start, lambda _: {"unet": {"kernel": given}}
    )
    update = np.asarray(found["unet"]["kernel"]).reshape(45, 8)
    size = 1e-2 * 0.2 * np.sqrt(45)  # Liu et al. (2025), eq. 4
    values = np.linalg.svd(update, compute_uv=False) / size
    assert np.all((values > 0.6) & (values < 1.3))
    wanted = -orthogonal_part(np.asarray(given).reshape(45, 8))
    cosine = np.sum(update * wanted) / np.linalg.norm(update) / np.linalg.norm(wanted)
    assert cosine > 0.97


def test_muon_leaves_the_rest_to_adamw():
    """Embeddings, norms and biases: AdamW with Nesterov's momentum and the betas."""
    optim = section(optimizer="muon", schedule="constant", betas=(0.8, 0.9))
    start = {
        "unet": {"embedding": helpers.normal(0, 4, 3), "bias": helpers.normal(1, 2)}
    }
    given = lambda step: jax.tree.map(lambda x: helpers.normal(step, *x.shape), start)
    found = run(optim_lib.make(optim), 3, start, given)
    tx = optax.adamw(1e-2, 0.8, 0.9, 1e-8, weight_decay=0.01, nesterov=True)
    for have, want in zip(found, run(tx, 3, start, given), strict=True):
        assert helpers.largest_difference(have, want) < 1e-7


def test_muon_decays_kernels():
    optim = section(optimizer="muon", schedule="constant", weight_decay=0.5)
    start = {"unet": {"kernel": helpers.normal(0, 3, 2)}}
    still = lambda step: jax.tree.map(jnp.zeros_like, start)
    (found,) = run(optim_lib.make(optim), 1, start, still)
    wanted = jax.tree.map(lambda p: p * (1 - 1e-2 * 0.5), start)
    assert helpers.largest_difference(found, wanted) < 1e-6
