"""PyTorch's networks with random weights, and ours with the same ones.

Released files are stood in for by the modules of diffusers, transformers and open_clip,
whose state dicts have the same names: they are read as a file is.
"""

import importlib
import importlib.util
import pathlib
import sys
import types
from unittest import mock

from einops import rearrange
import jax.numpy as jnp
import numpy as np
import torch

from ldm_jax import config as config_lib
from ldm_jax.exchange import plans, released
from ldm_jax.models import clip
from ldm_jax.weights import tensors

L2, WORST = 2e-5, 2e-4  # the bar: relative L2; largest error by the largest value

# At gain 1 everything is about 1. At the other what enters the norms is so small that
# a wrong epsilon changes much, and wrong activations change little: take both.
GAINS = (1.0, 0.01)
# Ends of names of the layers, after a norm or at the start, whose output enters a norm.
BEFORE_NORMS = ("conv_in", "conv1", "conv2", "time_emb_proj", "proj_in", "to_out.0")
BEFORE_NORMS += ("net.2", "out_proj", "fc2", "c_proj")

ENCODERS = {
    "clip_tiny": clip.Encoder(64, 3, 4, "quick_gelu", clip.END),
    "openclip_tiny": clip.Encoder(96, 3, 4, "gelu", 0, 80),
}
CLIP = dict(kind="clip", encoders=("clip_tiny",), skip=(0,), final_norm=(True,))
OPENCLIP = {**CLIP, "encoders": ("openclip_tiny",), "skip": (1,)}
XL = dict(
    kind="clip",
    encoders=("clip_tiny", "openclip_tiny"),
    skip=(1, 1),
    final_norm=(False, False),
    pooled=True,
    null_tokens=(),
    micro=("original_size", "crop", "target_size"),
)


def mend_torchvision():
    """Lets transformers import, though it needs nothing of torchvision here.

    PyPI's, which open_clip brings, is built for torch with CUDA: beside one without,
    its operators are missing. Where there is no torchvision all is well.
    """
    if importlib.util.find_spec("torchvision") is None:
        return
    try:
        importlib.import_module("torchvision")
    except RuntimeError:
        for name in ("nms", "qnms"):
            arguments = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
            torch.library.define(f"torchvision::{name}", arguments)


mend_torchvision()


def open_clip_transformer():
    """open_clip's module of text towers alone: the package wants a torchvision."""
    package = types.ModuleType("open_clip")
    package.__path__ = importlib.util.find_spec("open_clip").submodule_search_locations
    misc = types.ModuleType("torchvision.ops.misc")
    misc.FrozenBatchNorm2d = None
    parts = {
        name: types.ModuleType(name) for name in ("torchvision", "torchvision.ops")
    }
    stubs = {**parts, "torchvision.ops.misc": misc, "open_clip": package}
    with mock.patch.dict(sys.modules, stubs):
        return importlib.import_module("open_clip.transformer")


def tiny_encoders(monkeypatch):
    """ENCODERS beside the released ones."""
    for name, encoder in ENCODERS.items():
        monkeypatch.setitem(clip.ENCODERS, name, encoder)


def config_of(**sections):
    """A small checked config: two levels of width 64 and 128, pictures of 32 pixels."""
    c = config_lib.latent_diffusion()
    c.data.update(name="emoji_singles", image_size=32, batch_size=2)
    c.schedule.update(beta_start=0.00085, beta_end=0.012)
    c.first_stage.update(channels=64, mult=(1, 2), blocks=1, attention=(0, 0))
    c.first_stage.update(z_channels=4, embed_channels=4, scale=0.18215)
    c.cond_stage.update(vocabulary="vocabulary:clip_bpe.txt.gz", vocab=clip.VOCAB)
    c.cond_stage.update(null_tokens=(clip.START, clip.END), length=clip.LENGTH)
    c.unet.update(out_channels=4, channels=64, mult=(1, 2), blocks=1, depths=(1, 1))
    c.train.update(pictures=2)
    for section, changes in sections.items():
        c[section].update(changes)
    return config_lib.check(c)


def with_factor_8(c):
    """The config with as many levels of the first stage as released hint encoders."""
    c.first_stage.update(mult=(1, 1, 1, 1), attention=(0, 0, 0, 0))
    c.data.image_size = 128
    return c


def fill(module, gain=1.0, seed=0):
    """Random weights, none of them zero, in eval mode.

    Matrices keep the size of what passes through them, those before norms `gain` of it.
    """
    gen = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for place, part in module.named_modules():
            for name, leaf in part.named_parameters(recurse=False):
                noise = torch.randn(leaf.shape, generator=gen)
                leaf.copy_(drawn(place, part, name, noise, gain))
    return module.eval()


def drawn(place, part, name, noise, gain=1.0):
    """The parameter `name` of a module, which lies at `place`, from normal noise."""
    if isinstance(part, torch.nn.GroupNorm | torch.nn.LayerNorm):
        return 0.1 * noise + float(name == "weight")
    if isinstance(part, torch.nn.Embedding) or name == "positional_embedding":
        return gain * noise
    if noise.ndim == 1:
        return 0.1 * gain * noise
    size = gain if place.endswith(BEFORE_NORMS) else 1.0
    return size * noise / noise[0].numel() ** 0.5


def normal(seed, *shape):
    """Standard normal numbers as a torch tensor."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def source(state):
    """A state dict as a file that was opened."""

    def tensor(value):
        array = value.detach().numpy()
        return tensors.Tensor(array.shape, array.dtype, array.copy)

    found = {name: tensor(value) for name, value in state.items()}
    return tensors.Source(pathlib.Path("torch"), "torch", found, {})


def read(rows, states):
    """Our parameters by {component: rows} from {component: state dict}, all of it."""
    plan = plans.plan(rows, {name: source(s) for name, s in states.items()})
    unread = [name for name, why in plan.unused.items() if why is None]
    assert not unread, f"nothing reads {unread}"
    return plans.tree(plans.tensors_of(plan))


def rows(config, layout, *roles):
    """{component: rows} of those of our parameters that lie under `roles`."""
    found = {}
    for component, inside in released.rows(config, layout).items():
        chosen = [row for row in inside if row.ours.startswith(roles)]
        found |= {component: chosen} if chosen else {}
    return found


def params(config, layout, state, role):
    """Our parameters under `role` from the state dict of its module."""
    wanted = rows(config, layout, role)
    (component,) = wanted
    tree = read(wanted, {component: state})
    for key in role.split("/"):
        tree = tree[key]
    return tree


def prompts(*lengths):
    """Rows of tokens as our tokenizer gives them, random but for 0, the empty one."""
    gen = np.random.default_rng(sum(lengths))
    rows = np.full((len(lengths), clip.LENGTH), clip.END, np.int32)
    rows[:, 0] = clip.START
    for row, length in zip(rows, lengths, strict=True):
        row[1 : 1 + length] = gen.integers(0, clip.START, length)
    return rows


def padded(rows, pad):
    """With another token after the end."""
    ended = np.cumsum(rows == clip.END, axis=-1) > 1
    return torch.from_numpy(np.where(ended, pad, rows)).long()


def nhwc(x):
    """A torch tensor [B, C, H, W] as our array."""
    return jnp.asarray(rearrange(x.detach().numpy(), "b c h w -> b h w c"))


def plain(x):
    """A torch tensor as an array of the same axes."""
    return jnp.asarray(x.detach().numpy())


def errors(ours, theirs):
    """(relative L2, largest error by the largest value) of two arrays."""
    ours, theirs = (np.asarray(x, np.float64) for x in (ours, theirs))
    assert ours.shape == theirs.shape, f"{ours.shape} is not {theirs.shape}"
    gap = ours - theirs
    l2 = np.linalg.norm(gap) / np.linalg.norm(theirs)
    return float(l2), float(np.abs(gap).max() / np.abs(theirs).max())


def assert_same(ours, theirs, what):
    """Ours is within the bar of theirs, which says something."""
    l2, worst = errors(ours, theirs)
    assert l2 <= L2 and worst <= WORST, (
        f"{what}: relative L2 {l2:.2e} (bar {L2:.0e}), largest error {worst:.2e} of "
        f"the largest value (bar {WORST:.0e})"
    )
