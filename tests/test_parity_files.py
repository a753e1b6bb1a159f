"""What we write is what diffusers reads, by its own converters and its own names."""

import diffusers
import parity
import parity_models
import pytest
from safetensors import numpy as safetensors_numpy
from safetensors import torch as safetensors_torch
import torch

from ldm_jax.exchange import plans, released

pytestmark = pytest.mark.parity


@pytest.fixture(autouse=True)
def encoders(monkeypatch):
    parity.tiny_encoders(monkeypatch)


def held(rows, states):
    """Our parameters, not read yet, of {component: rows} and state dicts."""
    sources = {name: parity.source(state) for name, state in states.items()}
    return plans.tensors_of(plans.plan(rows, sources))


def written(rows, parameters, folder):
    """{component: state dict} of files in these rows, through the files."""
    found = {}
    for component, tensors in plans.outgoing(rows, parameters).items():
        path = folder / f"{component or 'single'}.safetensors"
        arrays = {name: tensor.read() for name, tensor in tensors.items()}
        safetensors_numpy.save_file(arrays, path)
        found[component] = safetensors_torch.load_file(path)
    return found


def assert_equal(found, expected):
    """Two state dicts, to the bit."""
    assert found.keys() == expected.keys()
    for name, leaf in expected.items():
        assert torch.equal(found[name], leaf), name


def clip_l(state, module):
    """diffusers' converter of OpenAI's encoder, in whichever place it is."""
    del module
    return diffusers.loaders.single_file_utils.convert_ldm_clip_checkpoint(state)


def openclip(prefix):
    """diffusers' converter of OpenCLIP's encoder under a prefix."""

    def convert(state, module):
        convert = diffusers.loaders.single_file_utils.convert_open_clip_checkpoint
        return convert(module, state, prefix=prefix)

    return convert


def unet(state, module):
    config = dict(module.config)
    return diffusers.loaders.single_file_utils.convert_ldm_unet_checkpoint(
        state, config
    )


def vae(state, module):
    return diffusers.loaders.single_file_utils.convert_ldm_vae_checkpoint(
        state, dict(module.config)
    )


NETWORKS = {"unet": unet, "vae": vae}
CONVERTERS = {
    "sd1": NETWORKS | {"text_encoder": clip_l},
    "sd2": NETWORKS | {"text_encoder": openclip("cond_stage_model.model.")},
    "sdxl": NETWORKS
    | {
        "text_encoder": clip_l,
        "text_encoder_2": openclip("conditioner.embedders.1.model."),
    },
}


# SD2 does not use the pooled text, and its converter drops the projection.
DROPPED = {"sd2": {"text_projection.weight"}}


@pytest.mark.parametrize("name", CONVERTERS)
def test_single_file(name, tmp_path):
    """diffusers' weights to ours, to a file of the originals, and back by diffusers."""
    case = parity_models.CASES[name]
    c = parity.config_of(**case.sections)
    modules = parity_models.torch_pipeline(case)
    states = parity_models.states(modules)
    ours = held(released.rows(c, "diffusers"), states)
    (state,) = written(released.rows(c, "original"), ours, tmp_path).values()
    for folder, convert in CONVERTERS[name].items():
        dropped = DROPPED.get(name, set())
        kept = {k: leaf for k, leaf in states[folder].items() if k not in dropped}
        assert_equal(convert(state, modules[folder]), kept)


@pytest.mark.parametrize("name", parity_models.CASES)
def test_folder(name, tmp_path):
    """As strict as torch is: no tensor more and none less, each in its shape."""
    case = parity_models.CASES[name]
    c = parity.config_of(**case.sections)
    modules = parity_models.torch_pipeline(case)
    states = parity_models.states(modules)
    rows = released.rows(c, "diffusers")
    for folder, state in written(rows, held(rows, states), tmp_path).items():
        assert_equal(state, states[folder])
        if not folder.startswith("text"):  # whose names transformers changes on loading
            modules[folder].load_state_dict(state, strict=True)


def test_controlnet(tmp_path):
    c = parity.with_factor_8(parity.config_of(**parity_models.SD1.sections))
    branch = parity_models.torch_controlnet(parity_models.SD1)
    rows = released.control_rows(c, "diffusers")
    (component,) = rows
    ours = held(rows, {component: branch.state_dict()})
    (state,) = written(released.control_rows(c, "original"), ours, tmp_path).values()
    found = diffusers.loaders.single_file_utils.convert_controlnet_checkpoint(
        state, dict(branch.config)
    )
    assert_equal(found, branch.state_dict())
