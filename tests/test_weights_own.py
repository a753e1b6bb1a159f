"""The project's own weights file: round trips, and damaged or hostile files."""

import json

import forge
import hostile
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from ldm_jax.weights import own, reading, tensors

CONFIG = {"task": "diffusion", "unet": {"mult": [1, 2], "dropout": 0.1}}
META = {"step": 7, "note": "größer"}


def make_params():
    gen = np.random.default_rng(0)
    return {
        "unet": {"conv": {"kernel": gen.standard_normal((3, 3, 2, 4), np.float32)}},
        "first_stage": {"scale": np.float32(0.5), "codes": np.arange(5)},
        "half": jnp.asarray(gen.standard_normal(3), jnp.bfloat16),
    }


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "weights.safetensors"
    own.save_weights(path, make_params(), CONFIG, META)
    return path


def header(**entries):
    """A file with one array and these header entries."""
    return safetensors.numpy.save({"a": np.zeros(1)}, entries or None)


def test_round_trip(path):
    params, config, meta = own.load_weights(path)
    want = make_params()
    assert (config, meta) == (CONFIG, META)
    assert set(params) == set(want)
    kernel = params["unet"]["conv"]["kernel"]
    np.testing.assert_array_equal(kernel, want["unet"]["conv"]["kernel"])
    np.testing.assert_array_equal(params["first_stage"]["codes"], np.arange(5))
    assert params["first_stage"]["scale"] == np.float32(0.5)
    assert params["first_stage"]["scale"].shape == ()
    assert params["half"].dtype == np.float32
    np.testing.assert_array_equal(params["half"], np.asarray(want["half"], np.float32))
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_the_hash_of_parameters_is_of_names_types_and_numbers():
    found = {own.digest_of(make_params())}
    assert found == {own.digest_of(make_params())}
    for change in (np.float32(0.25), np.float64(0.5), np.float32([0.5])):
        params = make_params()
        params["first_stage"]["scale"] = change
        found.add(own.digest_of(params))
    found.add(own.digest_of({"net": make_params()}))
    assert len(found) == 5 and all(len(text) == 12 for text in found)


def test_a_number_that_does_not_fit_is_named(tmp_path):
    params = {"unet": {"kernel": np.float32([1.0, 1e5])}}
    with pytest.raises(ValueError, match="unet/kernel has numbers that float16 cannot"):
        own.save_weights(tmp_path / "x", params, CONFIG, META, dtype="float16")
    assert not list(tmp_path.iterdir())
    own.save_weights(tmp_path / "x", params, CONFIG, META, dtype="bfloat16")


def test_half_precision_is_read_as_float32(tmp_path, path):
    small = tmp_path / "small.safetensors"
    own.save_weights(small, make_params(), CONFIG, META, dtype="float16")
    assert small.stat().st_size < path.stat().st_size
    params, _, _ = own.load_weights(small)
    kernel = make_params()["unet"]["conv"]["kernel"]
    have = params["unet"]["conv"]["kernel"]
    assert have.dtype == np.float32
    np.testing.assert_array_equal(have, kernel.astype(np.float16).astype(np.float32))
    assert params["first_stage"]["codes"].dtype == np.arange(5).dtype


def test_equal_content_has_an_equal_digest(tmp_path, path):
    digests = set()
    for i in range(8):
        again = tmp_path / f"{i}.safetensors"
        own.save_weights(again, make_params(), CONFIG, META)
        digests.add(own.digest(again))
    assert digests == {own.digest(path)}
    assert len(own.digest(path)) == 12
    own.save_weights(again, make_params(), CONFIG, {"step": 8})
    assert own.digest(again) != own.digest(path)


@pytest.mark.parametrize("size", [0, 4, 60, -1])
def test_truncated_files_are_refused_by_name(path, size):
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(ValueError, match=r"weights.safetensors is not a whole"):
        own.load_weights(path)


TOO_LARGE = b'{"a":{"dtype":"F32","shape":[999999999],"data_offsets":[0,3999999996]}}'
HOSTILE = {
    "huge header": (2**62).to_bytes(8, "little") + b"{}",
    "not JSON": (8).to_bytes(8, "little") + b"garbage!",
    "pickle": b"\x80\x04\x95\x00\x00\x00\x00\x00\x00\x00c" + bytes(64),
    "out of range": len(TOO_LARGE).to_bytes(8, "little") + TOO_LARGE,
    "foreign": header(),
    "config no JSON": header(config="{", meta="{}"),
    "config no object": header(config="[1]", meta="{}"),
    "deep JSON": header(config="[" * 100_000, meta="{}"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_files_are_refused_by_name(path, kind):
    path.write_bytes(HOSTILE[kind])
    with pytest.raises(ValueError, match=r"weights.safetensors"):
        own.load_weights(path)


NOT_OURS = {
    "pointer": (hostile.POINTER, "git lfs pull"),
    "web page": (b"<!DOCTYPE html><html>", "looks like a web page"),
    "torch": (forge.zipped(), None),
    "a trainer's config": (header(config="{}", format="pt"), None),
    "no metadata": (header(), None),
}


@pytest.mark.parametrize("kind", NOT_OURS)
def test_what_is_not_ours_is_left_to_the_other_reader(path, kind):
    assert own.has_header(path)
    data, said = NOT_OURS[kind]
    path.write_bytes(data)
    assert not own.has_header(path)
    if not said:
        assert list(reading.open_file(path).tensors) == ["a"]
        return
    with pytest.raises(tensors.Refused, match=rf"weights.safetensors: .*{said}"):
        reading.open_file(path)


def test_an_array_may_not_also_be_a_folder(path):
    arrays = {name: np.zeros(1) for name in ("a", "a/b/c")}
    strings = {"config": json.dumps(CONFIG), "meta": "{}"}
    path.write_bytes(safetensors.numpy.save(arrays, strings))
    with pytest.raises(ValueError, match="'a/b/c' lies under another array"):
        own.load_weights(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none.safetensors"):
        own.load_weights(tmp_path / "none.safetensors")


def test_a_failed_write_leaves_the_old_file(path):
    before = path.read_bytes()
    with pytest.raises(TypeError):
        own.save_weights(path, make_params(), {"bad": object()}, META)
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_check_tree_names_what_differs(path):
    params, _, _ = own.load_weights(path)
    own.check_tree(params, params)
    wanted = {**params, "unet": {"conv": {"bias": np.zeros(4)}}}
    with pytest.raises(ValueError) as error:
        own.check_tree(params, wanted, name=str(path))
    assert str(path) in str(error.value)
    assert "(1): unet/conv/kernel" in str(error.value)
    assert "only in the config's model (1): unet/conv/bias" in str(error.value)
