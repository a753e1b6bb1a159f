"""Files that torch itself writes, in both formats, against torch.load bit for bit."""

import collections

import numpy as np
import pytest

from ldm_jax.weights import reading

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.parity

TYPES = [
    *("float32", "float64", "float16", "bfloat16", "complex64", "complex128"),
    *("int64", "int32", "int16", "int8", "uint8", "bool"),
    *("uint16", "uint32", "uint64"),
    *("float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz"),
]


@pytest.fixture(params=["torch zip", "torch legacy pickle"])
def saved(tmp_path, request):
    """Saves, opens and compares all tensors; (Source, what torch loads)."""

    def save(tree, flat):
        path, new = tmp_path / "file.ckpt", request.param == "torch zip"
        torch.save(tree, path, _use_new_zipfile_serialization=new)
        source = reading.open_file(path)
        assert source.format == request.param
        assert set(source.tensors) == set(flat)
        for name, tensor in source.tensors.items():
            assert_same_bits(tensor, flat[name])
        return source

    return save


def assert_same_bits(tensor, want):
    have = tensor.read()
    want = want.detach()
    assert have.dtype == tensor.dtype and have.shape == tensor.shape
    assert have.shape == tuple(want.shape) and have.flags.c_contiguous
    assert have.dtype.name == str(want.dtype).removeprefix("torch.")
    raw = want.contiguous().reshape(-1).view(torch.uint8).numpy()
    np.testing.assert_array_equal(have.reshape(-1).view(np.uint8), raw)


@pytest.mark.parametrize("name", TYPES)
def test_every_type(saved, name):
    numbers = torch.tensor([[0.0, 1.0, 2.0], [4.0, 8.0, 0.5]])
    tree = {"a": numbers.to(getattr(torch, name))}
    saved(tree, tree)


def test_every_layout(saved):
    gen = torch.Generator().manual_seed(0)
    whole = torch.randn(4, 5, 6, generator=gen)
    tree = {
        "whole": whole,
        "transposed": whole.permute(2, 0, 1),
        "channels_last": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
        "part": whole[1:3, ::2, 4],
        "column": whole[:, 2:3, 1],
        "row": whole[3],
        "scalar": torch.tensor(2.5),
        "element": whole[1, 2, 3],
        "empty": torch.zeros(0, 3),
        "parameter": torch.nn.Parameter(whole[0].T),
        "frozen": torch.nn.Parameter(torch.ones(3), requires_grad=False),
    }
    tree["tied"] = tree["whole"]
    saved(tree, tree)


def test_parameters_with_attributes(saved):
    parameter = torch.nn.Parameter(torch.ones(3))
    parameter.note = "x"
    saved({"a": parameter}, {"a": parameter})


@pytest.mark.parametrize("count", [1, 2])
def test_words_of_textual_inversion(saved, count):
    """As their code saves it: a module, torch's own dict of parameters."""
    rows = torch.arange(8.0 * count).reshape(count, 8)
    words = torch.nn.ParameterDict({"*": torch.nn.Parameter(rows)})
    words["second"] = torch.nn.Parameter(rows.T, requires_grad=False)
    tree = {"string_to_token": {"*": torch.tensor(265)}, "string_to_param": words}
    flat = {f"string_to_param.{name}": tensor for name, tensor in words.items()}
    saved(tree, flat | {"string_to_token.*": torch.tensor(265)})


def test_the_state_of_a_module(saved):
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.LSTM(4, 2)
    )
    state = net.half().state_dict()
    assert hasattr(state, "_metadata")
    saved(state, state)


def test_a_checkpoint_as_lightning_writes_it(saved):
    net = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(net.parameters())
    net(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    tree = {
        "epoch": 4,
        "global_step": np.int64(12),
        "loss": np.float64(0.25),
        "state_dict": net.state_dict(),
        "optimizer_states": [optimizer.state_dict()],
        "lr_schedulers": [schedule.state_dict()],
        "callbacks": {torch.optim.AdamW: {"best": torch.tensor(1.0), "seen": {1, 2}}},
        "hyper_parameters": collections.defaultdict(dict, rates=np.arange(3.0)),
        "sizes": torch.Size([1, 2]),
        "device": torch.device("cpu"),
    }
    source = saved(tree, net.state_dict())
    assert source.meta == {"epoch": 4, "global_step": 12, "loss": 0.25}


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_protocol(tmp_path, protocol):
    tree = {"a": torch.arange(6.0).reshape(2, 3).T}
    for new in (True, False):
        path = tmp_path / "file.ckpt"
        torch.save(
            tree, path, pickle_protocol=protocol, _use_new_zipfile_serialization=new
        )
        assert_same_bits(reading.open_file(path).tensors["a"], tree["a"])


def test_a_whole_module_is_refused(tmp_path):
    for new in (True, False):
        path = tmp_path / "file.ckpt"
        torch.save(torch.nn.Linear(2, 2), path, _use_new_zipfile_serialization=new)
        with pytest.raises(ValueError, match=r"module|torch\.nn\.modules\.linear"):
            reading.open_file(path)


def test_a_torchscript_archive_is_refused(tmp_path):
    path = tmp_path / "file.pt"
    torch.jit.script(torch.nn.Linear(2, 2)).save(path)
    with pytest.raises(ValueError, match="compressed|TorchScript"):
        reading.open_file(path)
