"""Every released layout fits its config: from names and shapes, no array is read."""

import dataclasses
import pathlib

import helpers
import numpy as np
import pytest
import released as listed
import released_configs
import traced

from ldm_jax import trees
from ldm_jax.exchange import detection, opening, plans, released
from ldm_jax.weights import tensors

PATH = pathlib.Path("there")
# Single file -> (what its meta says, the config that goes with it, "" for a hint).
FILES = {
    **{f"ldm/{name}": ({}, "") for name in released_configs.MODELS},
    **{f"first_stage/{name}": ({}, "") for name in released_configs.FIRST_STAGES},
    "sd/sd1": ({}, "stable_diffusion:v1"),
    "sd/sd1-ema": ({}, "stable_diffusion:v1"),
    "sd/sd1-inpainting": ({}, "stable_diffusion:v1-inpainting"),
    "sd/sd2": ({"global_step": 875_000}, "stable_diffusion:v2"),
    "sd/sdxl-base": ({}, "sdxl:base"),
    "sd/sdxl-refiner": ({}, "sdxl:refiner"),
    "sd/controlnet-sd1": ({}, "stable_diffusion:v1"),
}
SD1 = {"unet": "unet-sd1", "vae": "vae-sd1", "text_encoder": "text_encoder-sd1"}
SD2 = {"unet": "unet-sd2", "vae": "vae-sd1", "text_encoder": "text_encoder-sd2"}
REFINER = {"text_encoder_2": "text_encoder_2-sdxl", "vae": "vae-sdxl"}
XL = {"unet": "unet-sdxl", "text_encoder": "text_encoder-sdxl", **REFINER}
FACES = {"unet": "unet-ldm-celebahq-256", "vqvae": "vqvae-ldm-celebahq-256"}
# Folder -> (its components, its scheduler, the config that goes with it).
FOLDERS = {
    "sd1": (SD1, "sd1", "stable_diffusion:v1"),
    "sd1, old": ({**SD1, "vae": "vae-sd1-old-attention"}, "sd1", "stable_diffusion:v1"),
    "sd1-inpainting": (
        {**SD1, "unet": "unet-sd1-inpainting"},
        "sd1",
        "stable_diffusion:v1-inpainting",
    ),
    "sd2": (SD2, "sd1", "stable_diffusion:v2"),
    "sd2, v": (SD2, "sd2", "stable_diffusion:v2-v"),
    "sdxl": (XL, "sdxl", "sdxl:base"),
    "sdxl-refiner": ({**REFINER, "unet": "unet-sdxl-refiner"}, "sdxl", "sdxl:refiner"),
    "faces": (FACES, "ldm-celebahq-256", ""),
    "faces, old": (
        {part: f"{name}-old-attention" for part, name in FACES.items()},
        "ldm-celebahq-256",
        "",
    ),
}


@pytest.fixture(autouse=True)
def traced_once(monkeypatch):
    traced.once(monkeypatch)


def unread():
    raise AssertionError("an array is read")


def tensor(shape, dtype="float32"):
    return tensors.Tensor(tuple(shape), np.dtype(dtype), unread)


def source(name, meta=None, drop=()):
    found = {
        key: tensor(shape, dtype)
        for key, (dtype, shape) in listed.shapes(name).items()
        if key not in drop
    }
    return tensors.Source(PATH, "safetensors", found, meta or {})


def shipped(name):
    return released_configs.shipped(*name.split(":"))


def config_of(name, opened):
    """The config of a list; that of a shipped one is found by what the file holds."""
    group, _, rest = name.partition("/")
    own = {"ldm": released_configs.model, "first_stage": released_configs.first_stage}
    if group in own:
        with pytest.raises(ValueError, match="--config"):
            opening.config_of(opened)
        return own[group](rest)
    found = opening.config_of(opened)
    assert found == shipped(FILES[name][1])
    return found


def file(name, meta=None):
    there = source(name, meta)
    found = detection.of_file(there.tensors, there.meta)
    return opening.Opened(PATH, {released.SINGLE: there}, found)


def assert_all_is_known(plan):
    surprises = [name for name, why in plan.unused.items() if why is None]
    assert not surprises, surprises


def assert_written_as_read(rows, opened, plan):
    """What is written for a config has the names and shapes of what is read, once."""
    held = {row.ours: tensor(row.shape) for here in rows.values() for row in here}
    assert len(held) == sum(map(len, rows.values())) == len(plan.rows)
    for component, arrays in plans.outgoing(rows, held).items():
        assert len(arrays) == sum(len(row.theirs) for row in rows[component])
        have = {name: tuple(x.shape) for name, x in arrays.items()}
        there = opened.sources[component].tensors
        prefix = f"{component}/" if component else ""
        want = {
            name: tuple(x.shape)
            for name, x in there.items()
            if prefix + name not in plan.unused
        }
        assert have == want


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_told_and_read_whole(name):
    opened = file(name, FILES[name][0])
    config = config_of(name, opened)
    plan = opening.plan(opened, config)
    assert_all_is_known(plan)
    rows = released.rows(config, "original")
    ours = {row.ours for row in rows[released.SINGLE]}
    assert ours == trees.flatten(released.parameter_shapes(config)).keys()
    if opened.found.control:
        rows[released.SINGLE] += released.control_rows(config, "original")[""]
    assert_written_as_read(rows, opened, plan)


def test_every_list_is_tested():
    names = {f"diffusers/{x}" for told, *_ in FOLDERS.values() for x in told.values()}
    names |= {*FILES, "diffusers/controlnet-sd1", "sd/controlnet-sd2"}
    assert set(listed.NAMES) - names == {"ldm/rdm768"}  # no config of ours is like it


def test_what_a_file_is_is_told_in_words():
    told = {name: file(name).found for name in ("ldm/cin256", "ldm/bsr_sr")}
    assert told["ldm/cin256"].what == "LDM, 4 input channels, context 512"
    assert told["ldm/bsr_sr"].what == "LDM, 6 input channels, no cross-attention"
    assert file("first_stage/kl-f8").found.what == "a KL first stage alone"
    assert file("first_stage/vq-f8").found.what == "a VQ first stage alone"
    both = file("sd/controlnet-sd1").found
    assert both.what == "Stable Diffusion 1, and a ControlNet" and both.control


def test_the_average_is_read_when_it_is_asked_for():
    opened = file("sd/sd1-ema")
    assert opening.has_average(opened) and not opening.has_average(file("sd/sd1"))
    config = shipped("stable_diffusion:v1")
    plans = {flag: opening.plan(opened, config, flag) for flag in (False, True)}
    for plan in plans.values():
        assert_all_is_known(plan)
    theirs = {
        flag: {row.ours: row.theirs for row in plan.rows}
        for flag, plan in plans.items()
    }
    for ours, (name, *_) in theirs[False].items():
        averaged = theirs[True][ours][0]
        if ours.startswith("unet/"):
            flat = name.removeprefix("model.").replace(".", "")
            assert averaged == f"model_ema.{flat}"
        else:
            assert averaged == name
    with pytest.raises(ValueError, match="does not hold the averaged weights"):
        opening.plan(file("sd/sd1"), config, average=True)


def folder(name):
    """(Opened, the name of the config that goes with it) of a folder."""
    components, scheduler, config = FOLDERS[name]
    told = listed.config(f"diffusers/scheduler-{scheduler}")
    configs = {"scheduler": {"prediction_type": "epsilon"} | told}
    sources = {}
    for component, of in components.items():
        told = of.removesuffix("-old-attention")
        configs[component] = listed.config(f"diffusers/{told}")
        there = source(f"diffusers/{of}")
        sources[component] = opening.modern(there, component)
    found = detection.of_folder(configs, False)
    return opening.Opened(PATH, sources, found), config


@pytest.mark.parametrize("name", FOLDERS)
def test_a_folder_is_told_and_read_whole(name):
    opened, wanted = folder(name)
    if wanted:
        config = opening.config_of(opened)
        want = shipped(wanted).copy_and_resolve_references()
        if name.startswith("sd2"):  # the last block is not in the folder
            want.cond_stage.update(encoders=("openclip_h_23",), skip=(0,))
        assert config == want
    else:
        with pytest.raises(ValueError, match="name it with --config"):
            opening.config_of(opened)
        config = released_configs.model("celeba256")
    plan = opening.plan(opened, config)
    assert_all_is_known(plan)
    rows = released.rows(config, "diffusers")
    assert set(rows) == set(opened.sources)
    assert_written_as_read(rows, opened, plan)


@pytest.mark.parametrize("name", ["text_encoder-sd2", "text_encoder_2-sdxl"])
def test_text_encoders_of_transformers_5_lack_a_level(name):
    there = source(f"diffusers/{name}")
    short = {k.removeprefix("text_model."): x for k, x in there.tensors.items()}
    assert short.keys() != there.tensors.keys()
    new = dataclasses.replace(there, tensors=short)
    found = opening.modern(new, name.split("-")[0])
    assert found.tensors == there.tensors


def test_flax_is_another_layout():
    configs = {"unet": listed.config("diffusers/unet-sd1")}
    assert detection.of_folder(configs, True).layout == "flax"
    assert detection.of_folder(configs, False).layout == "diffusers"


def test_a_controlnet_is_read_alone_and_beside_its_base():
    context = listed.config("diffusers/controlnet-sd1")["cross_attention_dim"]
    found = detection.control_alone("diffusers", context)
    there = source("diffusers/controlnet-sd1")
    opened = opening.Opened(PATH, {"controlnet": there}, found)
    config = opening.config_of(opened)
    assert config == shipped("stable_diffusion:v1")
    plan = opening.plan(opened, config)
    assert plan.unused == {}
    assert all(row.ours.startswith("control/") for row in plan.rows)
    rows = released.control_rows(config, "diffusers")
    assert_written_as_read(rows, opened, plan)

    assert detection.control_alone("diffusers", 2048).config == "sdxl.py:base"
    whole = source("sd/controlnet-sd2")
    alone = {k: v for k, v in whole.tensors.items() if k.startswith("control_model.")}
    found = detection.of_file(alone, {})
    assert (found.base, found.control) == (False, True)
    assert found.config == "stable_diffusion.py:v2"
    rows = released.control_rows(shipped("stable_diffusion:v2"), "original")
    read = plans.plan(rows, {released.SINGLE: whole})
    assert {name for row in read.rows for name in row.theirs} == set(alone)


def test_one_network_of_a_model_is_read_alone():
    config = released_configs.model("txt2img-1p4B")
    plan = opening.plan(file("first_stage/kl-f8"), config)
    stage = trees.flatten(released.parameter_shapes(config)["first_stage"])
    assert {row.ours for row in plan.rows} == {f"first_stage/{name}" for name in stage}
    assert_all_is_known(plan)

    found = detection.Found("diffusers", "a VQModel alone", parts=True)
    there = {"vqvae": source(f"diffusers/{FACES['vqvae']}")}
    opened = opening.Opened(PATH, there, found)
    plan = opening.plan(opened, released_configs.model("celeba256"))
    assert plan.unused == {}
    assert all(row.ours.startswith("first_stage/") for row in plan.rows)


def test_version_2_is_told_by_its_step_or_not_at_all():
    held = source("sd/sd2").tensors
    for step, variant in ((875_000, "v2"), (110_000, "v2-v")):
        found = detection.of_file(held, {"global_step": step})
        assert found.config == f"stable_diffusion.py:{variant}"
    for meta in ({}, {"global_step": 5}):
        with pytest.raises(ValueError, match=r"py:v2 or :v2-v"):
            opening.config_of(file("sd/sd2", meta))


def test_other_input_channels_are_not_guessed():
    first = f"{detection.UNET}input_blocks.0.0.weight"
    for name, channels, words in (
        ("sd/sd1", 8, "no config is known"),
        ("sd/sd2", 9, "no config is known"),
    ):
        held = {**source(name).tensors, first: tensor((320, channels, 3, 3))}
        found = detection.of_file(held, {"global_step": 875_000})
        assert found.config == "" and words in found.hint
    told = {**listed.config("diffusers/unet-sd1"), "cross_attention_dim": 512}
    assert detection.of_folder({"unet": told}, False).config == ""


def test_a_file_of_something_else_is_told_by_its_names():
    held = {"bert.layer.0": tensor((1,)), "head.weight": tensor((1,))}
    with pytest.raises(ValueError, match="none of the networks .* begin with bert, he"):
        detection.of_file(held, {})
    with pytest.raises(ValueError, match="begin with nothing"):
        detection.of_file({}, {})


def test_captions_have_no_place_in_a_diffusers_folder():
    with pytest.raises(ValueError, match="'text': use the original layout"):
        released.rows(helpers.tiny_config(), "diffusers")
