"""Broken and hostile files: each refused with the reason, nothing run, no memory."""

import builtins
import codecs
import os
import sys
import tracemalloc

import hostile
import pytest

from ldm_jax.weights import reading, tensors

MOST = 80 * 2**20  # bytes; a pickle's calls may copy 64 MB


@pytest.fixture
def calls(monkeypatch):
    """What the programs in the files would call, recorded."""
    codecs.lookup("cp437")  # zipfile's; an import calls exec
    made = []
    spied = [(os, "system"), (builtins, "eval"), (builtins, "exec")]
    for module, name in spied:
        record = lambda *args, name=name: made.append((name, args))
        monkeypatch.setattr(module, name, record)
    posix = sys.modules[os.name]
    monkeypatch.setattr(posix, "system", os.system)
    return made


@pytest.mark.parametrize("kind", hostile.FILES)
def test_refused_with_the_reason(tmp_path, monkeypatch, calls, kind):
    data, said = hostile.FILES[kind]
    path = tmp_path / "weights.ckpt"
    path.write_bytes(data)
    monkeypatch.chdir(tmp_path)
    modules = set(sys.modules)
    tracemalloc.start()
    try:
        with pytest.raises(tensors.Refused, match=rf"weights\.ckpt: .*({said})"):
            for tensor in reading.open_file(path).tensors.values():
                tensor.read()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < MOST
    assert calls == []
    assert set(sys.modules) == modules
    assert [p.name for p in tmp_path.iterdir()] == ["weights.ckpt"]


def test_there_are_many():
    assert len(hostile.FILES) >= 35


def test_refusals_are_what_the_commands_print():
    assert issubclass(tensors.Refused, ValueError)


def test_a_missing_file_and_a_folder_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no weights file .*none"):
        reading.open_file(tmp_path / "none")
    with pytest.raises(IsADirectoryError, match="is a folder"):
        reading.open_file(tmp_path)
