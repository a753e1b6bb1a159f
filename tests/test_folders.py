"""Folders of diffusers and transformers: components, variants, shards."""

import json

import flax.serialization
import forge
import numpy as np
import pytest
import safetensors.numpy

from ldm_jax.weights import folders, strict_json, tensors

INDEX = {
    "_class_name": "StableDiffusionPipeline",
    "unet": ["diffusers", "UNet2DConditionModel"],
    "scheduler": ["diffusers", "PNDMScheduler"],
    "safety_checker": [None, None],
}


ALL = ("", "unet", "vae", "text_encoder", "controlnet")


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, dict):
        content = json.dumps(content).encode()
    path.write_bytes(content)


def weights(**arrays):
    return safetensors.numpy.save(
        {k: np.array(v, np.float32) for k, v in arrays.items()}
    )


@pytest.fixture
def root(tmp_path):
    """A pipeline with one component of each kind of file."""
    root = tmp_path / "model"
    write(root / "model_index.json", INDEX)
    write(root / "scheduler/scheduler_config.json", {"beta_end": 0.012})
    write(root / "tokenizer/vocab.json", {})
    flax_bytes = flax.serialization.to_bytes({"a": np.float32(5)})
    files = {
        "unet/diffusion_pytorch_model.safetensors": weights(a=1),
        "unet/diffusion_pytorch_model.bin": b"never opened",
        "unet/diffusion_pytorch_model.fp16.safetensors": weights(a=2),
        "text_encoder/model.safetensors": weights(a=3),
        "vae/diffusion_pytorch_model.bin": forge.zipped(),
        "controlnet/diffusion_flax_model.msgpack": flax_bytes,
    }
    for name, data in files.items():
        write(root / name, data)
        write(root / name.split("/")[0] / "config.json", {"in": name.split("/")[0]})
    return root


def test_components_by_their_names(root):
    found = folders.open_folder(root, only=ALL)
    assert {name: source.format for name, source in found.components.items()} == {
        "unet": "safetensors",
        "text_encoder": "safetensors",
        "vae": "torch zip",
        "controlnet": "flax msgpack",
    }
    assert found.components["unet"].tensors["a"].read() == 1
    assert found.configs["vae"] == {"in": "vae"}
    assert found.configs["scheduler"] == {"beta_end": 0.012}


def test_only_what_is_wanted_and_there_is_opened(root):
    write(root / "vae/diffusion_pytorch_model.bin", b"broken")
    found = folders.open_folder(root, only=["unet", "text_encoder_2"])
    assert list(found.components) == ["unet"] and "vae" in found.configs
    assert folders.open_folder(root).components == {}


def test_each_json_is_parsed_once(root, monkeypatch):
    read, files = strict_json.read, []
    monkeypatch.setattr(strict_json, "read", lambda p: files.append(p) or read(p))
    found = folders.open_folder(root, only=ALL)
    assert len(files) == len(set(files)) == len(found.configs) == 5


def test_a_component_by_itself(root):
    found = folders.open_folder(root / "unet", only=ALL)
    assert found.configs == {"": {"in": "unet"}}
    assert found.components[""].tensors["a"].read() == 1


def test_a_variant_is_taken_when_asked_for(root):
    found = folders.open_folder(root, variant="fp16", only=["unet"])
    assert found.components["unet"].tensors["a"].read() == 2
    said = r"vae has no weights: expected one of .*variant 'fp16'; it has diffusion_py"
    with pytest.raises(FileNotFoundError, match=said + ".*: leave --variant out$"):
        folders.open_folder(root, variant="fp16", only=["vae"])


@pytest.mark.parametrize(
    "name",
    [
        "diffusion_pytorch_model.fp16.safetensors",
        "diffusion_pytorch_model.fp16.bin",
        "diffusion_pytorch_model.fp16-00001-of-00002.safetensors",
    ],
)
def test_a_variant_that_would_do_is_told(root, name):
    (root / "vae/diffusion_pytorch_model.bin").rename(root / "vae" / name)
    said = rf"vae has no weights: .*; it has {name}: add --variant=fp16$"
    with pytest.raises(FileNotFoundError, match=said):
        folders.open_folder(root, only=["vae"])


def test_other_files_are_told_without_a_hint(root):
    (root / "vae/diffusion_pytorch_model.bin").rename(root / "vae/ema.fp16.bin")
    with pytest.raises(FileNotFoundError, match=r"; it has ema\.fp16\.bin$"):
        folders.open_folder(root, only=["vae"])


@pytest.fixture
def shards(tmp_path):
    folder = tmp_path / "unet"
    files = [f"diffusion_pytorch_model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    write(folder / "config.json", {})
    write(folder / files[0], weights(a=1, b=2))
    write(folder / files[1], weights(c=3))
    weight_map = {"a": files[0], "c": files[1], "b": files[0]}
    index = folder / "diffusion_pytorch_model.safetensors.index.json"
    write(index, {"metadata": {"total_size": 12}, "weight_map": weight_map})
    return folder


def test_shards_are_merged(shards):
    source = folders.open_folder(shards, only=ALL).components[""]
    assert {k: float(t.read()) for k, t in source.tensors.items()} == dict(
        a=1, b=2, c=3
    )
    assert source.format == "safetensors"
    assert source.path.name == "diffusion_pytorch_model.safetensors.index.json"
    assert source.files == tuple(sorted(shards.glob("*-of-*")))


@pytest.mark.parametrize(
    "change, said",
    [
        ({"b": None}, r"does not list 1 arrays of \S*00001-of-00002.safetensors, .* b"),
        ({"a": None, "b": None, "c": 0}, "'c' is not in"),
        ({"c": 1, "d": 0}, "'d' is not in"),
    ],
)
def test_an_index_lists_all_arrays_of_its_files(shards, change, said):
    index = shards / "diffusion_pytorch_model.safetensors.index.json"
    weight_map = json.loads(index.read_text())["weight_map"]
    files = [weight_map["a"], weight_map["c"]]
    weight_map |= {n: files[i] for n, i in change.items() if i is not None}
    weight_map = {n: f for n, f in weight_map.items() if change.get(n, 0) is not None}
    write(index, {"weight_map": weight_map})
    with pytest.raises(tensors.Refused, match=said) as error:
        folders.open_folder(shards, only=ALL)
    assert str(index) in str(error.value)


@pytest.mark.parametrize(
    "weight_map, said",
    [
        ({"a": "../../etc/passwd"}, "outside its folder: '../../etc/passwd'"),
        ({"a": "/etc/passwd"}, "outside its folder"),
        ({"a": "..\\x"}, "which is missing"),
        ({"a": ".."}, "which is missing|outside its folder"),
        ({"a": 3}, "outside its folder: 3"),
        ({"a": "x.safetensors"}, "names x.safetensors, which is missing"),
        ({"z": "SHARD"}, "'z' is not in diffusion_pytorch_model-00001"),
        ({}, "has no weight_map"),
        ([], "has no weight_map"),
    ],
)
def test_a_broken_index_is_named(shards, weight_map, said):
    first = "diffusion_pytorch_model-00001-of-00002.safetensors"
    if weight_map == {"z": "SHARD"}:
        weight_map = {"z": first}
    index = shards / "diffusion_pytorch_model.safetensors.index.json"
    write(index, {"weight_map": weight_map})
    with pytest.raises((tensors.Refused, FileNotFoundError), match=said) as error:
        folders.open_folder(shards, only=ALL)
    assert str(index) in str(error.value)


@pytest.mark.parametrize(
    "remove, said",
    [
        ("unet/config.json", "unet has weights, but no config.json"),
        ("vae/diffusion_pytorch_model.bin", r"vae has no weights: expected one of"),
    ],
)
def test_a_missing_file_is_named(root, remove, said):
    (root / remove).unlink()
    with pytest.raises(FileNotFoundError, match=said):
        folders.open_folder(root, only=ALL)


@pytest.mark.parametrize(
    "text, said",
    [
        (b"{", "is not JSON"),
        (b"[1]", "is a JSON list, not an object"),
        (b'{"a": 1, "a": 2}', "has the key 'a' twice"),
        (b'{"a":' + b"[" * 100_000, "is not JSON"),
        (b'{"a": "\xff"}', "is not JSON"),
        (b" " * (2**24 + 1), "has 16777217 bytes, over 16777216"),
    ],
)
def test_a_broken_config_is_named(root, text, said):
    write(root / "unet/config.json", text)
    with pytest.raises(tensors.Refused, match=rf"unet/config.json {said}"):
        folders.open_folder(root)


def test_other_folders_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no folder .*none"):
        folders.open_folder(tmp_path / "none")
    with pytest.raises(FileNotFoundError, match="is no diffusers folder"):
        folders.open_folder(tmp_path)
