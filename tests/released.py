"""Key, dtype and shape lists of released checkpoints, and a Flax folder to read.

released.json.xz was dumped from the originals' own modules on torch's meta device:
CompVis/latent-diffusion a506df5 (`ldm/*`, `first_stage/*`), CompVis/stable-diffusion
21f890f (`sd/sd1*`), lllyasviel/ControlNet ed85cd1 (`sd/sd2`, `sd/controlnet-*`),
Stability-AI/generative-models 0ad7de9 (`sd/sdxl-*`), with CompVis/taming-transformers
3ba01b2 and open_clip 3.3.0. No released file was read, and these dtypes are the
modules': released SDXL files hold float16.

By hand: `cond_stage_model.transformer.text_model.` of CLIP, which transformers 5 drops,
and its int64 `position_ids`; inpainting_big's DummyLoss, missing in the repository, as
an empty module; VGG's and LPIPS' downloads left out (`first_stage/*` have `loss.*`).
`sd/sd1-ema` is `sd/sd1` with use_ema, `sd/sd1-inpainting` with nine input channels,
`sd/sd2` cldm_v21.yaml without its control model.

`diffusers/*` are diffusers 0.42.1's and transformers 5.23's modules of the well-known
repositories' configs (written from memory; diffusers' converters turn the lists above
into them). `-old-attention`: the names of diffusers before 0.16, as old folders have.

flax_folder.tar.xz was written by FlaxStableDiffusionPipeline.save_pretrained of
diffusers 0.39.0 (the last with Flax), transformers 4.57.6 and flax 0.12.8: tiny models
whose float16 weights are normal numbers rounded to few values, so that they pack well.
"""

import functools
import json
import lzma
import pathlib
import tarfile

import numpy as np

HERE = pathlib.Path(__file__).parent


@functools.cache
def _archive():
    packed = (HERE / "released.json.xz").read_bytes()
    return json.loads(lzma.decompress(packed))


NAMES = tuple(sorted(_archive()["shapes"]))


def shapes(name):
    """{key: (dtype, shape)} of a checkpoint, e.g. ('float32', (1280, 320))."""
    listed = _archive()["shapes"][name]
    return {key: (dtype, tuple(shape)) for key, (dtype, *shape) in listed.items()}


def config(name):
    """The JSON file of a diffusers folder: 'diffusers/unet-sd1', 'model_index-sd1'.

    Components have the name of their list, others are scheduler-* and model_index-*.
    """
    return json.loads(json.dumps(_archive()["configs"][name]))


def flax_folder(parent):
    """(path, arrays): the Flax folder unpacked under parent, its inputs and outputs.

    All channels last, computed in float32. text_flax [2,77,32] of input_ids ("the cat",
    "a dog at the cat!") is the context of unet_* [2,4,6,4] of sample and timesteps;
    mean_*, logvar_* [1,4,6,4] (unscaled) of image, decoded_* of latent. `_flax` by the
    Flax classes; `_torch` by diffusers' PyTorch classes with the same weights: exact
    GELU and, in the transformer's group norm, epsilon 1e-6; Flax has tanh and 1e-5.
    """
    with tarfile.open(HERE / "flax_folder.tar.xz") as archive:
        archive.extractall(parent, filter="data")
    path = pathlib.Path(parent) / "flax_folder"
    with np.load(path / "expected.npz") as file:
        return path, dict(file)
