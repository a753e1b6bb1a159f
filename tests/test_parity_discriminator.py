"""The patch discriminator says and learns what the originals' does."""

import collections

import helpers
import jax
import jax.numpy as jnp
import numpy as np
import parity
import pytest
import torch
from torch import nn

from ldm_jax.models import discriminator

pytestmark = pytest.mark.parity


class ActNorm(nn.Module):
    """The first batch in training overwrites both parameters."""

    def __init__(self, width):
        super().__init__()
        self.loc = nn.Parameter(torch.zeros(1, width, 1, 1))
        self.scale = nn.Parameter(torch.ones(1, width, 1, 1))
        self.initialized = False

    def forward(self, x):
        if not self.initialized:
            rows = x.detach().transpose(0, 1).flatten(1)
            self.loc.data.copy_(-rows.mean(1).view(self.loc.shape))
            self.scale.data.copy_(1 / (rows.std(1).view(self.loc.shape) + 1e-6))
            self.initialized = True
        return self.scale * (x + self.loc)


NORMS = {"batch": nn.BatchNorm2d, "actnorm": ActNorm}
CASES = [(depth, norm) for depth in (2, 3) for norm in NORMS]


def torch_discriminator(channels, depth, norm):
    """Pix2pix's, with the names of our layers."""
    layers, width = collections.OrderedDict(), channels
    layers["conv_0"] = nn.Conv2d(3, width, 4, 2, 1)
    layers["leaky_0"] = nn.LeakyReLU(0.2)
    for i in range(1, depth + 1):
        before, width = width, channels * min(2**i, 8)
        stride, bias = 2 if i < depth else 1, norm != "batch"
        layers[f"conv_{i}"] = nn.Conv2d(before, width, 4, stride, 1, bias=bias)
        layers[f"norm_{i}"] = NORMS[norm](width)
        layers[f"leaky_{i}"] = nn.LeakyReLU(0.2)
    layers["logits"] = nn.Conv2d(width, 1, 4, 1, 1)
    return nn.Sequential(layers)


OURS = {nn.Conv2d: dict(weight="kernel"), nn.BatchNorm2d: dict(weight="scale")}


def tree(net, read):
    """Our nested dict of what `read` gives of every parameter."""
    found = {}
    for place, part in net.named_children():
        for name, leaf in part.named_parameters():
            name = OURS.get(type(part), {}).get(name, name)
            array = read(leaf).detach().numpy().copy()
            kernel = isinstance(part, nn.Conv2d) and array.ndim == 4
            array = array.transpose(2, 3, 1, 0) if kernel else array.reshape(-1)
            found.setdefault(place, {})[name] = jnp.asarray(array)
    return found


def filled(depth, norm):
    """With random weights, in training mode, no batch seen."""
    net = parity.fill(torch_discriminator(8, depth, norm))
    with torch.no_grad():
        for part in net:
            if isinstance(part, nn.BatchNorm2d):
                part.weight += 1
            if isinstance(part, ActNorm):
                part.loc.zero_()
                part.scale.fill_(1)
    return net.train()


def torch_plays(net, x):
    """(logits, the pull that is put on them, gradients of x and the parameters)."""
    net.zero_grad()
    x = x.requires_grad_()
    logits = net(x)
    pull = parity.normal(9, *logits.shape)
    torch.sum(pull * logits).backward()
    return logits, pull, x.grad, tree(net, lambda leaf: leaf.grad)


def plays(net, params, stats, x, pull):
    """(logits, new statistics, gradients of x and the parameters) of ours."""

    def judge(x, params):
        variables = {"params": params, "batch_stats": stats}
        logits, new = net.apply(variables, x, mutable=["batch_stats"])
        return jnp.sum(pull * logits), (logits, new["batch_stats"])

    grads, (logits, new) = jax.jit(jax.grad(judge, (0, 1), has_aux=True))(x, params)
    return logits, new, *grads


def assert_equal_plays(ours, theirs, what):
    logits, _, slope, grads = ours
    parity.assert_same(logits, parity.nhwc(theirs[0]), f"logits {what}")
    parity.assert_same(slope, parity.nhwc(theirs[2]), f"gradient of x {what}")
    flat = lambda tree: np.concatenate([np.ravel(a) for a in jax.tree.leaves(tree)])
    assert jax.tree.structure(grads) == jax.tree.structure(theirs[3])
    parity.assert_same(flat(grads), flat(theirs[3]), f"gradients {what}")
    for name, grad in theirs[3].items():
        parity.assert_same(flat(grads[name]), flat(grad), f"gradients of {name} {what}")


@pytest.mark.parametrize(("depth", "norm"), CASES)
def test_logits_and_gradients(depth, norm):
    """Of a first batch and, all parameters moved, of a second one."""
    other = filled(depth, norm)
    net = discriminator.PatchDiscriminator(channels=8, depth=depth, norm=norm)
    params = tree(other, lambda leaf: leaf)
    x, y = parity.normal(1, 2, 3, 32, 40), 0.3 + 2 * parity.normal(2, 3, 3, 32, 40)
    init = lambda: net.init(jax.random.key(0), parity.nhwc(x))["batch_stats"]
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), jax.eval_shape(init))

    theirs = torch_plays(other, x)
    ours = plays(net, params, zeros, parity.nhwc(x), parity.nhwc(theirs[1]))
    assert_equal_plays(ours, theirs, "at the first batch")

    with torch.no_grad():
        for i, leaf in enumerate(other.parameters()):
            leaf += 0.1 * leaf.abs().mean() * parity.normal(20 + i, *leaf.shape)
    params, stats = tree(other, lambda leaf: leaf), ours[1]
    if norm == "actnorm":  # ours are without what the first batch added
        for name, added in stats.items():
            for kind in ("loc", "scale"):
                params[name][kind] -= added[kind]
    theirs = torch_plays(other, y)
    ours = plays(net, params, stats, parity.nhwc(y), parity.nhwc(theirs[1]))
    assert_equal_plays(ours, theirs, "at the second batch")


@pytest.mark.parametrize(("depth", "norm"), CASES)
def test_released_size(depth, norm):
    """2.77 and 0.66 million, as torch counts."""
    with torch.device("meta"):
        other = torch_discriminator(64, depth, norm)
    net = discriminator.PatchDiscriminator(depth=depth, norm=norm)
    shapes = helpers.init_shapes(net, jnp.zeros((1, 64, 64, 3)))
    found = helpers.count(shapes)
    assert found == sum(leaf.numel() for leaf in other.parameters())
    assert round(found / 1e6, 2) == {3: 2.77, 2: 0.66}[depth]
