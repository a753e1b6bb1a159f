"""Released .safetensors files: all types, read one array at a time."""

import json

import forge
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from ldm_jax.weights import reading, safetensors_files, tensors

PLAIN = [np.float16, np.float32, np.float64, np.int8, np.int64, np.uint8, np.bool_]


def test_a_file_of_the_library_is_read(tmp_path):
    gen = np.random.default_rng(0)
    want = {np.dtype(t).name: gen.integers(0, 2, (3, 2)).astype(t) for t in PLAIN}
    want |= {"scalar": np.array(2.5, np.float32), "empty": np.zeros((0, 3), np.float32)}
    path = tmp_path / "weights.bin"
    path.write_bytes(safetensors.numpy.save(want, {"format": "pt"}))
    source = reading.open_file(path)
    assert (source.format, source.meta) == ("safetensors", {"format": "pt"})
    assert set(source.tensors) == set(want)
    for name, tensor in source.tensors.items():
        have = tensor.read()
        assert have.dtype == tensor.dtype == want[name].dtype
        assert have.shape == tensor.shape and have.flags.c_contiguous
        np.testing.assert_array_equal(have, want[name])


@pytest.mark.parametrize("name", ["BF16", "F8_E4M3", "F8_E5M2", "F8_E8M0", "C64"])
def test_types_that_numpy_does_not_name(tmp_path, name):
    dtype = safetensors_files.DTYPES[name]
    numbers = np.array([1, 2, 4], ml_dtypes.bfloat16).astype(dtype)
    told = {"dtype": name, "shape": [3], "data_offsets": [0, numbers.nbytes]}
    path = tmp_path / "weights.safetensors"
    path.write_bytes(forge.safetensors({"a": told}, numbers.tobytes()))
    have = reading.open_file(path).tensors["a"].read()
    assert have.dtype == dtype
    np.testing.assert_array_equal(have, numbers)


@pytest.mark.parametrize("begins", [b"<", b"{", b"\x80\x02", b"\x81\xa1", b"PK", b"MZ"])
def test_a_length_that_looks_like_another_format(tmp_path, begins):
    told = {"a": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}}
    size = int.from_bytes(begins, "little")
    path = tmp_path / "weights.safetensors"
    path.write_bytes(forge.safetensors(json.dumps(told).encode().ljust(size), b"x"))
    assert path.read_bytes().startswith(begins)
    assert reading.open_file(path).format == "safetensors"


def test_only_the_bytes_of_a_tensor_are_read(tmp_path, monkeypatch):
    path = tmp_path / "weights.safetensors"
    arrays = {"a": np.arange(3.0), "b": np.arange(1000.0)}
    path.write_bytes(safetensors.numpy.save(arrays))
    source, asked, fill = reading.open_file(path), [], tensors.fill

    def counted(array, path, start):
        asked.append(array.nbytes)
        fill(array, path, start)

    monkeypatch.setattr(tensors, "fill", counted)
    assert source.tensors["a"].read().tolist() == [0, 1, 2]
    assert asked == [24]


def test_a_type_without_whole_bytes_is_named(tmp_path):
    path = tmp_path / "weights.safetensors"
    told = {"dtype": "F4", "shape": [2], "data_offsets": [0, 1]}
    path.write_bytes(forge.safetensors({"a": told}, b"x"))
    with pytest.raises(tensors.Refused, match=r"'a' has numbers of type F4"):
        reading.open_file(path)
