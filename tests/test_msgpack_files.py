"""Flax's msgpack files, as `flax.serialization` writes and reads them."""

import flax.serialization
import forge
import ml_dtypes
import msgpack
import numpy as np
import pytest

from ldm_jax.weights import reading, tensors

TYPES = ["float16", "float32", "float64", "int8", "int64", "uint8", "bool", "complex64"]


@pytest.fixture
def opened(tmp_path):
    def open_tree(tree):
        path = tmp_path / "flax_model.msgpack"
        path.write_bytes(flax.serialization.to_bytes(tree))
        return reading.open_file(path)

    return open_tree


def test_a_tree_is_read(opened):
    gen = np.random.default_rng(0)
    conv = {name: gen.integers(0, 2, (2, 3)).astype(name) for name in TYPES}
    tree = {
        "down_blocks_0": {"conv": conv, "norm": {"scale": np.ones(70_000)}},
        "half": np.arange(3).astype(ml_dtypes.bfloat16),
        "step": np.int32(7),
        "empty": np.zeros((0, 4), np.float32),
        "plain": {"a": 1, "b": -5, "c": 1.5, "d": "größer", "e": None, "f": 2 + 1j},
    }
    source = opened(tree)
    have = {name: tensor.read() for name, tensor in source.tensors.items()}
    want = {f"down_blocks_0.conv.{name}": array for name, array in conv.items()}
    want |= {name: tree[name] for name in ("half", "step", "empty")}
    want["down_blocks_0.norm.scale"] = np.ones(70_000)
    assert set(have) == set(want) and source.format == "flax msgpack"
    for name, array in have.items():
        assert array.dtype == source.tensors[name].dtype == want[name].dtype
        assert array.shape == source.tensors[name].shape == want[name].shape
        np.testing.assert_array_equal(array, want[name])
    assert source.meta == {f"plain.{k}": v for k, v in tree["plain"].items()}


@pytest.mark.parametrize("count", [15, 16, 70_000])
def test_every_size_of_a_map(tmp_path, count):
    array = forge.extension((1,), "int8", b"\x07")
    path = tmp_path / "flax_model.msgpack"
    path.write_bytes(msgpack.packb({str(i): array for i in range(count)}))
    source = reading.open_file(path)
    assert len(source.tensors) == count
    assert source.tensors[str(count - 1)].read() == [7]


def test_arrays_in_chunks(opened, monkeypatch):
    """Flax cuts arrays from 1 GB on."""
    monkeypatch.setattr(flax.serialization, "MAX_CHUNK_SIZE", 40)
    array = np.arange(60, dtype=np.float32).reshape(3, 4, 5)
    source = opened({"net": {"kernel": array, "bias": np.zeros(3, np.float32)}})
    kernel = source.tensors["net.kernel"]
    assert sorted(source.tensors) == ["net.bias", "net.kernel"]
    assert kernel.shape == (3, 4, 5) and kernel.read().flags.c_contiguous
    np.testing.assert_array_equal(kernel.read(), array)


def test_only_the_bytes_of_an_array_are_read(opened, monkeypatch):
    source = opened({"a": np.arange(3.0), "b": np.arange(1000.0)})
    asked = []
    monkeypatch.setattr(
        tensors, "fill", lambda array, path, start: asked.append(array.nbytes)
    )
    source.tensors["a"].read()
    assert asked == [24]


def test_a_file_that_changed_is_named(opened):
    source = opened({"a": np.arange(1000.0)})
    source.path.write_bytes(source.path.read_bytes()[:100])
    with pytest.raises(tensors.Refused, match="flax_model.msgpack ends within"):
        source.tensors["a"].read()
