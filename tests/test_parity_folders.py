"""What we write as a diffusers folder, diffusers itself loads and runs."""

import helpers
import jax
import numpy as np
import parity  # noqa: F401 - before the oracles, which it lets import
import pytest
import tiny_stable_diffusion

from ldm_jax import prompts, system, trees
from ldm_jax.exchange import plans, released, transfer
from ldm_jax.weights import own

import diffusers  # isort: skip
import transformers  # isort: skip

pytestmark = pytest.mark.parity

PIPELINES = {
    "v1": "StableDiffusionPipeline",
    "v1-inpainting": "StableDiffusionInpaintPipeline",
    "v2-v": "StableDiffusionPipeline",
    "xl-base": "StableDiffusionXLPipeline",
    "xl-refiner": "StableDiffusionXLImg2ImgPipeline",
}
PROMPTS = ["a fox, on a hill", "", "an OWL \N{SNOWMAN}"]


def weights(variant):
    config = tiny_stable_diffusion.get_config(variant)
    shapes = jax.eval_shape(system.build(config).init, jax.random.key(0))
    params = trees.flatten(helpers.random_params(shapes))
    held = {path: own.held(np.asarray(x)) for path, x in params.items()}
    return transfer.Weights(config, held, "random")


@pytest.mark.parametrize("variant", PIPELINES)
def test_the_pipeline_loads_every_array_and_runs(variant, tmp_path):
    written = weights(variant)
    transfer.to_diffusers(written, tmp_path / "folder", None)
    pipe = diffusers.DiffusionPipeline.from_pretrained(tmp_path / "folder")
    assert type(pipe).__name__ == PIPELINES[variant]

    rows = released.rows(written.config, "diffusers")
    arrays = plans.outgoing(rows, written.held)
    for component, tensors in arrays.items():
        held = getattr(pipe, component).state_dict()
        for name, tensor in tensors.items():
            plain = name.removeprefix("text_model.")
            found = held[name if name in held else plain].numpy()
            np.testing.assert_array_equal(found, tensor.read())
        buffers = {name for name in held if name.endswith("position_ids")}
        assert len(held) - len(buffers) == len(tensors)

    if variant in ("v1", "v2-v", "xl-base"):
        size = dict(height=16, width=16, num_inference_steps=2, output_type="np")
        assert np.isfinite(pipe("a fox", **size).images).all()


@pytest.mark.parametrize("variant", ["v1", "v2-v", "xl-base"])
def test_its_tokenizers_say_what_ours_says(variant, tmp_path):
    written = weights(variant)
    transfer.to_diffusers(written, tmp_path / "folder", None)
    config = written.config
    ours = prompts.arrays(Told(config), PROMPTS)["tokens"]
    for i, name in enumerate(config.cond_stage.encoders):
        folder = tmp_path / "folder" / ("tokenizer" + ("_2" if i else ""))
        tokenizer = transformers.CLIPTokenizer.from_pretrained(folder)
        found = tokenizer(PROMPTS, padding="max_length", truncation=True)
        shape = system.encoders(config)[name]
        filled = np.where(np.cumsum(ours == 49407, 1) > 1, shape.pad, ours)
        np.testing.assert_array_equal(found["input_ids"], filled)


class Told:
    """What `prompts.arrays` asks of a model."""

    words = ()

    def __init__(self, config):
        self.config = config
