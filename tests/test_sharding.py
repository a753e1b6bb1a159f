"""Meshes and placements, on four virtual devices."""

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
import numpy as np
import optax
import pytest

from ldm_jax import sharding


def test_the_mesh_has_all_devices_on_two_axes():
    assert dict(sharding.make_mesh().shape) == {"data": 4, "fsdp": 1}
    assert dict(sharding.make_mesh(fsdp=2).shape) == {"data": 2, "fsdp": 2}
    two = sharding.make_mesh(devices=jax.devices()[:2])
    assert dict(two.shape) == {"data": 2, "fsdp": 1}


@pytest.mark.parametrize("fsdp", [0, 3, 8])
def test_fsdp_must_divide_the_devices(fsdp):
    with pytest.raises(ValueError, match=rf"parallel.fsdp {fsdp} .* devices, 4"):
        sharding.make_mesh(fsdp=fsdp)


def specs(shapes, fsdp=2, min_size=64):
    tree = {k: jax.ShapeDtypeStruct(v, jnp.float32) for k, v in shapes.items()}
    placed = sharding.params_sharding(tree, sharding.make_mesh(fsdp), min_size)
    return {k: v.spec for k, v in placed.items()}


def test_large_arrays_split_their_longest_even_axis():
    shapes = {
        "small": (4, 4),
        "first": (16, 8),
        "last": (3, 3, 8, 16),
        "equal": (8, 8),
        "odd longest": (33, 6),
        "odd": (33, 7),
    }
    assert specs(shapes) == {
        "small": P(),
        "first": P("fsdp"),
        "last": P(None, None, None, "fsdp"),
        "equal": P("fsdp"),
        "odd longest": P(None, "fsdp"),
        "odd": P(),
    }


def test_one_fsdp_device_copies_everything():
    assert specs({"large": (1024, 1024)}, fsdp=1) == {"large": P()}


def test_optimizer_state_lies_where_its_parameters_do():
    tx = optax.adam(1e-3)
    mesh = sharding.make_mesh(fsdp=4)

    def init():
        params = {"w": jnp.ones((8, 32)), "b": jnp.ones(32)}
        return params, tx.init(params)

    placed = sharding.params_sharding(jax.eval_shape(init), mesh, min_size=128)
    params, opt_state = jax.jit(init, out_shardings=placed)()
    adam = opt_state[0]
    for leaf in (params["w"], adam.mu["w"], adam.nu["w"]):
        assert leaf.sharding.spec == P(None, "fsdp")
        assert leaf.addressable_shards[0].data.shape == (8, 8)
    assert adam.count.sharding.is_fully_replicated
    assert params["b"].sharding.is_fully_replicated


def test_a_batch_is_split_over_all_devices_in_order():
    mesh = sharding.make_mesh(fsdp=2)
    local = {"image": np.arange(24).reshape(8, 3), "label": np.arange(8)}
    batch = sharding.put_batch(local, mesh)
    for key, array in batch.items():
        np.testing.assert_array_equal(array, local[key])
        for i, device in enumerate(jax.devices()):
            (shard,) = [s for s in array.addressable_shards if s.device == device]
            np.testing.assert_array_equal(shard.data, local[key][2 * i : 2 * i + 2])


def test_sharded_and_replicated_placements_compute_the_same():
    mesh = sharding.make_mesh(fsdp=2)
    x = np.random.default_rng(0).standard_normal((8, 16)).astype(np.float32)
    split = jax.device_put(x, sharding.batch_sharding(mesh))
    whole = jax.device_put(x, sharding.replicated(mesh))
    square = jax.jit(lambda x: x**2)
    np.testing.assert_array_equal(square(split), square(whole))


def test_a_batch_is_rounded_up_to_whole_devices():
    found = [sharding.whole_batch(size, 6) for size in (1, 6, 8, 12)]
    assert found == [6, 6, 12, 12]


def test_batches_that_fit_are_accepted():
    mesh = sharding.make_mesh()
    sharding.check_batch(8, mesh)
    sharding.check_batch(16, mesh, hosts=2, accumulation=4)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"batch_size": 6}, r"data.batch_size 6 .* devices, 4$"),
        ({"batch_size": 8, "hosts": 3}, r"data.batch_size 8 .* hosts, 3"),
        ({"batch_size": 8, "accumulation": 4}, r"batch_size 8 .* 4 times 4 micro"),
        ({"batch_size": 8, "accumulation": 0}, r"batch_size 8 .* 0 micro-batches"),
    ],
)
def test_batches_that_do_not_fit_are_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        sharding.check_batch(mesh=sharding.make_mesh(), **arguments)
