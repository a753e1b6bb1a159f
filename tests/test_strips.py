"""The first stage in strips says what the plain forward pass says."""

import dataclasses
import functools

import helpers
import numpy as np
import numpy_layers
import pytest

from ldm_jax import strips
from ldm_jax.models import autoencoder
from ldm_jax.weights import walks

KL = autoencoder.Arch(
    channels=8,
    mult=(1, 2, 2),
    blocks=1,
    attention=(0, 1, 0),
    mid_attention=True,
    z_channels=3,
    embed_channels=2,
    codes=0,
    dropout=0.0,
    groups=4,
    dtype="float32",
)
VQ = dataclasses.replace(
    KL, mult=(2, 1), blocks=2, attention=(0, 0), mid_attention=False, codes=16
)
FLAT = dataclasses.replace(KL, mult=(1,), attention=(1,), codes=5, dropout=0.5)

# Rows of the latent in a strip: one each, some with a smaller rest, all at once.
CASES = {
    "kl": ("kl", KL, (2, 20, 28, 3), 2),
    "vq": ("vq", VQ, (1, 14, 10, 3), 1),
    "one level": ("vq", FLAT, (1, 7, 5, 3), 3),
    "one strip": ("vq", VQ, (1, 6, 10, 3), None),
}


@functools.cache
def plain(name):
    """(params, x, latent, picture) of the forward pass that knows no strips."""
    kind, arch, shape, _ = CASES[name]
    net = autoencoder.FIRST_STAGES[kind](arch)
    x = helpers.normal(0, *shape)
    params = helpers.random_params(helpers.init_shapes(net, x))
    latent = helpers.apply(net, params, x, method="encode")
    return params, x, latent, helpers.apply(net, params, latent.mean, method="decode")


@pytest.mark.parametrize("name", CASES)
def test_both_ways_are_those_of_the_whole_picture(name):
    _, arch, _, rows = CASES[name]
    params, x, latent, picture = plain(name)
    found = strips.encode(arch, params, x, rows)
    assert type(found) is type(latent)
    assert helpers.largest_difference(found, latent) < 2e-5
    found = strips.decode(arch, params, latent.mean, rows)
    assert found.shape == x.shape and found.dtype == np.float32
    assert helpers.largest_difference(found, picture) < 2e-5


def test_each_strip_for_itself_would_be_another_picture():
    """What the tolerance above is to be compared with."""
    params, x, latent, picture = plain("kl")
    net = autoencoder.FIRST_STAGES["kl"](KL)
    halves = np.split(np.asarray(x), [8], axis=1)
    alone = [helpers.apply(net, params, part, method="encode").mean for part in halves]
    assert helpers.largest_difference(np.concatenate(alone, 1), latent.mean) > 0.05
    halves = np.split(np.asarray(latent.mean), [2], axis=1)
    alone = [helpers.apply(net, params, part, method="decode") for part in halves]
    assert helpers.largest_difference(np.concatenate(alone, 1), picture) > 0.05


def broken_norm(params, moments, groups):
    """A norm with the statistics of the first strip."""
    return WHOLE_NORM(params, moments[:1], groups)


def broken_windows(run, x):
    """Windows whose neighbours are always outside of the picture."""
    for i, (above, part, below, inside) in WINDOWS(run, x):
        yield i, (above, part, below, 0 * inside)


def outside_counts(run, x):
    """Windows whose rows outside of the picture are zero before the norm, not after."""
    for i, (above, part, below, inside) in WINDOWS(run, x):
        yield i, (above, part, below, np.ones_like(inside))


WHOLE_NORM, WINDOWS = strips.whole_norm, strips.Run.windows


@pytest.mark.parametrize(
    ("place", "name", "mutant"),
    [
        (strips, "whole_norm", broken_norm),
        (strips.Run, "windows", broken_windows),
        (strips.Run, "windows", outside_counts),
    ],
)
def test_statistics_and_neighbours_matter(monkeypatch, place, name, mutant):
    monkeypatch.setattr(place, name, mutant)
    params, x, latent, picture = plain("vq")
    found = strips.encode(VQ, params, x, 1)
    assert helpers.largest_difference(found, latent) > 1e-2
    found = strips.decode(VQ, params, latent.mean, 1)
    assert helpers.largest_difference(found, picture) > 1e-2


def test_statistics_survive_a_mean_far_from_zero():
    """A sum of squares in float32 would lose the variance altogether."""
    x = np.float32(3000 + helpers.normal(0, 2, 6, 500, 8))
    params = {"scale": np.linspace(1, 2, 8), "bias": np.linspace(-1, 1, 8)}
    moments = [strips.with_moments(part)[1:] for part in np.split(x, [1, 4], axis=1)]
    norm = strips.whole_norm(params, moments, 4)
    found = strips.normed(x, norm)
    wanted = numpy_layers.group_norm(params, np.float64(x), 4, autoencoder.EPSILON)
    assert helpers.largest_difference(found, wanted) < 1e-3
    square = np.mean(x * x, axis=(1, 2), dtype=np.float32)
    lost = square - np.mean(x, axis=(1, 2), dtype=np.float32) ** 2
    assert np.abs(lost - 1).max() > 0.1


def test_half_precision_stays_near():
    params, x, latent, _ = plain("vq")
    arch = dataclasses.replace(VQ, dtype="bfloat16")
    found = strips.encode(arch, params, x, 3)
    assert found.mean.dtype == np.float32
    assert 1e-4 < helpers.largest_difference(found.mean, latent.mean) < 0.1


def test_strips_are_freed_as_they_are_used():
    x = strips.Strips([np.ones((1, 2, 4, 3), np.float32)] * 3, [])
    params = {"kernel": np.ones((3, 3, 3, 5), np.float32), "bias": np.zeros(5)}
    with strips.SILENT(total=3) as bar:
        y = strips.Run(VQ, bar).conv(params, x, way="down")
    assert x.parts == [None] * 3
    assert [part.shape for part in y.parts] == [(1, 1, 2, 5)] * 3
    assert [mean.shape for mean, _ in y.moments] == [(1, 1, 5)] * 3


def test_a_bar_counts_every_strip():
    params, x, latent, _ = plain("vq")
    bars = []

    def progress(total):
        bars.append(strips.SILENT(total=total))
        bars[-1].counted = 0
        count = lambda n: setattr(bars[-1], "counted", bars[-1].counted + n)
        bars[-1].update = count
        return bars[-1]

    strips.encode(VQ, params, x, 1, progress)
    strips.decode(VQ, params, latent.mean, 1, progress)
    assert len(bars) == 2
    assert all(bar.counted == bar.total > 7 for bar in bars)


def test_a_size_that_the_factor_does_not_divide_is_refused():
    with pytest.raises(ValueError, match="8 x 6 pixels are no multiples .* 4: pad"):
        strips.encode(KL, {}, np.zeros((1, 8, 6, 3)))


def test_the_default_strips_bound_the_pixels():
    """Nothing runs: the shapes alone say how many strips there would be."""
    counts = []

    def progress(total):
        counts.append(total)
        raise InterruptedError

    x = np.broadcast_to(np.float32(0), (1, 256, 4096, 3))
    with pytest.raises(InterruptedError):
        strips.encode(KL, {"encoder": {}}, x, progress=progress)
    passes = 2 + sum(strips.PASSES[b.kind] for b in walks.encoder(KL))
    assert counts == [passes * 256 * 4096 // strips.PIXELS]
