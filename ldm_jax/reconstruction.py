"""What a first stage loses: held-out pictures through it, and the simplest rival."""

import jax
import numpy as np
from PIL import Image

from ldm_jax import (
    evaluation,
    frozen,
    generation,
    names,
    paths,
    pictures,
    runs,
    sharding,
)
from ldm_jax import system as system_lib
from ldm_jax.data import datasets
from ldm_jax.models import perceptual
from ldm_jax.weights import cache, own


def model(config, workdir=None, weights=""):
    """The generation.Model of a first stage alone, without sampling.

    Of a latent diffusion config it is the one the config names; of an autoencoder's,
    that of the run in `workdir` or of the file `weights`.
    """
    system = system_lib.build(config)
    if config.task == "latent_diffusion":
        if workdir:
            raise ValueError(
                "a latent diffusion run trains no first stage: leave --workdir out to "
                "judge the one that its config names"
            )
        params = frozen.load(config, system)
        label = own.digest(paths.resolve(config.first_stage.weights))
    elif workdir:
        params, step = runs.latest_params(config, workdir)
        label = runs.label(params, workdir, step)
    else:
        path = paths.resolve(weights)
        params, _, _ = own.load_weights(path)
        if "first_stage" not in params:
            raise ValueError(
                f"{path} holds no first stage: name one with --weights, or a run with "
                "--workdir"
            )
        label = own.digest(path)
    params = {"first_stage": params["first_stage"]}
    shapes = jax.eval_shape(system.init, jax.random.key(0))
    own.check_tree(params, {"first_stage": shapes["first_stage"]}, label)
    mesh = sharding.make_mesh(config.parallel.fsdp)
    params = jax.device_put(params, sharding.params_sharding(params, mesh))
    return generation.Model(config, system, params, label, mesh)


def through(model, images, keys, batch_size, bar):
    """uint8 [N, S, S, 3] encoded, a latent drawn, decoded: uint8 of the same shape.

    keys: [N] typed keys. Raises ValueError if batch_size does not divide over devices.
    """
    if batch_size % model.mesh.size:
        raise ValueError(
            f"batch_size {batch_size} must be a multiple of the number of devices, "
            f"{model.mesh.size}"
        )
    rows = sharding.batch_sharding(model.mesh)

    @jax.jit
    def restore(params, keys, images):
        z_0 = model.system.encode(params, keys, pictures.to_float(images))
        return pictures.to_uint8(model.system.decode(params, z_0))

    parts = []
    for start in range(0, len(images), batch_size):
        place = np.minimum(np.arange(start, start + batch_size), len(images) - 1)
        given = jax.device_put((keys[place], images[place]), rows)
        parts.append(np.asarray(restore(model.params, *given)))
        bar.update(min(batch_size, len(images) - start))
    return np.concatenate(parts)[: len(images)]


def down_up(images, factor):
    """Shrunk by area and enlarged by bicubic interpolation: uint8 [N, H, W, 3]."""
    height, width = images.shape[1:3]
    small = (width // factor, height // factor)

    def one(image):
        image = Image.fromarray(image).resize(small, Image.Resampling.BOX)
        return np.asarray(image.resize((width, height), Image.Resampling.BICUBIC))

    return np.stack([one(image) for image in images])


def distances(x, y, bar, batch_size=16):
    """LPIPS (VGG16) of each pair of uint8 pictures: [N]."""
    params = jax.device_put(cache.load("vgg16"))

    @jax.jit
    def lpips(params, x, y):
        x, y = pictures.to_float(x), pictures.to_float(y)
        return perceptual.lpips(params, x, y, "vgg16")

    parts = []
    for start in range(0, len(x), batch_size):
        place = np.minimum(np.arange(start, start + batch_size), len(x) - 1)
        parts.append(np.asarray(lpips(params, x[place], y[place])))
        bar.update(min(batch_size, len(x) - start))
    return np.concatenate(parts)[: len(x)]


def figures(x, y, bar):
    """Means over pairs of uint8 pictures."""
    return {
        "psnr": float(np.mean(evaluation.psnr(x, y))),
        "ssim": float(np.mean(evaluation.ssim(x, y))),
        "lpips": float(np.mean(distances(x, y, bar))),
    }


def held_out(config, dataset, count):
    """The first pictures of a data set's held-out split: uint8 [count, S, S, 3]."""
    make = names.pick(datasets.DATASETS, dataset)
    source = make("heldout", config.seed, config.data.image_size)
    return np.stack([source[i]["image"] for i in range(count)])


def evaluate(model, dataset, count, seed, batch_size, progress):
    """(figures, sheet rows): dict, uint8 [n, 3, S, S, 3].

    The rows hold each picture, its reconstruction, and the shrunk and enlarged one.
    progress(total) makes a bar.
    """
    cache.path("vgg16.safetensors")
    factor = 2 ** (len(model.config.first_stage.mult) - 1)
    keys = generation.keys(seed, np.arange(count))
    x = held_out(model.config, dataset, count)
    with progress(3 * count) as bar:
        x_hat = through(model, x, keys, batch_size, bar)
        rival = down_up(x, factor)
        result = figures(x, x_hat, bar)
        result["down_up"] = figures(x, rival, bar) | {"factor": factor}
    about = {"n": count, "dataset": dataset, "factor": factor}
    return about | result, np.stack([x, x_hat, rival], axis=1)
