"""Patches are put together as LDM's split input does with torch's Fold and Unfold."""

import numpy as np
import parity
import pytest
import torch

from ldm_jax import patches

pytestmark = pytest.mark.parity

PATCH, STRIDE, FACTOR = 16, 8, 4


def delta_border(height, width):
    y = torch.arange(0, height).view(height, 1, 1).repeat(1, width, 1)
    x = torch.arange(0, width).view(1, width, 1).repeat(height, 1, 1)
    corner = torch.tensor([height - 1, width - 1]).view(1, 1, 2)
    places = torch.cat([y, x], dim=-1) / corner
    near = torch.min(places, dim=-1, keepdims=True)[0]
    far = torch.min(1 - places, dim=-1, keepdims=True)[0]
    return torch.min(torch.cat([near, far], dim=-1), dim=-1)[0]


def split(run, x, up, down, tied):
    """encode_first_stage and decode_first_stage of LDM: x [B, C, H, W]."""
    unfold = torch.nn.Unfold(kernel_size=PATCH, stride=STRIDE)
    rows, columns = ((n - PATCH) // STRIDE + 1 for n in x.shape[2:])
    size, step = PATCH * up // down, STRIDE * up // down
    output = [n * up // down for n in x.shape[2:]]
    fold = torch.nn.Fold(output_size=output, kernel_size=size, stride=step)
    weight = torch.clip(delta_border(size, size), 0.01, 0.5)
    weight = weight.view(1, size * size, 1).repeat(1, 1, rows * columns)
    if tied:
        tie = torch.clip(delta_border(rows, columns), 0.01, 0.5)
        weight = weight * tie.view(1, 1, rows * columns)
    norm = fold(weight).view(1, 1, *output)
    weight = weight.view(1, 1, size, size, rows * columns)
    parts = unfold(x).view(len(x), -1, PATCH, PATCH, rows * columns)
    outputs = [run(parts[..., i]) for i in range(parts.shape[-1])]
    weighted = torch.stack(outputs, dim=-1) * weight
    return fold(weighted.view(len(x), -1, rows * columns)) / norm


def network(up, down):
    """A convolution that sees its patch's zero padding, as an autoencoder does."""
    if up > 1:
        net = torch.nn.ConvTranspose2d(3, 5, 2 * up, up, up // 2)
    else:
        net = torch.nn.Conv2d(3, 5, 2 * down + 1, down, down)
    return parity.fill(net)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize(("up", "down"), [(1, 1), (FACTOR, 1), (1, FACTOR)])
def test_split_input(up, down, tied):
    net, x = network(up, down), parity.normal(1, 2, 3, 32, 48)

    def run(part):
        part = torch.from_numpy(np.ascontiguousarray(part.transpose(0, 3, 1, 2)))
        return net(part).numpy().transpose(0, 2, 3, 1)

    with torch.inference_mode():
        theirs = parity.nhwc(split(net, x, up, down, tied))
        given = np.asarray(parity.nhwc(x))
        ours = patches.over(
            run, given, PATCH, STRIDE, up=up, down=down, tie_breaker=tied
        )
        whole = parity.nhwc(net(x))
    parity.assert_same(ours, theirs, f"up {up}, down {down}, tied {tied}")
    assert parity.errors(whole, theirs)[0] > 1e-2
