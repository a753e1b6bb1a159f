"""The part of HDF5 that Keras' weights need, on a file of h5py's: see test_hed.py.

That the arrays arrive is tested there; here, that other and broken files are refused.
"""

import lzma
import pathlib

import numpy as np
import pytest

from ldm_jax.weights import hdf5_files, tensors

FILE = pathlib.Path(__file__).with_name("hed.h5.xz")
FLOAT64 = hdf5_files.FLOAT32[:4] + bytes([8]) + hdf5_files.FLOAT32[5:]
CHILD = 136 + 32  # where the root's tree names its first node


@pytest.fixture(scope="module")
def h5():
    return lzma.decompress(FILE.read_bytes())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda data: b"", "it is no HDF5 file"),
        (
            lambda data: data[:8] + b"\2" + data[9:],
            "it is no HDF5 file, or of a later form",
        ),
        (lambda data: data[:5000], "it is cut off"),
        (lambda data: data[:-1], "it is cut off"),
        (
            lambda data: data.replace(hdf5_files.FLOAT32, FLOAT64, 1),
            "'.*vars/.' is no float32 array in one piece",
        ),
        (
            lambda data: data[:CHILD] + (136).to_bytes(8, "little") + data[CHILD + 8 :],
            "what stands at 136 is used twice",
        ),
    ],
)
def test_other_or_broken_hdf5_is_refused(h5, change, words):
    with pytest.raises(tensors.Refused, match=f"the file: ({words})"):
        hdf5_files.loads(change(h5), "the file")


def test_any_byte_may_be_wrong(h5):
    """Of the structures before the first array: refused, or read, but no crash."""
    gen = np.random.default_rng(0)
    data, refused = bytearray(h5), 0
    filled = np.flatnonzero(np.frombuffer(h5, np.uint8)[:10_000])
    for place in gen.choice(filled, 40, replace=False):
        data[place] ^= gen.integers(1, 256)
        try:
            hdf5_files.loads(data)
        except tensors.Refused:
            refused += 1
        data[place] = h5[place]
    assert 0 < refused < 40
