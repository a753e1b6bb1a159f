"""A control branch keeps what it learnt when it is carried to another base."""

import dataclasses
import json

import helpers
import jax
import numpy as np
import pytest
import tiny_stable_diffusion

from configs import demo_control
from ldm_jax import system, trees
from ldm_jax.exchange import moving, transfer
from ldm_jax.weights import own

TRUNK = "trunk/conv_in/kernel"


def weights(held, origin="a test", **about):
    gen = np.random.default_rng(len(origin))
    tensors = {}
    for path, x in held.items():
        array = gen.standard_normal(x, np.float32) if isinstance(x, tuple) else x
        tensors[path] = own.held(np.asarray(array))
    config = tiny_stable_diffusion.get_config("v1")
    return transfer.Weights(config, tensors, origin, about)


def read(weights, path):
    return weights.held[path].read()


@pytest.fixture
def three():
    """A branch, the base it was trained over, and another one."""
    branch = {f"control/{TRUNK}": (3, 3, 4, 8), "control/zero_0/bias": (8,)}
    base = {f"unet/{TRUNK}": (3, 3, 4, 8), "unet/conv_out/bias": (4,)}
    other = weights(base, "the other", digest="ccc", first_stage="fff")
    about = {"hint": "canny", "base": "bbb", "first_stage": "fff"}
    return (
        weights(branch, "a branch", **about),
        weights(base, "its base", digest="bbb", first_stage="fff"),
        other,
    )


def test_the_difference_of_the_bases_is_added_to_the_trunk_alone(three):
    branch, base, other = three
    moved = moving.moved(branch, base, other)
    assert moved.held.keys() == branch.held.keys()
    trunk = f"unet/{TRUNK}"
    change = read(other, trunk) - read(base, trunk)
    wanted = read(branch, f"control/{TRUNK}") + change
    np.testing.assert_allclose(read(moved, f"control/{TRUNK}"), wanted, atol=1e-6)
    same = read(branch, "control/zero_0/bias")
    np.testing.assert_array_equal(read(moved, "control/zero_0/bias"), same)
    assert moved.about == {"hint": "canny", "base": "ccc", "first_stage": "fff"}


def test_to_its_own_base_and_back_it_is_the_same(three):
    branch, base, other = three
    there = moving.moved(branch, base, other)
    back = moving.moved(there, other, base)
    for path in branch.held:
        np.testing.assert_allclose(read(back, path), read(branch, path), atol=1e-5)
    assert back.about == branch.about


def test_a_file_with_its_base_needs_no_other_and_brings_the_new_one(three):
    branch, base, other = three
    whole = transfer.Weights(base.config, base.held | branch.held, "both")
    moved = moving.moved(whole, None, other)
    alone = moving.moved(branch, base, other)
    assert moved.held.keys() == whole.held.keys()
    out = "unet/conv_out/bias"
    np.testing.assert_array_equal(read(moved, out), read(other, out))
    trunk = f"control/{TRUNK}"
    np.testing.assert_array_equal(read(moved, trunk), read(alone, trunk))


def test_half_floats_stay_so(three):
    branch, base, other = three
    half = own.narrowed(branch.held, "float16")
    branch = dataclasses.replace(branch, held=half)
    moved = moving.moved(branch, base, other)
    assert {tensor.dtype for tensor in moved.held.values()} == {np.dtype("float16")}
    assert read(moved, f"control/{TRUNK}").dtype == np.float16


def test_what_does_not_fit_is_named(three):
    branch, base, other = three
    with pytest.raises(ValueError, match="its base holds no control branch"):
        moving.moved(base, None, other)
    with pytest.raises(ValueError, match="a branch is a branch alone: name .* --base"):
        moving.moved(branch, None, other)
    with pytest.raises(ValueError, match="trained over bbb, and --base is ccc"):
        moving.moved(branch, other, base)
    narrow = weights({f"unet/{TRUNK}": (3, 3, 4, 6)}, "a narrow one")
    with pytest.raises(ValueError, match=f"unet/{TRUNK} of a narrow one is .*8\\)"):
        moving.moved(branch, base, narrow)
    empty = weights({"unet/conv_out/bias": (4,)}, "an empty one")
    with pytest.raises(ValueError, match="an empty one has no unet/trunk"):
        moving.moved(branch, base, empty)


def test_files_that_cannot_say_that_they_belong_together_are_told_of(three):
    branch, base, other = three
    told = []
    moving.moved(branch, base, other, told.append)
    assert not told
    silent = dataclasses.replace(base, about={})
    moving.moved(branch, silent, other, told.append)
    released = dataclasses.replace(branch, about={})
    moving.moved(released, base, other, told.append)
    assert [line.split(" does not say")[0] for line in told] == ["its base", "a branch"]


def test_a_base_that_says_other_things_is_refused(three):
    branch, base, other = three
    for section, knob, value, words in (
        ("loss", "predicts", "v", "a branch has the predicts eps, the other v"),
        ("schedule", "beta_end", 0.02, "a branch has the schedule .*, the other "),
    ):
        config = other.config.copy_and_resolve_references()
        config[section][knob] = value
        changed = dataclasses.replace(other, config=config)
        with pytest.raises(ValueError, match=words):
            moving.moved(branch, base, changed)


def test_a_released_base_leaves_nothing_said_of_the_old_one(three):
    branch, base, other = three
    moved = moving.moved(branch, base, dataclasses.replace(other, about={}))
    assert moved.about == {"hint": "canny"}
    whole = dataclasses.replace(
        branch, held=base.held | branch.held, about=branch.about | base.about
    )
    moved = moving.moved(whole, None, dataclasses.replace(other, about={}))
    assert moved.about == {"hint": "canny"}
    moved = moving.moved(whole, None, other)
    assert moved.about["base"] == moved.about["digest"] == "ccc"


def test_what_is_no_base_is_told(three):
    branch, base, other = three
    stage = helpers.tiny_autoencoder_config()
    with pytest.raises(ValueError, match="the other is of task 'autoencoder': no"):
        moving.moved(branch, base, dataclasses.replace(other, config=stage))


def test_a_branch_that_moves_with_its_base_keeps_its_shape(three):
    branch, base, other = three
    config = base.config.copy_and_resolve_references()
    config.control.update(hints=("canny",), channels=(16, 32))
    whole = transfer.Weights(config, base.held | branch.held, "both")
    moved = moving.moved(whole, None, other).config
    assert (
        moved.control.channels == (16, 32) and moved.schedule == other.config.schedule
    )


def drawn(config):
    """The Weights of a branch of a config."""
    shapes = jax.eval_shape(system.init_control(config), jax.random.key(0))
    gen = np.random.default_rng(0)
    held = {
        f"control/{path}": own.held(gen.standard_normal(x.shape, np.float32))
        for path, x in trees.flatten(shapes).items()
    }
    return transfer.Weights(config, held, "a test", {"hint": "canny"})


@pytest.mark.parametrize("layout", ["original", "diffusers"])
def test_a_branch_that_a_layout_has_no_names_for_is_refused(layout, tmp_path):
    out = tmp_path / ("one.safetensors" if layout == "original" else "folder")
    for knob, value, reason in (
        ("lite", True, f"'{layout}' knows no branch without a trunk .control.lite"),
        ("channels", (16, 32, 96), "halves a hint at each of .* factor is 2"),
    ):
        config = tiny_stable_diffusion.get_config("v1")
        config.control[knob] = value
        with pytest.raises(ValueError, match=reason):
            transfer.WRITERS[layout](drawn(config), out, None)
        assert not out.exists()


def test_a_branch_alone_is_written_and_read_in_every_layout(tmp_path):
    config = tiny_stable_diffusion.get_config("v1")
    config.control.update(hints=("canny",), channels=(16, 32))
    branch = drawn(config)
    held = branch.held
    places = {"ours": "ours", "original": "one.safetensors", "diffusers": "folder"}
    for layout, name in places.items():
        out = tmp_path / name
        transfer.WRITERS[layout](branch, out, None)
        back = transfer.read(out, config, say=lambda message: None)
        assert back.held.keys() == held.keys()
        for path in held:
            np.testing.assert_array_equal(read(back, path), read(branch, path))
    told = json.loads((tmp_path / "folder" / "config.json").read_text())
    assert told["_class_name"] == "ControlNetModel"
    assert "up_block_types" not in told and told["conditioning_channels"] == 3
    assert transfer.read(tmp_path / "ours", say=lambda m: None).about["hint"] == "canny"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (dict(controlnet_conditioning_channel_order="bgr"), "'bgr', and .* is 'rgb'"),
        (dict(global_pool_conditions=True), "True, and a branch is read .* False"),
        (dict(attention_head_dim=4), "of the controlnet: attention_head_dim is 4, the"),
    ],
)
def test_a_folder_that_means_its_numbers_otherwise_is_refused(tmp_path, changes, words):
    config = tiny_stable_diffusion.get_config("v1")
    config.control.update(hints=("canny",), channels=(16, 32))
    out = tmp_path / "folder"
    transfer.to_diffusers(drawn(config), out, None)
    told = json.loads((out / "config.json").read_text()) | changes
    (out / "config.json").write_text(json.dumps(told))
    with pytest.raises(ValueError, match=words):
        transfer.read(out, config, say=lambda message: None)


def test_only_branches_over_clip_have_diffusers_layout(tmp_path):
    branch = drawn(demo_control.get_config())
    with pytest.raises(ValueError, match="is written for Stable Diffusion 1, 2 and XL"):
        transfer.to_diffusers(branch, tmp_path / "folder", None)
    assert not (tmp_path / "folder").exists()


def test_a_lite_branch_and_bases_of_other_latents_are_refused(three):
    branch, base, other = three
    lite = weights({"control/light_in/bias": (8,)}, "a lite one")
    with pytest.raises(ValueError, match="a lite one copied no trunk"):
        moving.moved(lite, base, other)
    for model, stage in ((base, "fff"), (other, "ggg")):
        model.about["first_stage"] = stage
    with pytest.raises(ValueError, match="latents of two first stages, fff and ggg"):
        moving.moved(branch, base, other)
