"""Weights written in every layout are read back as they were, to the bit."""

import collections
import dataclasses
import functools
import json
import weakref

import helpers
import jax
import ml_dtypes
import numpy as np
import orbax.checkpoint as ocp
import pytest
import safetensors.numpy
import tiny_stable_diffusion
import traced

from ldm_jax import config as config_lib
from ldm_jax import config_saved, frozen, system, trees
from ldm_jax.exchange import released, transfer
from ldm_jax.models import clip
from ldm_jax.weights import own, reading, tensors

VARIANTS = ("v1", "v1-inpainting", "v2-v", "xl-base", "xl-refiner")
OUT = {"original": "whole.safetensors"}  # of the other layouts a folder
SILENT = dict(say=lambda message: None)


@pytest.fixture(autouse=True)
def traced_once(monkeypatch):
    traced.once(monkeypatch)


def drawn(shapes, seed=0):
    """{path: array} of a tree of shapes."""
    found = trees.flatten(helpers.random_params(shapes, seed=seed))
    return {path: np.asarray(x) for path, x in found.items()}


@functools.cache
def arrays(variant):
    return drawn(released.parameter_shapes(config(variant)))


def config(variant="v1"):
    return tiny_stable_diffusion.get_config(variant)


def weights(variant="v1", **changes):
    held = {path: own.held(x) for path, x in {**arrays(variant), **changes}.items()}
    return transfer.Weights(config(variant), held, "a test")


def write(given, folder, layout, dtype=None):
    out = folder / OUT.get(layout, layout)
    transfer.WRITERS[layout](given, out, dtype)
    return out


def read(path, variant="v1", config_=None):
    told = None if path.name == "ours" else config_ or config(variant)
    return transfer.read(path, told, **SILENT)


def assert_held(found, want, dtype=np.float32):
    assert found.held.keys() == want.keys()
    for path, array in want.items():
        tensor = found.held[path]
        there = tensor.read()
        assert there.dtype == tensor.dtype == dtype and tensor.shape == array.shape
        np.testing.assert_array_equal(there, array.astype(dtype))


@pytest.mark.parametrize("layout", ["ours", "original", "diffusers"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_what_is_written_is_read_back(tmp_path, variant, layout):
    out = write(weights(variant), tmp_path, layout)
    found = read(out, variant)
    assert_held(found, arrays(variant))
    same = found.config.copy_and_resolve_references()
    same.first_stage.weights = ""
    assert same == config(variant)
    assert [path.name for path in tmp_path.iterdir()] == [out.name]


def restored(folder):
    with ocp.StandardCheckpointer() as checkpointer:
        return trees.flatten(checkpointer.restore((folder / "params").absolute()))


def test_orbax_restores_what_is_written(tmp_path):
    found = restored(write(weights(), tmp_path, "orbax", "float32"))
    assert found.keys() == arrays("v1").keys()
    for path, array in arrays("v1").items():
        np.testing.assert_array_equal(found[path], array)
    text = (tmp_path / "orbax" / "config.json").read_text()
    assert config_saved.from_json(text) == config()
    kept = restored(write(weights(), tmp_path / "as it is", "orbax"))
    assert all(x.dtype == np.float32 for x in kept.values())


DTYPES = {"float16": np.float16, "bfloat16": ml_dtypes.bfloat16}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", transfer.WRITERS)
def test_half_precision_is_the_cast_and_no_more(tmp_path, layout, dtype):
    out = write(weights(), tmp_path, layout, dtype)
    if layout != "orbax":
        assert_held(read(out), arrays("v1"), DTYPES[dtype])
        return
    for path, array in restored(out).items():
        assert array.dtype == DTYPES[dtype]
        np.testing.assert_array_equal(array, arrays("v1")[path].astype(DTYPES[dtype]))


def test_half_precision_becomes_whole_again(tmp_path):
    half = read(write(weights(), tmp_path, "original", "float16"))
    again = read(write(half, tmp_path, "ours", "float32"))
    rounded = {path: x.astype(np.float16) for path, x in arrays("v1").items()}
    assert_held(again, rounded, np.float32)


BIAS = "unet/trunk/conv_in/bias"
THEIRS = {
    "original": "model.diffusion_model.input_blocks.0.0.bias",
    "diffusers": "conv_in.bias",
}


def broken(number):
    bias = arrays("v1")[BIAS].copy()
    bias[3] = number
    return weights(**{BIAS: bias})


@pytest.mark.parametrize("layout", transfer.WRITERS)
def test_a_number_that_does_not_fit_is_named_and_nothing_is_left(tmp_path, layout):
    with pytest.raises(ValueError, match=f"{BIAS} has numbers that float16 cannot"):
        write(broken(1e5), tmp_path, layout, "float16")
    assert not list(tmp_path.iterdir())


def test_the_wider_half_takes_large_numbers(tmp_path):
    write(broken(1e5), tmp_path, "original", "bfloat16")


@pytest.mark.parametrize(
    ("layout", "number"), [("original", np.nan), ("diffusers", np.inf)]
)
def test_what_is_not_finite_is_named_as_the_file_has_it(tmp_path, layout, number):
    found = read(write(broken(number), tmp_path, layout))
    words = f"{THEIRS[layout]} has 1 of 32 numbers that are NaN or infinite"
    with pytest.raises(ValueError, match=words):
        write(found, tmp_path, "ours")
    assert not (tmp_path / "ours" / transfer.DIFFUSION).exists()


def test_whole_numbers_are_no_weights(tmp_path):
    out = write(weights(), tmp_path, "original")
    held = safetensors.numpy.load_file(out)
    held[THEIRS["original"]] = held[THEIRS["original"]].astype(np.int32)
    safetensors.numpy.save_file(held, out)
    with pytest.raises(ValueError, match=r"0.bias holds int32; 16-, 32- and 64-bit"):
        read(out).held[BIAS].read()


def test_parts_of_several_types_become_the_widest(tmp_path):
    out = write(weights(), tmp_path, "diffusers")
    file = out / "text_encoder" / "model.safetensors"
    held = safetensors.numpy.load_file(file)
    name = "text_model.encoder.layers.0.self_attn.{}_proj.bias"
    for part in "qk":
        there = name.format(part)
        held[there] = held[there].astype(np.float16)
    safetensors.numpy.save_file(held, file)
    tensor = read(out).held["cond_stage/clip_tiny/block_0/qkv/bias"]
    assert tensor.dtype == tensor.read().dtype == np.float32


def test_equal_weights_give_equal_bytes(tmp_path):
    first, second = (
        write(weights(), tmp_path / name, "original").read_bytes() for name in "ab"
    )
    assert first == second
    with open(tmp_path / "a" / OUT["original"], "rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    assert header["__metadata__"] == {"format": "pt", "from": "a test"}


@pytest.mark.parametrize("layout", ["diffusers", "orbax"])
def test_a_folder_that_is_there_is_left_alone(tmp_path, layout):
    (tmp_path / layout).mkdir()
    (tmp_path / layout / "mine.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=f"{layout} exists: name what does not"):
        write(weights(), tmp_path, layout)
    assert [path.name for path in tmp_path.rglob("*")] == [layout, "mine.txt"]


def test_the_original_layout_is_one_file(tmp_path):
    for name in ("folder", "whole.ckpt"):
        with pytest.raises(ValueError, match=f"{name}: the original layout is one"):
            transfer.to_original(weights(), tmp_path / name, None)


@pytest.mark.parametrize(
    ("layout", "dtype"), [("ours", None), ("original", "float16"), ("diffusers", None)]
)
def test_one_array_is_in_memory_at_a_time(tmp_path, layout, dtype):
    """Each is read when it is written: once for each name that it has there.

    Of a first stage that nobody knows yet once more before, for what its latents are.
    """
    alive, reads = weakref.WeakSet(), collections.Counter()

    class Kept(np.ndarray):
        """An array that a set can hold."""

        __hash__ = object.__hash__

    def watched(path, array):
        def fresh():
            assert not alive, f"{path} is read while others are held"
            reads[path] += 1
            found = array.copy().view(Kept)
            alive.add(found)
            return found

        return tensors.Tensor(array.shape, array.dtype, fresh)

    held = {path: watched(path, array) for path, array in arrays("v1").items()}
    write(dataclasses.replace(weights(), held=held), tmp_path, layout, dtype)
    names = dict.fromkeys(held, 1)
    if layout == "ours":
        encoder = ("first_stage/encoder/", "first_stage/quant_conv/")
        names |= {path: 2 for path in held if path.startswith(encoder)}
    else:
        for rows in released.rows(config(), layout).values():
            names |= {row.ours: len(row.theirs) for row in rows}
    assert reads == names
    assert max(names.values()) == (2 if layout == "ours" else 3)


def test_nothing_is_read_before_it_is_asked_for(tmp_path):
    out = write(weights(), tmp_path, "original")
    found = read(out)
    out.unlink()
    with pytest.raises(OSError, match=r"whole.safetensors"):
        found.held[BIAS].read()


def test_version_2_leaves_its_last_block_out_of_a_diffusers_folder(
    tmp_path, monkeypatch
):
    for name, depth, projection in (("openclip_h", 24, 8), ("openclip_h_23", 23, 0)):
        shape = clip.Encoder(16, depth, 2, "gelu", 0, projection)
        monkeypatch.setitem(clip.ENCODERS, name, shape)
    c = config("v2-v").copy_and_resolve_references()
    c.cond_stage.update(encoders=("openclip_h",), skip=(1,))
    c = config_lib.check(c)
    held = drawn(released.parameter_shapes(c))
    tensors_ = {path: own.held(x) for path, x in held.items()}
    given = transfer.Weights(c, tensors_, "a test")
    out = write(given, tmp_path, "diffusers")
    told = json.loads((out / "text_encoder" / "config.json").read_text())
    assert told["num_hidden_layers"] == 23
    assert told["architectures"] == ["CLIPTextModel"]

    trimmed = c.copy_and_resolve_references()
    trimmed.cond_stage.update(encoders=("openclip_h_23",), skip=(0,))
    left = ("block_23/", "projection/")
    want = {
        path.replace("openclip_h/", "openclip_h_23/"): array
        for path, array in held.items()
        if not path.startswith(tuple(f"cond_stage/openclip_h/{x}" for x in left))
    }
    assert len(held) - len(want) == 12 + 1
    assert_held(read(out, config_=trimmed), want)
    assert transfer.for_diffusers(given).config == trimmed
    whole = write(given, tmp_path, "original")
    assert_held(read(whole, config_=c), held)


def test_a_control_branch_is_written_and_read_beside_its_model(tmp_path):
    c = config()
    c.control.update(hints=("canny",), channels=(16, 32))
    shapes = jax.eval_shape(system.init_control(c), jax.random.key(0))
    branch = drawn({"control": shapes}, seed=1)
    both = dataclasses.replace(weights(**branch), config=c)
    whole = write(both, tmp_path, "original")
    assert_held(read(whole, config_=c), {**arrays("v1"), **branch})
    with pytest.raises(
        ValueError, match="this is cond_stage, control, first_stage, unet"
    ):
        write(both, tmp_path, "diffusers")
    ours = write(both, tmp_path, "ours")
    alone = transfer.read(ours / transfer.CONTROL, **SILENT)
    assert_held(alone, branch)
    out = tmp_path / "alone.safetensors"
    transfer.to_original(alone, out, None)
    assert_held(read(out, config_=c), branch)


def test_a_first_stage_alone_is_written_and_read(tmp_path):
    c = config_lib.autoencoder()
    c.first_stage.update(
        {
            key: value
            for key, value in config().first_stage.items()
            if key in c.first_stage
        }
    )
    stage = {k: x for k, x in arrays("v1").items() if k.startswith("first_stage/")}
    held = {path: own.held(x) for path, x in stage.items()}
    alone = transfer.Weights(config_lib.check(c), held, "a test")
    out = write(alone, tmp_path, "original")
    assert "encoder.conv_in.weight" in reading.open_file(out).tensors
    assert_held(read(out, config_=alone.config), stage)
    found = read(out)  # the first stage of a whole model's config
    assert_held(found, stage)
    with pytest.raises(ValueError, match="written for Stable Diffusion"):
        write(alone, tmp_path, "diffusers")
    ours = write(found, tmp_path, "ours")
    _, _, meta = own.open_weights(ours / transfer.FIRST_STAGE)
    assert meta["scale"] == config().first_stage.scale


def test_files_of_ours_belong_together(tmp_path):
    out = write(weights(), tmp_path, "ours")
    _, _, meta = own.open_weights(out / transfer.DIFFUSION)
    assert meta["first_stage"] == frozen.latents_of(out / transfer.FIRST_STAGE)
    assert meta["from"] == "a test"
    with pytest.raises(ValueError, match="no average and no variant"):
        transfer.read(out, average=True)
    bias = "first_stage/encoder/conv_in/bias"
    other = weights(**{bias: arrays("v1")[bias] + 1})
    write(other, tmp_path / "other", "ours")
    stage = tmp_path / "other" / "ours" / transfer.FIRST_STAGE
    stage.rename(out / transfer.FIRST_STAGE)
    with pytest.raises(ValueError, match=r"was made with the first stage .* beside it"):
        transfer.read(out, **SILENT)


def test_latents_are_known_wherever_a_file_came_from(tmp_path):
    """So that what was trained over one conversion joins another."""

    def stage(given, name, dtype=None):
        out = write(given, tmp_path / name, "ours", dtype)
        return own.digest(out / transfer.FIRST_STAGE), frozen.latents_of(
            out / transfer.FIRST_STAGE
        )

    first = stage(weights(), "first")
    moved = dataclasses.replace(weights(), origin="from another place")
    second = stage(moved, "second")
    assert first[0] != second[0] and first[1] == second[1]
    half = stage(
        transfer.read(tmp_path / "first" / "ours", **SILENT), "half", "float16"
    )
    assert half[1] == first[1]
    bias = "first_stage/encoder/conv_in/bias"
    other = stage(weights(**{bias: arrays("v1")[bias] + 1}), "other")
    assert other[1] != first[1]
    bias = "first_stage/decoder/conv_in/bias"  # which makes pictures of them
    other = stage(weights(**{bias: arrays("v1")[bias] + 1}), "decoder")
    assert other[0] != first[0] and other[1] == first[1]


def test_a_model_and_its_branch_stay_together(tmp_path):
    """From ours to ours: the branch knows the model that is written beside it."""
    c = config()
    c.control.update(hints=("canny",), channels=(16, 32))
    shapes = jax.eval_shape(system.init_control(c), jax.random.key(0))
    branch = drawn({"control": shapes}, seed=1)
    both = dataclasses.replace(
        weights(**branch), config=c, about={"hint": "canny", "base": "others"}
    )
    first = write(both, tmp_path / "first", "ours")
    said = own.open_weights(first / transfer.CONTROL)[2]
    assert (said["hint"], said["base"]) == ("canny", "others")
    both = dataclasses.replace(both, about={"hint": "canny"})
    for name in ("second", "third"):
        folder = write(both, tmp_path / name, "ours", "float16")
        said = own.open_weights(folder / transfer.CONTROL)[2]
        assert said["hint"] == "canny"
        assert said["base"] == own.digest(folder / transfer.DIFFUSION)
        assert said["first_stage"] == frozen.latents_of(folder / transfer.FIRST_STAGE)
        header = own.open_weights(folder / transfer.DIFFUSION)[1]["control"]
        assert (header["hints"], header["channels"]) == ([], [16, 32, 96, 256])
        header = own.open_weights(folder / transfer.CONTROL)[1]["control"]
        assert (header["hints"], header["channels"]) == (["canny"], [16, 32])
        both = transfer.read(folder, **SILENT)


@pytest.mark.parametrize("layout", ["original", "ours"])
def test_a_damaged_file_is_named(tmp_path, layout):
    out = write(weights(), tmp_path, layout)
    file = out / transfer.DIFFUSION if layout == "ours" else out
    file.write_bytes(file.read_bytes()[:5000])
    with pytest.raises(ValueError, match=f"{file.name}"):
        read(out)
