"""The f = 8 first stage at its released width over large pictures: opt-in, long.

python -m pytest -m large
"""

import json
import pathlib
import subprocess
import sys

import pytest

pytestmark = pytest.mark.large
SCRIPT = pathlib.Path(__file__).with_name("large_picture.py")


def figures(*flags):
    command = [sys.executable, SCRIPT, *flags]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
    return json.loads(done.stdout)


def test_strips_equal_the_whole():
    told = figures("--side=256", "--whole")
    for name in ("latent", "picture"):
        assert told[f"{name}_difference"] < 1e-3 * told[f"{name}_largest"]


def test_2048_pixels_a_side_in_8_gib():
    told = figures("--side=2048")
    assert max(told["encode_peak_bytes"], told["decode_peak_bytes"]) < 8 * 2**30
