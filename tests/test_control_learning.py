"""What of a control branch and its base learns, and what validation says of it."""

import functools

from controlled import (
    BATCH,
    CONNECTIONS,
    Z_T,
    T,
    config_of,
    fresh,
    rigged,
    without,
)
import helpers
import jax
from jax.extend.core import jaxprs_in_params
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax import (
    branches,
    runs,
    system,
    trees,
)
from ldm_jax.models import unet as unet_lib


@pytest.fixture(scope="module")
def c():
    return config_of()


@pytest.fixture(scope="module")
def rig(c):
    return rigged(c)


UNLOCKED = ("canny", "unet/up_*", "unet/norm_out", "unet/conv_out")


@pytest.fixture(scope="module")
def learn(rig):
    """(params) -> (loss, gradients) of canny's branch, all else frozen."""
    built, _, keys, batch = rig

    @jax.jit
    def run(params):
        trained, frozen = trees.split(params, ("canny",))
        told = trained, frozen, {}, jnp.int32(0), keys, without(batch, "depth")
        grads, _, metrics = built.grads(*told)
        return metrics["loss"], grads

    return run


def under(tree, start):
    flat = trees.flatten(tree)
    return [leaf for name, leaf in flat.items() if name.startswith(start)]


def test_zero_convolutions_learn_first_and_then_the_trunk(rig, learn):
    _, params, *_ = rig
    params, lowered = fresh(params, "canny"), []
    for step in range(3):
        loss, grads = learn(params)
        assert grads.keys() == {"canny"}
        for start, first in {
            "zero_": 0,
            "trunk": 1,
            "hint_out": 1,
            "hint_0": 2,
        }.items():
            found = [np.any(x) for x in under(grads["canny"], start)]
            assert found and all(found) == any(found) == (step >= first), (start, step)
        step = jax.tree.map(lambda p, g: p - 0.2 * g, params["canny"], grads["canny"])
        params = params | {"canny": step}
        lowered.append(float(loss))
    assert lowered[2] < lowered[0]


def convolutions(jaxpr):
    """How many there are in a jaxpr and in those within it."""
    count = 0
    for eqn in jaxpr.eqns:
        count += eqn.primitive.name == "conv_general_dilated"
        for inner in jaxprs_in_params(eqn.params):
            count += convolutions(inner)
    return count


@pytest.fixture(scope="module")
def learning(rig):
    """(*patterns) -> (convolutions of a step, shapes of its gradients)."""
    built, params, keys, batch = rig

    @functools.cache
    def run(*patterns):
        trained, frozen = trees.split(params, patterns)
        told = trained, frozen, {}, jnp.int32(0), keys, without(batch, "depth")
        jaxpr, shapes = jax.make_jaxpr(built.grads, return_shape=True)(*told)
        return convolutions(jaxpr.jaxpr), shapes[0]

    return run


def test_gradients_go_through_the_locked_decoder_and_not_its_encoder(c, rig, learning):
    """A convolution is one forwards, one for its weights, one for what it was given."""
    _, params, _, batch = rig
    arch, context = system.arch_of_unet(c), jnp.zeros((BATCH, 1, 8))
    count = lambda run, *args: convolutions(jax.make_jaxpr(run)(*args).jaxpr)

    def of(net, role, *args):
        run = lambda params, z: net.apply({"params": params}, z, T, *args)
        return count(run, role, Z_T)

    trunk = of(unet_lib.Trunk(arch), params["unet"]["trunk"], context, None)
    decoder = of(unet_lib.UNet(arch), params["unet"], context) - trunk
    branch = branches.net(c.control, arch, 1)
    branch = of(branch, params["canny"], batch["hint_canny"] / 255.0, context)
    assert min(trunk, decoder, branch) > 5

    # Nobody asks for the gradients of z_t and of the hint.
    assert learning("canny")[0] == trunk + 2 * decoder + 3 * branch - 2
    assert learning(*UNLOCKED)[0] == trunk + 3 * decoder + 3 * branch - 2
    assert learning("canny", "unet")[0] == 3 * (trunk + decoder + branch) - 3


def test_captions_are_dropped_while_hints_stay(rig):
    _, params, keys, batch = rig
    built = system.build(config_of(("canny",), cond_stage=dict(drop=1.0)))
    run = jax.jit(lambda *told: built.grads(*told)[2]["loss"])
    trained, frozen = trees.split(params, ("canny",))
    batch = without(batch, "depth")

    def loss(**changes):
        told = batch | changes
        return float(run(trained, frozen, {}, jnp.int32(0), keys, told))

    assert loss(label=(batch["label"] + 1) % 4) == loss()
    assert abs(loss(hint_canny=batch["hint_canny"][::-1]) - loss()) > 1e-4


def state_shapes(c):
    built = system.build(c)
    return jax.eval_shape(runs.initial_state(c, built), jax.random.key(0))


def test_the_optimizer_has_nothing_of_what_is_frozen(c):
    state = state_shapes(c)
    assert state.params.keys() == state.ema.keys() == {"canny"}
    branch = helpers.count(state.params)
    held = helpers.count(jax.tree.leaves(state.opt_state))
    assert 2 * branch <= held < 2 * branch + 10  # Adam's moments, and counters
    everything = jax.eval_shape(system.build(c).init, jax.random.key(0))
    assert branch == helpers.count(everything["canny"])


def test_an_unlocked_decoder_trains_and_nothing_else(rig, learning):
    """The originals' sd_locked False: output_blocks and out."""
    c = config_of(("canny",), train=dict(trainable=UNLOCKED))
    params = state_shapes(c).params
    assert params.keys() == {"canny", "unet"}
    everything = jax.eval_shape(system.build(c).init, jax.random.key(0))
    assert params["canny"].keys() == everything["canny"].keys()
    assert set(everything["unet"]) - set(params["unet"]) == {"trunk"}
    trained, _ = trees.split(rig[1], UNLOCKED)
    grads = learning(*UNLOCKED)[1]
    assert jax.tree.structure(grads) == jax.tree.structure(trained)
    # A pattern that matches nothing is told.
    c.train.trainable = (*UNLOCKED, "unet/out")
    with pytest.raises(ValueError, match="'unet/out' matches no parameter"):
        state_shapes(c)


def test_validation_says_how_loud_each_connection_is(rig):
    """Root mean squares of what is added, by hand; 0 of a fresh branch."""
    built, params, keys, batch = rig
    one = without(batch, "depth")
    run = jax.jit(built.validate)
    sides = {"new": fresh(params, "canny"), "old": params}
    spoken = {name: run(told, keys, one) for name, told in sides.items()}
    names = [f"residual_canny_{i:02}" for i in range(CONNECTIONS)]
    assert spoken["old"].keys() == {"loss_simple", "loss_vlb", "t", *names}
    assert all(x.shape == (BATCH,) for x in spoken["old"].values())
    assert not any(spoken["new"][name].any() for name in names)
    assert all((spoken["old"][name] > 0).all() for name in names)
