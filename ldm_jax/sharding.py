"""Where arrays live: a mesh of two axes, both for the batch, one for the parameters."""

import math

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np
import tqdm

BATCH_AXES = ("data", "fsdp")


def make_mesh(fsdp=1, devices=None):
    """The mesh [data, fsdp] over all devices (or those given), hosts contiguous.

    Parameters are split over `fsdp` devices and copied over the `data` axis. Devices
    are ordered by host, so that a host's rows of the batch are those that it has read.
    """
    devices = list(jax.devices() if devices is None else devices)
    if fsdp < 1 or len(devices) % fsdp:
        raise ValueError(
            f"parallel.fsdp {fsdp} must divide the number of devices, {len(devices)}"
        )
    devices.sort(key=lambda device: (device.process_index, device.id))
    return Mesh(np.array(devices, object).reshape(-1, fsdp), BATCH_AXES)


def replicated(mesh):
    """A full copy on every device."""
    return NamedSharding(mesh, P())


def batch_sharding(mesh):
    """The leading axis over all devices."""
    return NamedSharding(mesh, P(BATCH_AXES))


def params_sharding(shapes, mesh, min_size=2**18):
    """A sharding for each leaf of a tree of shapes (parameters, or a train state).

    Arrays of at least min_size elements are split over the fsdp axis along their
    longest axis that divides evenly (the first of equals); all else is copied. Leaves
    that are alike are placed alike: moments and averages lie where their parameters do.
    """
    parts = mesh.shape["fsdp"]

    def place(leaf):
        if parts > 1 and math.prod(leaf.shape) >= min_size:
            for axis in sorted(range(len(leaf.shape)), key=lambda i: -leaf.shape[i]):
                if leaf.shape[axis] % parts == 0:
                    return NamedSharding(mesh, P(*[None] * axis, "fsdp"))
        return replicated(mesh)

    return jax.tree.map(place, shapes)


def put_batch(batch, mesh):
    """This host's rows (numpy, a tree) -> global arrays over the mesh."""
    sharding = batch_sharding(mesh)
    return jax.tree.map(
        lambda x: jax.make_array_from_process_local_data(sharding, x), batch
    )


def put_tree(held, mesh, title, widen=True):
    """A tree of weights.tensors.Tensor or arrays -> arrays on their devices.

    Each is read when its turn comes, with a bar meanwhile, and goes straight where
    `params_sharding` says. widen: floats become float32.
    """
    leaves, structure = jax.tree.flatten(held)
    places = jax.tree.leaves(params_sharding(held, mesh))
    bar = tqdm.tqdm(leaves, title, unit="array", disable=not leaves)

    def read(leaf):
        array = leaf.read() if hasattr(leaf, "read") else leaf
        return _as_float32(array) if widen else array

    put = [jax.device_put(read(leaf), at) for leaf, at in zip(bar, places, strict=True)]
    return jax.tree.unflatten(structure, put)


def _as_float32(array):
    floating = jnp.issubdtype(array.dtype, jnp.floating)
    return array.astype(np.float32, copy=False) if floating else array


def whole_batch(batch_size, devices):
    """The least multiple of the number of devices that is not less than batch_size."""
    return -(-batch_size // devices) * devices


def check_batch(batch_size, mesh, hosts=1, accumulation=1):
    """Raises ValueError unless the (micro-)batch divides by the hosts and devices."""
    if batch_size % hosts:
        raise ValueError(
            f"data.batch_size {batch_size} must be a multiple of the number of hosts, "
            f"{hosts}"
        )
    if accumulation < 1 or batch_size % (accumulation * mesh.size):
        micro = f" times {accumulation} micro-batches" if accumulation != 1 else ""
        raise ValueError(
            f"data.batch_size {batch_size} must be a multiple of the number of "
            f"devices, {mesh.size}{micro}"
        )
