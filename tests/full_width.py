"""Parity at the released widths, by hand: `python tests/full_width.py [NAME ...]`.

Random weights go into a file, from which the network of PyTorch and ours are run, each
in a process of its own, so that memory holds one of them at a time: 10.3 GB for SDXL's.
Prints a line for each network, and ends with status 1 if one is above the bar.
"""

import argparse
from collections.abc import Callable
import dataclasses
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

# ruff: noqa: E402 - the path comes first
import diffusers
from flax import traverse_util
import jax
import numpy as np
import parity
import parity_models
import released
import released_configs
from safetensors import torch as safetensors_torch
import torch
import transformers

from ldm_jax import names, system
from ldm_jax.exchange import folder_json, plans
from ldm_jax.exchange import released as exchange_released
from ldm_jax.models import autoencoder, clip, text, unet
from ldm_jax.weights import safetensors_files

L2, WORST = 1e-4, 1e-3
WEIGHTS, THEIRS, FOUND = "weights.safetensors", "theirs.npz", "errors.json"
LENGTHS = (0, 9, 75)  # of the prompts


@dataclasses.dataclass(frozen=True)
class Network:
    """One network: how to build it in torch, and what both sides say, by name."""

    config: Callable  # () -> ours
    role: str  # of its parameters
    torch: Callable  # () -> module
    theirs: Callable  # (module) -> {name: array}
    ours: Callable  # (config) -> function of its parameters to the same
    layout: str = "diffusers"
    rename: Callable = lambda name: name  # torch's name -> the file's
    meta: bool = True  # whether torch can build it without memory
    parts: tuple = ("",)  # how the names begin of several equal networks in one


def of_unet(config, name, side, context, pooled=0):
    """A UNet2DConditionModel of one of the JSON files of released.json.xz."""
    case = parity_models.Case({}, None, {}, context=context, pooled=pooled)
    told = parity_models.told(case, side, side)

    def theirs(net):
        return {"output": parity.nhwc(parity_models.torch_says(net, told))}

    def ours(config):
        net = unet.UNet(system.arch_of_unet(config))
        arguments = parity_models.arguments(told)
        return lambda params: {"output": net.apply({"params": params}, *arguments)}

    def build():
        kind = diffusers.UNet2DConditionModel
        return kind.from_config(released.config(f"diffusers/{name}"))

    return Network(config, "unet", build, theirs, ours)


def of_branches(config, side, context, pooled=0, parts=("",)):
    """ControlNetModels for the UNet of a config, as our own folders describe them.

    Several in a MultiControlNetModel, each with a hint and a strength of its own; the
    sum of what they add.
    """
    case = parity_models.Case({}, None, {}, context=context, pooled=pooled)
    told = parity_models.told(case, side, side)
    gen = torch.Generator().manual_seed(4)
    hints = [torch.rand(2, 3, 8 * side, 8 * side, generator=gen) for _ in parts]
    loud = [1.0, 0.7][: len(parts)]

    def build():
        settings = json.loads(folder_json.branch(config())["config.json"])
        nets = [diffusers.ControlNetModel.from_config(settings) for _ in parts]
        return nets[0] if len(nets) == 1 else diffusers.MultiControlNetModel(nets)

    def theirs(net):
        several = len(parts) > 1
        skips, middle = net(
            *(told.z, told.t, told.context),
            hints if several else hints[0],
            loud if several else loud[0],
            added_cond_kwargs=told.added,
            return_dict=False,
        )
        return {str(i): parity.nhwc(x) for i, x in enumerate([*skips, middle])}

    def ours(config):
        net = system.branch(config)
        z, t, context, vector = parity_models.arguments(told)

        def run(params):
            branches = params if len(parts) > 1 else [params]
            heard = zip(branches, map(parity.nhwc, hints), loud, strict=True)
            added = []
            for one, hint, strength in heard:
                said = net.apply({"params": one}, z, t, hint, context, vector)
                added.append([strength * x for x in said])
            return {str(i): sum(x) for i, x in enumerate(zip(*added, strict=True))}

        return run

    return Network(config, "control", build, theirs, ours, parts=parts)


def of_stage(config, kind, name, height, width):
    """An AutoencoderKL or VQModel of such a file; the picture has these sizes."""
    x = parity.normal(1, 2, 3, height, width)

    def latent(config):
        factor = 2 ** (len(config.first_stage.mult) - 1)
        return parity.normal(
            2, 2, config.first_stage.embed_channels, height // factor, width // factor
        )

    def theirs(net):
        coded = net.encode(x)
        mean = coded.latents if kind is diffusers.VQModel else coded.latent_dist.mean
        picture = net.decode(latent(config())).sample
        return {"mean": parity.nhwc(mean), "picture": parity.nhwc(picture)}

    def ours(config):
        section = config.first_stage
        net = autoencoder.FIRST_STAGES[section.kind](system.arch_of_first_stage(config))
        z = latent(config)

        def run(params):
            held = {"params": params}
            return {
                "mean": net.apply(held, parity.nhwc(x), method="encode").mean,
                "picture": net.apply(held, parity.nhwc(z), method="decode"),
            }

        return run

    def build():
        return kind.from_config(released.config(f"diffusers/{name}"))

    return Network(config, "first_stage", build, theirs, ours)


def says(name, skip):
    """Ours of a text encoder: the last sequence, an inner one, and the pooled text."""

    def ours(config):
        shape = system.encoders(config)[name]
        tokens = parity.prompts(*LENGTHS)

        def run(params):
            held = {"params": params}
            last, pooled = clip.TextEncoder(shape, 0, True).apply(held, tokens)
            inner, _ = clip.TextEncoder(shape, skip, False).apply(held, tokens)
            found = {"last": last, "inner": inner}
            return found if pooled is None else found | {"pooled": pooled}

        return run

    return ours


def of_clip(config):
    """transformers' CLIPTextModel."""

    def build():
        settings = released.config("diffusers/text_encoder-sd1")
        return transformers.CLIPTextModel(transformers.CLIPTextConfig(**settings))

    def theirs(net):
        tokens = parity.padded(parity.prompts(*LENGTHS), clip.END)
        said = net(tokens, output_hidden_states=True)
        inner = said.hidden_states[-2]
        return {"last": said.last_hidden_state.numpy(), "inner": inner.numpy()}

    def rename(name):
        return name if name.startswith("text_model.") else f"text_model.{name}"

    role, ours = "cond_stage/clip_l", says("clip_l", 1)
    return Network(config, role, build, theirs, ours, rename=rename, meta=False)


def of_openclip(config, name, prefix):
    """open_clip's text tower."""
    shape = clip.ENCODERS[name]

    def build():
        return parity.open_clip_transformer().TextTransformer(
            width=shape.width,
            heads=shape.heads,
            layers=shape.depth,
            output_dim=shape.projection,
        )

    def theirs(net):
        tokens = parity.padded(parity.prompts(*LENGTHS), 0)
        h, mask = net._embeds(tokens)
        for block in net.transformer.resblocks:
            inner, h = h, block(h, attn_mask=mask)
        found = {"last": net.ln_final(h), "inner": inner, "pooled": net(tokens)}
        return {key: value.numpy() for key, value in found.items()}

    def rename(name):
        return prefix + name

    role, ours = f"cond_stage/{name}", says(name, 1)
    return Network(config, role, build, theirs, ours, "original", rename, meta=False)


def of_bert(config):
    """diffusers' LDMBertModel."""
    rows = np.random.default_rng(0).integers(1, 30_000, (2, 77))
    rows[1, 12:] = 0

    def theirs(net):
        return {"last": net(torch.from_numpy(rows)).last_hidden_state.numpy()}

    def ours(config):
        knobs = ("vocab", "length", "width", "depth", "heads", "head_channels")
        shape = {knob: config.cond_stage[knob] for knob in knobs}
        net = text.TextTransformer(**shape)
        return lambda params: {"last": net.apply({"params": params}, rows)}

    build, rename = parity_models.torch_bert, parity_models.original_bert_name
    role = "cond_stage"
    return Network(config, role, build, theirs, ours, "original", rename, meta=False)


def shipped(file, variant):
    return lambda: released_configs.shipped(file, variant)


def model(name):
    return lambda: released_configs.model(name)


SD1, SD2 = shipped("stable_diffusion", "v1"), shipped("stable_diffusion", "v2")
XL = shipped("sdxl", "base")
KL, VQ = diffusers.AutoencoderKL, diffusers.VQModel
IN_SD2, IN_XL = "cond_stage_model.model.", "conditioner.embedders.1.model."
NETWORKS = {
    "sd1-unet": of_unet(SD1, "unet-sd1", 32, 768),
    "sd2-unet": of_unet(SD2, "unet-sd2", 32, 1024),
    "sdxl-unet": of_unet(XL, "unet-sdxl", 32, 2048, 1280),
    "sd1-control": of_branches(SD1, 32, 768),
    "sd2-control": of_branches(SD2, 32, 1024),
    "sdxl-control": of_branches(XL, 16, 2048, 1280),
    "two-controls": of_branches(SD1, 16, 768, parts=("nets.0.", "nets.1.")),
    "kl-f8": of_stage(SD1, KL, "vae-sd1", 64, 128),
    "vq-f4": of_stage(model("celeba256"), VQ, "vqvae-ldm-celebahq-256", 64, 96),
    "clip-l": of_clip(SD1),
    "openclip-h": of_openclip(SD2, "openclip_h", IN_SD2),
    "openclip-bigg": of_openclip(XL, "openclip_bigg", IN_XL),
    "ldm-bert": of_bert(model("txt2img-1p4B")),
}


def write_weights(path, module):
    """Random weights for a module, as a .safetensors, one at a time."""
    gen = torch.Generator().manual_seed(0)
    leaves = [
        (place, part, name, leaf)
        for place, part in module.named_modules()
        for name, leaf in part.named_parameters(recurse=False)
    ]
    header, start = {}, 0
    for place, _, name, leaf in leaves:
        end = start + 4 * leaf.numel()
        header[f"{place}.{name}".lstrip(".")] = {
            "dtype": "F32",
            "shape": list(leaf.shape),
            "data_offsets": [start, end],
        }
        start = end
    told = json.dumps(header).encode()
    with open(path, "wb") as file:
        file.write(len(told).to_bytes(8, "little") + told)
        for place, part, name, leaf in leaves:
            noise = torch.randn(leaf.shape, generator=gen)
            parity.drawn(place, part, name, noise).numpy().tofile(file)


def run_torch(network, folder):
    """Writes the weights, and what torch says with them."""
    with torch.device("meta" if network.meta else "cpu"):
        module = network.torch()
    write_weights(folder / WEIGHTS, module)
    state = safetensors_torch.load_file(folder / WEIGHTS)  # mapped, not copied
    module.load_state_dict(state, strict=True, assign=True)
    with torch.inference_mode():
        np.savez(folder / THEIRS, **network.theirs(module.eval()))


def run_jax(network, folder):
    """(relative L2, largest error) of what we say with those weights, the worst."""
    config = network.config()
    if network.role == "control":
        rows = exchange_released.control_rows(config, network.layout)
    else:
        rows = parity.rows(config, network.layout, network.role)
    (component,) = rows
    source = safetensors_files.open_safetensors(folder / WEIGHTS)

    def read(part):
        held = {
            network.rename(name.removeprefix(part)): tensor
            for name, tensor in source.tensors.items()
            if name.startswith(part)
        }
        whole = dataclasses.replace(source, tensors=held)
        tensors = plans.tensors_of(plans.plan(rows, {component: whole}))
        params = {
            path.removeprefix(f"{network.role}/"): jax.device_put(tensor.read())
            for path, tensor in tensors.items()
        }
        return traverse_util.unflatten_dict(params, sep="/")

    params = [read(part) for part in network.parts]
    params = params if len(params) > 1 else params[0]
    found = jax.jit(network.ours(config))(params)
    expected = np.load(folder / THEIRS)
    assert found.keys() == set(expected.files)
    both = np.asarray([parity.errors(found[name], expected[name]) for name in found])
    return both.max(axis=0).tolist()


def run_side(side, name, folder):
    """One half of a comparison, in this process."""
    network, folder = NETWORKS[name], pathlib.Path(folder)
    if side == "torch":
        run_torch(network, folder)
    else:
        (folder / FOUND).write_text(json.dumps(run_jax(network, folder)))


def compare(name):
    """Prints the line of a network; True if it is within the bar."""
    seconds = []
    with tempfile.TemporaryDirectory() as folder:
        for side in ("torch", "jax"):
            start = time.perf_counter()
            command = [sys.executable, __file__, f"--side={side}", f"--folder={folder}"]
            subprocess.run([*command, name], check=True)
            seconds.append(time.perf_counter() - start)
        l2, worst = json.loads((pathlib.Path(folder) / FOUND).read_text())
    same = l2 <= L2 and worst <= WORST
    print(
        f"{name:16} relative L2 {l2:.1e}, largest error {worst:.1e}, torch "
        f"{seconds[0]:.0f} s, jax {seconds[1]:.0f} s" + ("" if same else ": TOO FAR"),
        flush=True,
    )
    return same


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", default=[*NETWORKS])
    parser.add_argument("--side", choices=("torch", "jax"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    told = parser.parse_args()
    for name in told.names:
        names.pick(NETWORKS, name)
    if told.side:
        run_side(told.side, *told.names, told.folder)
        return
    same = [compare(name) for name in told.names]
    sys.exit(not all(same))


if __name__ == "__main__":
    main()
