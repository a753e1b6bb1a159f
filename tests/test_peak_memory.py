"""Files much larger than the memory that reading and writing them takes."""

import os
import pathlib
import subprocess
import sys

import forge
import msgpack
import numpy as np
import pytest

TESTS = pathlib.Path(__file__).resolve().parent
COUNT, EACH = 20, 10 * 2**20  # arrays of 10 MB, together 200
MOST = 60 * 2**20
ROW = np.arange(EACH // 4, dtype=np.float32)


def tensors(*view):
    """{name: opcodes of a tensor with a storage of its own}."""
    kind = ("FloatStorage", ROW.size, *view)
    held = {f"a{i}": forge.storage(str(i), *kind) for i in range(COUNT)}
    return {name: forge.tensor(x, 0, ROW.shape, (1,)) for name, x in held.items()}


def zipped():
    return forge.zipped(tensors(), {str(i): ROW.tobytes() for i in range(COUNT)})


def legacy():
    rows = [(str(i), ROW.size, ROW.tobytes()) for i in range(COUNT)]
    return forge.legacy(tensors(None), rows)


def safetensors():
    told = {"dtype": "F32", "shape": [ROW.size]}
    header = {
        f"a{i}": told | {"data_offsets": [i * EACH, (i + 1) * EACH]}
        for i in range(COUNT)
    }
    return forge.safetensors(header, ROW.tobytes() * COUNT)


def flax():
    array = forge.extension(ROW.shape, "float32", ROW.tobytes())
    return msgpack.packb({f"a{i}": array for i in range(COUNT)})


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
@pytest.mark.parametrize("make", [zipped, legacy, safetensors, flax])
def test_one_array_at_a_time_is_in_memory(make, tmp_path):
    path, out = tmp_path / "file", tmp_path / "out.safetensors"
    path.write_bytes(make())
    found = subprocess.run(
        [sys.executable, "-m", "peak_memory", path, out],
        env=os.environ | {"PYTHONPATH": f"{TESTS}{os.pathsep}{TESTS.parent}"},
        check=True,
        capture_output=True,
        text=True,
    )
    read, written = map(int, found.stdout.split())
    assert EACH // 2 < read <= written < MOST
    assert path.stat().st_size > 3 * MOST < out.stat().st_size
