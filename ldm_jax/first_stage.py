"""A first stage as functions: pictures to latents and back, and what is kept of them.

A diffusion model sees z_0, drawn from what the encoder says of a picture. That is the
same at every step, so it may be kept on disk: `kept` are its arrays.
"""

import dataclasses
import functools

from ldm_jax import losses, names
from ldm_jax.models import autoencoder

KEPT = "latent_"  # how those arrays' names begin in a batch


def arch(section):
    """The Arch of a first_stage section."""
    return names.record(autoencoder.Arch, section)


def make(section, scale):
    """(net, mean, functions of System) of an autoencoder; latents are times `scale`."""
    module = names.pick(autoencoder.FIRST_STAGES, section.kind)
    return _made(module, arch(section), float(scale))


@functools.cache
def _made(module, shape, scale):
    """Equal first stages are the same functions, which jax compiles once."""
    net = module(shape)

    def run(params, x, method):
        # An identity has no parameters, and no place in the dict.
        return net.apply({"params": params.get("first_stage", {})}, x, method=method)

    def posterior(params, x):
        return run(params, x, "encode")

    def latent(keys, posterior):
        noise = losses.normal(losses.split(keys, "encode"), posterior.mean.shape[1:])
        return scale * posterior.sample(noise)

    def encode(params, keys, x):
        return latent(keys, posterior(params, x))

    def mean(params, x):
        return scale * posterior(params, x).mean

    def decode(params, z_0):
        return run(params, z_0 / scale, "decode")

    def by_codes(method):
        return lambda params, x: run(params, x, method)

    functions = dict(posterior=posterior, latent=latent, encode=encode, decode=decode)
    if shape.codes:
        methods = ("encode_indices", "decode_indices")
        functions |= {method: by_codes(method) for method in methods}
    return net, mean, functions


def kept(posterior):
    """The arrays of a Posterior or Point by their names in a batch."""
    return {f"{KEPT}{name}": array for name, array in vars(posterior).items()}


def kept_shapes(section, latent):
    """{name in a batch: (shape of one picture's, dtype)}; latent: (h, w, c)."""
    kind = autoencoder.Point if section.codes else autoencoder.Posterior
    fields = dataclasses.fields(kind)
    return {f"{KEPT}{field.name}": (latent, "float32") for field in fields}


def is_kept(name):
    """Whether an array of a batch is one of those."""
    return name.startswith(KEPT)


def posterior_of(batch):
    """The Posterior or Point that a batch has; None in a batch of pictures."""
    arrays = {
        name.removeprefix(KEPT): array for name, array in batch.items() if is_kept(name)
    }
    if not arrays:
        return None
    kind = autoencoder.Posterior if "logvar" in arrays else autoencoder.Point
    return kind(**arrays)
