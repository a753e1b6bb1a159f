"""LPIPS is that of the package of Zhang et al., with random and published weights.

The last need `python -m ldm_jax.fetch lpips`, and fail without.
"""

import dataclasses
import functools
import importlib
import pathlib

import jax
import jax.numpy as jnp
from matplotlib import cbook
import numpy as np
import parity  # before lpips: it mends torchvision
from PIL import Image, ImageFilter
import pytest
import torch

from ldm_jax import frozen
from ldm_jax.models import perceptual

lpips = importlib.import_module("lpips")
pytestmark = pytest.mark.parity

BAR = 1e-5  # relative, of every distance
THEIRS = {"alexnet": "alex", "vgg16": "vgg"}
SIZE = 64


def torch_lpips(net, params):
    """Their network with our parameters: nothing of it is downloaded or drawn."""
    module = lpips.LPIPS(
        net=THEIRS[net], pretrained=False, pnet_rand=True, verbose=False
    )
    state = module.state_dict()
    trunk = [name for name in state if name.startswith("net.")]
    layers = [name for name in perceptual.shapes(net) if name != "heads"]
    for i, layer in enumerate(layers):
        kernel = np.asarray(params[layer]["kernel"]).transpose(3, 2, 0, 1)
        state[trunk[2 * i]] = torch.tensor(kernel)
        state[trunk[2 * i + 1]] = torch.tensor(np.asarray(params[layer]["bias"]))
    for i, tap in enumerate(perceptual.shapes(net)["heads"]):
        head = torch.tensor(params["heads"][tap]).reshape(1, -1, 1, 1)
        state[f"lin{i}.model.1.weight"] = head
        state[f"lins.{i}.model.1.weight"] = head
    assert len(trunk) == 2 * len(layers)
    module.load_state_dict(state)
    return module.eval()


def random_params(net):
    """Scaled so that what passes keeps its size, and heads that are not negative."""
    gen = np.random.default_rng(0)

    def draw(path, shape):
        noise = gen.standard_normal(shape.shape, np.float32)
        if path[0].key == "heads":
            return np.abs(noise)
        fan_in = np.prod(shape.shape[:-1])
        gain = np.float32(np.sqrt(2 / fan_in))
        return noise * gain if noise.ndim > 1 else np.float32(0.1) * noise

    return jax.tree_util.tree_map_with_path(draw, perceptual.shapes(net))


def silent_params(net):
    """AlexNet's, with a first tap of nothing but zeros in a half of the pixels."""
    params = random_params(net)
    heard = perceptual.features(params, jnp.asarray(pairs()[0]), net)["relu1"]
    loudest = np.sort(np.max(heard, axis=-1), axis=None)
    middle = loudest[int(0.4 * loudest.size) : int(0.6 * loudest.size)]
    widest = np.argmax(np.diff(middle))  # far from zero, so that rounding changes none
    params["conv1"]["bias"] -= (middle[widest] + middle[widest + 1]) / 2
    return params


def noise(seed, *shape):
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)


def photos():
    """(x, y): three views of a photograph beside what may become of them."""
    photo = Image.open(cbook.get_sample_data("grace_hopper.jpg")).convert("RGB")
    face = photo.crop((190, 90, 190 + SIZE, 90 + SIZE))
    coat = photo.crop((300, 480, 300 + SIZE, 480 + SIZE))
    whole = photo.resize((SIZE, SIZE), Image.Resampling.BICUBIC)
    after = [face.filter(ImageFilter.GaussianBlur(2)), coat, whole, face]
    after[1] = coat.resize((SIZE // 4,) * 2).resize((SIZE,) * 2)
    x, y = (
        np.stack([np.float32(view) / 127.5 - 1 for view in views])
        for views in ([face, coat, whole, coat], after)
    )
    y[2] = np.clip(x[2] + 0.1 * noise(3, *x[2].shape), -1, 1)
    return x, y


@functools.cache
def pairs():
    """(x, y): four pairs of photographs, two of noise, and one of equal pictures."""
    x, y = noise(1, 2, SIZE, SIZE, 3), noise(2, 2, SIZE, SIZE, 3)
    y[1] = 0.7 * x[1] + 0.3 * y[1]
    before, after = photos()
    x, y = (before, x, before[:1]), (after, y, before[:1])
    return np.concatenate(x), np.concatenate(y)


def torch_says(module, x, y):
    """(distances, the gradient of their sum in y), counted in float64."""
    module = module.double()
    x, y = (torch.tensor(np.float64(a)).permute(0, 3, 1, 2) for a in (x, y))
    found = module(x, y.requires_grad_())
    found.sum().backward()
    return found.detach().numpy().ravel(), y.grad.permute(0, 2, 3, 1).numpy()


@functools.partial(jax.jit, static_argnames="net")
def ours_say(params, x, y, net):
    """The same of ours; in float64 where that is what comes in, with x64 on."""

    def total(y):
        if y.dtype == jnp.float32:
            found = perceptual.lpips(params, x, y, net)
        else:
            a, b = (perceptual.features(params, z, net) for z in (x, y))
            found = perceptual.distance(params["heads"], a, b)
        return jnp.sum(found), found

    slope, found = jax.grad(total, has_aux=True)(y)
    return found, slope


@dataclasses.dataclass(frozen=True)
class Said:
    """The distances of `pairs()` and their gradients, by ours and theirs."""

    theirs: tuple
    ours: tuple
    ours_double: tuple


GIVEN = {
    "random": random_params,
    "silent": silent_params,
    "published": frozen.perceptual,
}
CASES = [("silent", "alexnet")]
CASES += [(given, net) for given in ("random", "published") for net in THEIRS]


@pytest.fixture(scope="module", params=CASES, ids=" ".join)
def said(request):
    given, net = request.param
    params = GIVEN[given](net)
    x, y = pairs()
    theirs = torch_says(torch_lpips(net, params), x, y)
    ours = ours_say(params, x, y, net)
    with jax.enable_x64(True):
        double = [jax.tree.map(np.float64, tree) for tree in (params, x, y)]
        ours_double = [np.asarray(a) for a in ours_say(*double, net)]
    assert ours_double[0].dtype == np.float64
    return Said(theirs, ours, ours_double)


def test_distances(said):
    assert said.theirs[0][:-1].min() > 1e-3 and said.theirs[0][-1] == 0
    np.testing.assert_allclose(said.ours[0][:-1], said.theirs[0][:-1], rtol=BAR)
    np.testing.assert_allclose(said.ours[0][-1], 0, atol=1e-9)


def test_gradients(said):
    """Exact in float64. In float32 a max-pooling or ReLU may choose otherwise, in
    theirs as in ours: that moved a gradient by 0.7% at most when it was measured.
    """
    for i, wanted in enumerate(said.theirs[1][:-1]):
        assert parity.errors(said.ours_double[1][i], wanted)[0] < 1e-9
        assert parity.errors(said.ours[1][i], wanted)[0] < 0.03


def test_nothing_pulls_where_pictures_are_equal(said):
    """The norm has a root, whose slope at zero is none: theirs is zero all the same."""
    for _, slope in (said.theirs, said.ours, said.ours_double):
        np.testing.assert_allclose(slope[-1], np.zeros(slope[-1].shape), atol=1e-7)


def test_a_silent_tap_is_among_the_cases():
    params = silent_params("alexnet")
    taps = perceptual.features(params, jnp.asarray(pairs()[0]), "alexnet")
    assert 0.3 < np.mean(~np.any(taps["relu1"], axis=-1)) < 0.7


@pytest.mark.parametrize("net", THEIRS)
def test_the_published_heads_are_those_in_their_package(net):
    folder = pathlib.Path(lpips.__file__).parent / "weights" / "v0.1"
    state = torch.load(
        folder / f"{THEIRS[net]}.pth", map_location="cpu", weights_only=True
    )
    heads = frozen.perceptual(net)["heads"]
    assert len(state) == len(heads)
    for i, tap in enumerate(perceptual.shapes(net)["heads"]):
        theirs = state[f"lin{i}.model.1.weight"].numpy().ravel()
        np.testing.assert_array_equal(heads[tap], theirs)
