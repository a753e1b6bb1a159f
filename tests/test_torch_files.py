"""Checkpoints of torch.save, forged byte by byte: what is read, and how lazily."""

import io
import os
import pickle
import sys
import tracemalloc
import zipfile

import forge
import hostile_pickles
import ml_dtypes
import numpy as np
import pytest

from ldm_jax.weights import pickle_machine, reading, tensors, zips

KINDS = {
    "FloatStorage": np.float32,
    "DoubleStorage": np.float64,
    "HalfStorage": np.float16,
    "BFloat16Storage": ml_dtypes.bfloat16,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ShortStorage": np.int16,
    "CharStorage": np.int8,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
    "ComplexFloatStorage": np.complex64,
    "ComplexDoubleStorage": np.complex128,
}


@pytest.fixture
def opened(tmp_path):
    def open_bytes(data):
        (tmp_path / "file.ckpt").write_bytes(data)
        return reading.open_file(tmp_path / "file.ckpt")

    return open_bytes


@pytest.mark.parametrize("make", [forge.zipped, forge.legacy])
def test_a_tensor_is_read(opened, make):
    source = opened(make())
    tensor = source.tensors["a"]
    assert source.format in ("torch zip", "torch legacy pickle")
    assert (tensor.shape, tensor.dtype) == ((2, 3), np.float32)
    first, second = tensor.read(), tensor.read()
    np.testing.assert_array_equal(first, forge.NUMBERS.reshape(2, 3))
    assert first.flags.c_contiguous and not np.shares_memory(first, second)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_storage(opened, kind):
    numbers = np.arange(6).astype(KINDS[kind])
    tree = {"a": forge.tensor(forge.storage("0", kind, 6))}
    have = opened(forge.zipped(tree, {"0": numbers.tobytes()})).tensors["a"].read()
    assert have.dtype == KINDS[kind]
    np.testing.assert_array_equal(have, numbers.reshape(2, 3))


def test_types_without_a_storage_of_their_own(opened):
    numbers = np.arange(6).astype(ml_dtypes.float8_e4m3fn)
    held = forge.storage("0", "UntypedStorage", 6)
    made = (held, 0, (2, 3), (3, 1), False, {}, forge.name("torch", "float8_e4m3fn"))
    tree = {"a": forge.call("torch._utils", "_rebuild_tensor_v3", *made)}
    have = opened(forge.zipped(tree, {"0": numbers.tobytes()})).tensors["a"].read()
    np.testing.assert_array_equal(have, numbers.reshape(2, 3))


@pytest.mark.parametrize("shape", [(3, 2), (2, 1), (1, 2), (), (1, 1), (2, 0, 3)])
@pytest.mark.parametrize("offset", [0, 1])
def test_any_strides_within_the_storage(opened, shape, offset):
    strides = (1, 2, 2)[: len(shape)]
    if shape == (3, 2):
        strides, offset = (1, 3), 0
    tree = {"a": forge.tensor(None, offset, shape, strides)}
    want = np.lib.stride_tricks.as_strided(
        forge.NUMBERS[offset:], shape, [4 * step for step in strides]
    )
    have = opened(forge.zipped(tree)).tensors["a"].read()
    np.testing.assert_array_equal(have, want)
    assert have.shape == shape and have.flags.c_contiguous


def test_tensors_share_a_storage(opened):
    rows = {str(i): forge.tensor(None, 3 * i, (3,), (1,)) for i in range(2)}
    source = opened(forge.zipped({**rows, "all": forge.tensor()}))
    assert source.tensors["1"].read().tolist() == [3, 4, 5]
    assert source.tensors["all"].read().shape == (2, 3)


def test_views_of_the_oldest_torch(opened):
    view = forge.storage("0", "FloatStorage", 6, ("1", 2, 4))
    source = opened(forge.legacy({"a": forge.tensor(view, 1, (2,), (1,))}))
    assert source.tensors["a"].read().tolist() == [3, 4]


def test_only_the_bytes_of_a_tensor_are_read(opened, monkeypatch):
    source = opened(forge.zipped({"a": forge.tensor(None, 4, (2,), (1,))}))
    asked = []
    monkeypatch.setattr(
        tensors, "fill", lambda array, path, start: asked.append(array.nbytes)
    )
    source.tensors["a"].read()
    assert asked == [8]


def test_a_file_that_changed_is_named(opened):
    source = opened(forge.zipped())
    os.truncate(source.path, 100)
    with pytest.raises(tensors.Refused, match=r"file.ckpt ends within an array"):
        source.tensors["a"].read()


def test_sizes_and_ends_of_64_bits(opened):
    """As torch writes beyond 4 GB: the real numbers stand in other records."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as made:
        with made.open("x/data.pkl", "w", force_zip64=True) as member:
            member.write(forge.pickled({"a": forge.tensor()}))
        made.writestr(zipfile.ZipInfo("x/data/0"), forge.SIX)
    whole = file.getvalue()
    *head, count, length, start, _ = zips.END.unpack(whole[-zips.END.size :])
    end = len(whole) - zips.END.size
    fields = (44, 45, 45, 0, 0, count, count, length, start)
    record = zips.END_64.pack(b"PK\6\6", *fields)
    locator = zips.LOCATOR_64.pack(b"PK\6\7", 0, end, 1)
    last = zips.END.pack(*head, 2**16 - 1, 2**32 - 1, 2**32 - 1, 0)
    source = opened(whole[:end] + record + locator + last)
    assert source.tensors["a"].read()[1].tolist() == [3, 4, 5]


def lightning_tree():
    callback = "pytorch_lightning.callbacks.model_checkpoint"
    config = forge.Ops(
        forge.call("omegaconf.dictconfig", "DictConfig") + forge.value({"x": 1}) + b"b"
    )
    scalar = pickle.dumps(np.float64(0.25), 2)[2:-1]
    return {
        "epoch": 3,
        "global_step": 470000,
        "pytorch-lightning_version": "1.4.2",
        "best": forge.Ops(scalar.replace(b"numpy._core", b"numpy.core")),
        "state_dict": forge.Ops(
            forge.call("collections", "OrderedDict")
            + b"("
            + forge.value("model.a")
            + forge.tensor()
            + forge.value("model_ema.decay")
            + forge.tensor(None, 0, (), ())
            + b"u"
            + forge.value({"_metadata": {"": {"version": 1}}})
            + b"b"
        ),
        "callbacks": forge.Ops(
            b"}"
            + forge.name(callback, "ModelCheckpoint")
            + forge.value({"best_model_score": forge.tensor()})
            + b"s"
        ),
        "optimizer_states": [{"state": {0: {"exp_avg": forge.tensor()}}}],
        "hyper_parameters": {"config": config},
        "seen": forge.call("__builtin__", "set", [1, 2]),
    }


@pytest.mark.parametrize("make", [forge.zipped, forge.legacy])
def test_a_checkpoint_of_lightning(opened, make):
    """Its callbacks and configs stay unread, and their packages unimported."""
    source = opened(make(lightning_tree()))
    assert sorted(source.tensors) == ["model.a", "model_ema.decay"]
    assert source.meta == {
        "epoch": 3,
        "global_step": 470000,
        "pytorch-lightning_version": "1.4.2",
        "best": 0.25,
    }
    assert not {"pytorch_lightning", "omegaconf"} & set(sys.modules)


def test_a_placeholder_is_refused_where_a_tensor_should_be(opened):
    made = forge.call("omegaconf.dictconfig", "DictConfig")
    tree = {"state_dict": {"unet": {"weight": made}}}
    said = r"'unet.weight' is an object of omegaconf.dictconfig.DictConfig, no tensor"
    with pytest.raises(tensors.Refused, match=said):
        opened(forge.zipped(tree))


def test_nested_dicts_and_arrays_of_numpy(opened):
    array = np.asfortranarray(np.arange(6.0).reshape(2, 3))
    tree = {
        "params": {"conv": {"kernel": forge.tensor(), 3: forge.tensor()}},
        "array": forge.Ops(pickle.dumps(array, 2)[2:-1]),
        "text": "word",
    }
    source = opened(forge.zipped(tree))
    assert sorted(source.tensors) == ["array", "params.conv.3", "params.conv.kernel"]
    have = source.tensors["array"].read()
    np.testing.assert_array_equal(have, array)
    assert have.flags.c_contiguous and source.meta == {"text": "word"}


def test_parameters(opened):
    made = (forge.tensor(), True, {})
    source = opened(
        forge.zipped({"a": forge.call("torch._utils", "_rebuild_parameter", *made)})
    )
    assert source.tensors["a"].read().shape == (2, 3)


@pytest.mark.parametrize("make", [forge.zipped, forge.legacy])
def test_words_of_textual_inversion(opened, make):
    """A ParameterDict is a dict of its parameters; all else in it stays unread."""
    made = (forge.tensor(forge.storage("0", "FloatStorage", 6)), True, {})
    held = {"*": forge.call("torch._utils", "_rebuild_parameter", *made), "b": None}
    state = {"_keys": {"*": None}, "_buffers": {"c": 1}, "training": True}
    tree = {"string_to_param": forge.parameters(held, **state), "name": "word"}
    source = opened(make(tree))
    assert list(source.tensors) == ["string_to_param.*"]
    assert source.tensors["string_to_param.*"].read().tolist() == [[0, 1, 2], [3, 4, 5]]
    assert source.meta == {"name": "word", "string_to_param.b": None}


@pytest.mark.parametrize("kind", hostile_pickles.LONG_ONES)
def test_a_text_is_not_taken_to_letters(opened, kind):
    """A tuple of its letters would be 8 times the file."""
    item, _ = hostile_pickles.ALL[kind]
    data = forge.zipped(item)
    tracemalloc.start()
    try:
        with pytest.raises(tensors.Refused):
            opened(data)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 5 * len(data)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_the_machine_reads_what_pickle_writes(protocol):
    """All but the sets, which no tensor lies in."""
    names = {"collections": "OrderedDict", "copy_reg": "_reconstructor"}
    world = pickle_machine.World(
        name=lambda module, name: names.get(module, name),
        call=lambda function, args: {} if function == "OrderedDict" else b"",
        state=lambda target, state: None,
        stored=lambda pid: pid,
    )
    shared = [1, 2]
    tree = {
        "whole": [0, 1, -1, 255, 2**16, -(2**31), 2**40, -(2**80), True, False, None],
        "text": ["", "größer", "x" * 300, "\ud800"],
        "real": [0.5, -1e300, float("inf")],
        "rows": [(), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4), [], [[]], {}],
        "shared": [shared, shared],
        7: list(range(2000)),
        2.5: {str(i): i for i in range(2000)},
    }
    if protocol > 2:
        tree["bytes"] = [b"", b"x", b"x" * 300, bytes(2**16)]
    data = io.BytesIO(pickle.dumps(tree, protocol) + b"rest")
    have = pickle_machine.run(data, world)
    assert have == tree and have["shared"][0] is have["shared"][1]
    assert data.read() == b"rest"


def test_a_pickle_of_too_many_steps(opened, monkeypatch):
    monkeypatch.setattr(pickle_machine, "MAX_STEPS", 1000)
    with pytest.raises(tensors.Refused, match="more than 1000 steps"):
        opened(forge.zipped({"a": list(range(1000))}))


def test_a_pickle_of_too_many_bytes(opened, monkeypatch):
    monkeypatch.setattr(pickle_machine, "MAX_BYTES", 1000)
    for make in (forge.zipped, forge.legacy):
        with pytest.raises(tensors.Refused, match="bytes"):
            opened(make({"a": "x" * 1000}))
