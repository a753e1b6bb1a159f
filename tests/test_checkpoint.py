"""Saving, restoring, refusing what does not fit, surviving half-written steps."""

import pathlib
import shutil

from flax import struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ldm_jax import checkpoint, sharding, trees

TX = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-2))
META = {"config": {"unet": {"channels": 8}}, "batches": 7, "versions": ["a", None]}


@struct.dataclass
class State:
    step: jax.Array
    params: dict
    opt_state: optax.OptState
    extra: dict


def make_state(seed=0, width=16):
    """A state with every kind of leaf: moments, counters, bfloat16, empty nodes."""
    gen = np.random.default_rng(seed)
    params = {
        "unet": {"kernel": jnp.asarray(gen.standard_normal((8, width)), jnp.float32)},
        "half": jnp.asarray(gen.standard_normal(4), jnp.bfloat16),
    }
    opt_state = jax.tree.map(lambda x: x + seed, TX.init(params))
    return State(jnp.int32(seed), params, opt_state, {"skipped": jnp.int32(2)})


def abstract(state, mesh=None):
    shapes = jax.eval_shape(lambda: state)
    placed = sharding.params_sharding(shapes, mesh or sharding.make_mesh(), 64)
    return jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, placed
    )


def assert_equal(have, want):
    assert jax.tree.structure(have) == jax.tree.structure(want)
    for a, b in zip(jax.tree.leaves(have), jax.tree.leaves(want), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


@pytest.fixture
def folder(tmp_path):
    """Steps 1 and 2 of a run."""
    manager = checkpoint.open(tmp_path / "checkpoints")
    for step in (1, 2):
        checkpoint.save(manager, step, make_state(step), {**META, "step": step})
    manager.close()
    return tmp_path / "checkpoints"


def test_everything_comes_back_bit_for_bit(folder):
    manager = checkpoint.open(folder)
    assert checkpoint.latest(manager) == 2
    state, meta = checkpoint.restore(manager, 1, abstract(make_state()))
    manager.close()
    assert_equal(state, make_state(1))
    assert meta == {**META, "step": 1}


def test_arrays_go_straight_into_their_shardings(folder):
    mesh = sharding.make_mesh(fsdp=4)
    manager = checkpoint.open(folder, read_only=True)
    state, _ = checkpoint.restore(manager, 2, abstract(make_state(), mesh))
    manager.close()
    kernel = state.params["unet"]["kernel"]
    assert kernel.addressable_shards[0].data.shape == (8, 4)
    assert state.opt_state[1][0].mu["unet"]["kernel"].sharding == kernel.sharding
    assert_equal(state, make_state(2))


def test_a_state_may_be_donated_while_it_is_saved(tmp_path):
    manager = checkpoint.open(tmp_path / "checkpoints")
    state, want = make_state(3, width=4096), make_state(3, width=4096)
    step = jax.jit(lambda s: jax.tree.map(lambda x: x * 0, s), donate_argnums=0)
    checkpoint.save(manager, 3, state, META)
    jax.block_until_ready(step(state))
    state, _ = checkpoint.restore(manager, 3, abstract(want))
    manager.close()
    assert_equal(state, want)


def test_only_the_newest_are_kept_and_a_saved_step_is_left_alone(tmp_path):
    manager = checkpoint.open(tmp_path / "checkpoints", keep=2)
    for step in (1, 2, 3):
        checkpoint.save(manager, step, make_state(step), META)
    checkpoint.save(manager, 3, make_state(9), META)
    assert sorted(manager.all_steps()) == [2, 3]
    state, _ = checkpoint.restore(manager, 3, abstract(make_state()))
    manager.close()
    assert_equal(state, make_state(3))


def test_no_checkpoint_is_none_and_a_wrong_step_is_named(tmp_path):
    manager = checkpoint.open(tmp_path / "checkpoints")
    assert checkpoint.latest(manager) is None
    with pytest.raises(FileNotFoundError, match="5; saved steps: "):
        checkpoint.restore(manager, 5, abstract(make_state()))
    manager.close()
    with pytest.raises(FileNotFoundError, match="elsewhere"):
        checkpoint.open(tmp_path / "elsewhere", read_only=True)


def test_a_model_that_differs_is_refused_with_both_sides(folder):
    wanted = make_state(width=32)
    half = wanted.params.pop("half")
    wanted.params["whole"] = half
    wanted = wanted.replace(step=jnp.float32(0))
    manager = checkpoint.open(folder, read_only=True)
    with pytest.raises(ValueError) as error:
        checkpoint.restore(manager, 2, abstract(wanted))
    manager.close()
    text = str(error.value)
    assert str(folder / "2") in text
    assert "only in the checkpoint (1): params/half\n" in text
    assert "only in the config's model (1): params/whole" in text
    assert "\nshape (3): " in text  # the kernel and its two moments
    assert "params/unet/kernel saved (8, 16) wanted (8, 32)" in text
    assert "dtype (1): step saved int32 wanted float32" in text


def test_a_step_that_was_killed_while_saving_is_not_picked_up(folder):
    shutil.copytree(folder / "2", folder / "3.orbax-checkpoint-tmp-17")
    shutil.rmtree(folder / "3.orbax-checkpoint-tmp-17" / "meta")
    manager = checkpoint.open(folder)
    assert checkpoint.latest(manager) == 2
    checkpoint.save(manager, 3, make_state(3), META)
    manager.close()
    assert sorted(p.name for p in folder.iterdir()) == ["1", "2", "3"]


@pytest.mark.parametrize("lost", ["state", "meta", "state/_METADATA"])
def test_a_broken_step_is_set_aside(folder, lost, caplog):
    path = folder / "2" / lost
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    (folder / "broken_2").mkdir()  # it happened before
    manager = checkpoint.open(folder)
    assert "set aside" in caplog.text
    assert checkpoint.latest(manager) == 1
    state, _ = checkpoint.restore(manager, 1, abstract(make_state()))
    assert_equal(state, make_state(1))
    checkpoint.save(manager, 2, make_state(2), META)
    manager.wait_until_finished()
    assert checkpoint.latest(manager) == 2
    manager.close()
    assert pathlib.Path(folder / "broken_2_again" / "_CHECKPOINT_METADATA").is_file()


def test_long_reports_are_cut():
    leaf = np.zeros(1)
    many = {f"layer_{i:02}": leaf for i in range(20)}
    report = trees.differences(many, {}, "the file", "the model")
    assert report.startswith("only in the file (20): layer_00, ")
    assert report.endswith("layer_11, and 8 more")
    assert trees.differences(many, many, "the file", "the model") == ""
