"""The restricted unpickler: arrays come through, programs do not."""

import builtins
import collections
import os
import pickle

import numpy as np
import pytest

from ldm_jax.weights import pickles

TREE = {
    "conv": {"kernel": np.arange(24, dtype=np.float32).reshape(2, 3, 4)},
    "list": [np.float64(1.5), np.array([True, False]), "word", None, 3],
    "fortran": (np.asfortranarray(np.arange(6, dtype=">i2").reshape(2, 3)),),
    "ordered": collections.OrderedDict(a=np.zeros((0, 3), np.uint8)),
}


class Calls:
    """Pickles as a call of `function` with `args`."""

    def __init__(self, function, *args, state=None):
        self.reduced = (function, args) if state is None else (function, args, state)

    def __reduce__(self):
        return self.reduced


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_arrays_in_containers_come_through(protocol):
    read = pickles.loads(pickle.dumps(TREE, protocol))
    kernel = read["conv"]["kernel"]
    assert kernel.dtype == np.float32
    np.testing.assert_array_equal(kernel, TREE["conv"]["kernel"])
    np.testing.assert_array_equal(read["fortran"][0], TREE["fortran"][0])
    assert read["list"][0] == 1.5 and read["list"][2:] == ["word", None, 3]
    assert read["list"][1].tolist() == [True, False]
    assert read["ordered"]["a"].shape == (0, 3)


def test_names_of_numpy_1_and_2_are_both_read():
    new = pickle.dumps(TREE["conv"], 3)
    old = new.replace(b"numpy._core.", b"numpy.core.")
    for data in (old, old.replace(b"numpy.core.", b"numpy._core.")):
        kernel = pickles.loads(data)["kernel"]
        np.testing.assert_array_equal(kernel, TREE["conv"]["kernel"])


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize(
    "call, named",
    [
        (Calls(os.system, "touch {target}"), r"(posix|nt)\.system"),
        (
            Calls(builtins.eval, "open('{target}', 'w')"),
            r"\w+\.eval",
        ),
        (Calls(np.load, "{target}"), r"numpy\.load"),
        (Calls(getattr, 1, "real"), r"\w+\.getattr"),
    ],
)
def test_a_program_is_refused_by_name(tmp_path, call, named, protocol):
    target = tmp_path / "made"
    function, args = call.reduced
    args = [a.format(target=target) if isinstance(a, str) else a for a in args]
    data = pickle.dumps({"x": Calls(function, *args)}, protocol)
    with pytest.raises(pickles.Refused, match=f"vgg.ckpt: the global {named}"):
        pickles.loads(data, "vgg.ckpt")
    assert not target.exists()


@pytest.mark.parametrize(
    "value, said",
    [
        (np.array([{}, None], dtype=object), "dtype 'O8' is not allowed"),
        (np.zeros(2, [("a", "f4")]), "dtype 'V4' is not allowed"),
        (np.array(["word"]), "dtype 'U4' is not allowed"),
        ({"a": [1, bytearray(b"x")]}, r"vgg\.ckpt\['a'\]\[1\] is a bytearray"),
    ],
)
def test_other_values_are_refused(value, said):
    with pytest.raises(pickles.Refused, match=said):
        pickles.loads(pickle.dumps(value, 5), "vgg.ckpt")


def test_a_forged_dtype_is_refused():
    """Fields on a plain number, which numpy's own __setstate__ would take."""
    state = (3, "<", None, ("a",), {"a": (np.dtype("f4"), 0)}, 4, 1, 16)
    data = pickle.dumps(Calls(np.dtype, "f4", False, True, state=state), 3)
    with pytest.raises(pickles.Refused, match="structured dtype"):
        pickles.loads(data)


@pytest.mark.parametrize("name", ["numeric._frombuffer", "multiarray.scalar"])
def test_what_only_looks_like_a_dtype_is_refused(name):
    """An object with an attribute `dtype`, made of an OrderedDict's state."""
    forged = Calls(collections.OrderedDict, state={"dtype": "S4"})
    package, function = name.split(".")
    call = getattr(getattr(np._core, package), function)
    told = (forged, b"word") if function == "scalar" else (b"word", forged, (1,), "C")
    with pytest.raises(pickles.Refused, match="plain number"):
        pickles.loads(pickle.dumps(Calls(call, *told), 3))


def test_the_class_ndarray_cannot_be_called():
    with pytest.raises(TypeError, match="not callable"):
        pickles.loads(pickle.dumps(Calls(np.ndarray, (2, 2))))


def test_a_short_buffer_is_an_error():
    data = pickle.dumps(np.arange(6.0), 3)
    with pytest.raises(ValueError, match="reshape"):
        pickles.loads(data.replace(b"K\x06\x85", b"K\x07\x85"))


@pytest.mark.parametrize(
    "name", ["=2", "2f4", "f4,f4", "(2,)f4", b"f4", "f32", "f1", ""]
)
def test_a_dtype_is_told_by_kind_and_bytes_alone(name):
    """Numpy parses other names as expressions."""
    data = pickle.dumps(Calls(np.dtype, name), 3)
    with pytest.raises(pickles.Refused, match="is not allowed; expected numbers"):
        pickles.loads(data)


def test_a_byte_order_is_one_of_four():
    state = (3, "S", None, None, None, -1, -1, 0)
    data = pickle.dumps(Calls(np.dtype, "f4", False, True, state=state), 3)
    with pytest.raises(pickles.Refused, match="byte order is none"):
        pickles.loads(data)
