"""The UNet and ControlNet say what diffusers' say with the same weights."""

import dataclasses

import diffusers
import helpers
import jax
import jax.numpy as jnp
import numpy as np
import parity
import parity_models
import pytest
import torch

from ldm_jax import denoise, system, trees
from ldm_jax.exchange import released
from ldm_jax.models import controlnet, unet

pytestmark = pytest.mark.parity


@pytest.fixture(autouse=True)
def encoders(monkeypatch):
    parity.tiny_encoders(monkeypatch)


def configured(case):
    c = parity.config_of(**case.sections)
    return c, unet.UNet(system.arch_of_unet(c))


@pytest.mark.parametrize("name", parity_models.CASES)
def test_unet(name):
    case = parity_models.CASES[name]
    c, net = configured(case)
    for gain in parity.GAINS:
        other, inputs = parity_models.torch_unet(case, gain), parity_models.told(case)
        params = parity.params(c, "diffusers", other.state_dict(), "unet")
        with torch.inference_mode():
            expected = parity.nhwc(parity_models.torch_says(other, inputs))
        found = helpers.apply(net, params, *parity_models.arguments(inputs))
        parity.assert_same(found, expected, f"{name} at gain {gain}")


def swapped(rows, first, second):
    """The same rows, but two parameters are read from each other's tensor."""
    by_name = {row.ours: row for row in rows}
    a, b = by_name[first], by_name[second]
    assert a.shape == b.shape
    exchange = {
        a.ours: dataclasses.replace(a, theirs=b.theirs),
        b.ours: dataclasses.replace(b, theirs=a.theirs),
    }
    return [exchange.get(row.ours, row) for row in rows]


BLOCK = "unet/trunk/down_1_attn_0/block_0"


@pytest.mark.parametrize(
    "first, second",
    [
        (f"{BLOCK}/self/q/kernel", f"{BLOCK}/self/k/kernel"),
        (f"{BLOCK}/norm_self/scale", f"{BLOCK}/norm_mlp/scale"),
        (f"{BLOCK}/norm_cross/bias", f"{BLOCK}/norm_mlp/bias"),
        ("unet/up_1_res_0/norm_out/bias", "unet/up_1_res_1/norm_out/bias"),
        ("unet/up_0_res_1/temb/kernel", "unet/up_0_res_0/temb/kernel"),
    ],
)
def test_two_exchanged_parameters_are_seen(first, second):
    c, net = configured(parity_models.SD2)
    other, inputs = (
        parity_models.torch_unet(parity_models.SD2),
        parity_models.told(parity_models.SD2),
    )
    rows = swapped(parity.rows(c, "diffusers", "unet")["unet"], first, second)
    params = parity.read({"unet": rows}, {"unet": other.state_dict()})["unet"]
    with torch.inference_mode():
        expected = parity.nhwc(parity_models.torch_says(other, inputs))
    l2, _ = parity.errors(
        helpers.apply(net, params, *parity_models.arguments(inputs)), expected
    )
    assert l2 > 10 * parity.L2


def test_gradients():
    """Of every parameter, through the rows that read the weights."""
    c, net = configured(parity_models.SD2)
    other, inputs = (
        parity_models.torch_unet(parity_models.SD2),
        parity_models.told(parity_models.SD2),
    )
    weights = parity.normal(5, *inputs.z.shape)
    (parity_models.torch_says(other, inputs) * weights).sum().backward()
    slopes = {name: leaf.grad for name, leaf in other.named_parameters()}
    expected = trees.flatten(parity.params(c, "diffusers", slopes, "unet"))
    params = parity.params(c, "diffusers", other.state_dict(), "unet")

    def total(params):
        output = net.apply({"params": params}, *parity_models.arguments(inputs))
        return jnp.sum(output * parity.nhwc(weights))

    found = jax.tree.map(np.asarray, jax.jit(jax.grad(total))(params))
    for path, slope in trees.flatten(found).items():
        parity.assert_same(slope, expected[path], path)


def test_controlnet():
    """Every residual, and the UNet that they are added to."""
    c, net = configured(parity_models.SD1)
    inputs = parity_models.told(parity_models.SD1)
    hint = torch.rand(2, 3, 64, 128, generator=torch.Generator().manual_seed(4))
    branch = parity_models.torch_controlnet(parity_models.SD1)
    other = parity_models.torch_unet(parity_models.SD1)
    with torch.inference_mode():
        skips, middle = branch(
            inputs.z, inputs.t, inputs.context, hint, return_dict=False
        )
        more = dict(
            down_block_additional_residuals=skips,
            mid_block_additional_residual=middle,
        )
        expected = parity.nhwc(parity_models.torch_says(other, inputs, **more))

    rows = released.control_rows(parity.with_factor_8(c), "diffusers")
    (component,) = rows
    control = parity.read(rows, {component: branch.state_dict()})["control"]
    z, t, context, vector = parity_models.arguments(inputs)
    listener = controlnet.ControlNet(system.arch_of_unet(c))
    residuals = helpers.apply(listener, control, z, t, parity.nhwc(hint), context)
    assert len(residuals) == len(skips) + 1
    for i, (found, skip) in enumerate(zip(residuals, [*skips, middle], strict=True)):
        parity.assert_same(found, parity.nhwc(skip), f"residual {i}")

    params = parity.params(c, "diffusers", other.state_dict(), "unet")
    found = helpers.apply(net, params, z, t, context, vector, residuals)
    parity.assert_same(found, expected, "the controlled UNet")


def test_two_controlnets_add_up_as_in_diffusers():
    """MultiControlNetModel, each with its hint and strength."""
    c, _ = configured(parity_models.SD1)
    c.control.hints = ("canny", "depth")
    inputs = parity_models.told(parity_models.SD1)
    gen = torch.Generator().manual_seed(5)
    hints = [torch.rand(2, 3, 64, 128, generator=gen) for _ in range(2)]
    nets = [
        parity_models.torch_controlnet(parity_models.SD1, seed=seed) for seed in (6, 7)
    ]
    both = diffusers.MultiControlNetModel(nets)
    loud = [1.0, 0.7]
    with torch.inference_mode():
        skips, middle = both(
            *(inputs.z, inputs.t, inputs.context, hints, loud), return_dict=False
        )

    rows = released.control_rows(parity.with_factor_8(c), "diffusers")
    (component,) = rows
    params = {
        name: parity.read(rows, {component: net.state_dict()})["control"]
        for name, net in zip(c.control.hints, nets, strict=True)
    }
    z, t, context, vector = parity_models.arguments(inputs)
    count = len(skips) + 1
    cond = denoise.Cond(
        context=context,
        vector=vector,
        hints=dict(zip(c.control.hints, map(parity.nhwc, hints), strict=True)),
        strengths={
            name: jnp.full((2, count), x)
            for name, x in zip(c.control.hints, loud, strict=True)
        },
    )

    def told(params, z_t, t, cond, rng=None):
        return cond.residuals

    for name in c.control.hints:
        listener = controlnet.ControlNet(system.arch_of_unet(c))
        told = denoise.with_control(told, listener, name)
    found = jax.jit(told)(params, z, t, cond)
    for i, (ours, theirs) in enumerate(zip(found, [*skips, middle], strict=True)):
        parity.assert_same(ours, parity.nhwc(theirs), f"residual {i}")
