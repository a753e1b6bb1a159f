"""What a first stage loses: held-out pictures through it, and the simplest rival.

psnr, ssim       means over the pictures
lpips            the same, by a net that the first stage was not trained on
rfd              Frechet distance between VGG16's features of originals and of
                 reconstructions; not FID, whose features are Inception's
gradient_energy  of the reconstructions, over that of the originals: below 1, blurred
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from ldm_jax import config as config_lib
from ldm_jax import (
    config_saved,
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
from ldm_jax.weights import own

JUDGES = {"alexnet": "vgg16", "vgg16": "alexnet"}  # trained on -> judged by
UNKNOWN = "vgg16"  # the judge where no net, or one we do not know, was trained on
TAPS = ("relu3_3", "relu4_3", "relu5_3")  # of VGG16, whose means are the features
SHOWN = 48  # pictures that are kept for a sheet


def named(config=None, workdir=None, weights=None):
    """(config, weights) that three flags name: a config file's, or that of the weights.

    Without any of them the embedded model is meant. Raises ValueError where they
    contradict each other.
    """
    if config is None and workdir is not None:
        raise ValueError("--workdir needs the --config that the run was made with")
    if weights is not None and workdir is not None:
        raise ValueError("--workdir and --weights exclude each other: name one of them")
    if config is None:
        weights = weights or generation.EMBEDDED
        config = generation.config_of(weights)
    return config_lib.check(config), weights


def model(config, workdir=None, weights=None, step=None):
    """The generation.Model of a first stage alone, without sampling.

    Of a latent diffusion config it is the one the config names; of an autoencoder's,
    that of the run in `workdir`, the newest or of a step, or of the file `weights`.
    """
    if "first_stage" not in config:
        raise ValueError(
            f"the config is of task {config.task!r}: it has no first stage"
        )
    system = system_lib.build(config)
    if config.first_stage.kind == "identity":
        raise ValueError(
            "first_stage.kind 'identity' loses nothing: diffusion sees the pictures, "
            "and there is no first stage to judge"
        )
    if config.task == "latent_diffusion":
        if workdir:
            raise ValueError(
                "a latent diffusion run trains no first stage: leave --workdir out to "
                "judge the one that its config names"
            )
        if weights:
            _check_named(config, weights)
        params = frozen.load(config, system)
        label = own.digest(paths.resolve(config.first_stage.weights))
    elif workdir:
        params, step = runs.latest_params(config, workdir, step)
        label = runs.label(params, workdir, step)
    elif not weights:
        raise ValueError("name a first stage with --weights, or a run with --workdir")
    else:
        path = paths.resolve(weights)
        params, saved, _ = own.load_weights(path)
        if "first_stage" not in params:
            raise ValueError(
                f"{path} holds no first stage: name one with --weights, or a run with "
                "--workdir"
            )
        frozen.check_shape(config.first_stage, saved, str(path))
        label = own.digest(path)
    params = {"first_stage": params["first_stage"]}
    shapes = jax.eval_shape(system.init, jax.random.key(0))
    where = workdir or weights or config.first_stage.weights
    own.check_tree(params, {"first_stage": shapes["first_stage"]}, str(where))
    mesh = sharding.make_mesh(config.parallel.fsdp)
    params = jax.device_put(params, sharding.params_sharding(params, mesh))
    return generation.Model(config, system, params, label, mesh)


def _check_named(config, weights):
    """Raises ValueError where a diffusion model's file has another first stage."""
    path = paths.resolve(weights)
    meta, stage = own.open_weights(path)[2], frozen.digest(config)
    if meta.get("first_stage", frozen.latents_of(path)) != stage:
        raise ValueError(
            f"{path} is not of the first stage that is judged, {stage}, which "
            "first_stage.weights names: leave --weights out, or --config"
        )


def trained_on(config, workdir=None, weights=None, step=None):
    """The LPIPS net that `model`'s first stage was trained on; None if none is known.

    A file says it in the config it was written with. Converted ones of latent
    diffusion do not.
    """
    if config.task == "latent_diffusion":
        weights = config.first_stage.weights
    if workdir:
        config = runs.as_trained(config, workdir, step)
    else:
        path = paths.resolve(weights)
        _, saved, _ = own.open_weights(path)
        try:
            config = config_saved.from_dict(saved)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path} has a config that is none: {error}") from error
    known = config.task == "autoencoder" and config.loss.perceptual_weight
    return config.loss.perceptual if known else None


def judge_of(net):
    """Which net judges a first stage that was trained on `net`."""
    return JUDGES.get(net, UNKNOWN)


def restorer(model):
    """(params, keys, uint8 pictures) -> {image: uint8, finite, latent: unscaled,
    indices: of the codebook, if there is one}, compiled.
    """
    system, config = model.system, model.config
    scale = config.first_stage.scale if config.task == "latent_diffusion" else 1.0

    @jax.jit
    def restore(params, keys, images):
        x, told = pictures.to_float(images), {}
        z_0 = system.latent(keys, system.posterior(params, x))
        if system.encode_indices:
            # The compiler sees that this encodes the same pictures again.
            told["indices"] = system.encode_indices(params, x)
            x_hat = system.decode_indices(params, told["indices"])
        else:
            x_hat = system.decode(params, z_0)
        finite = jnp.all(jnp.isfinite(x_hat), axis=(1, 2, 3))
        told |= {"image": pictures.to_uint8(x_hat), "latent": z_0 / scale}
        return told | {"finite": finite}

    return restore


def finite(told):
    """What a restorer gave; raises FloatingPointError where numbers are not finite."""
    if not told["finite"].all():
        raise FloatingPointError("the first stage gives pictures that are not finite")
    return told


def batches_of(model, count, batch_size):
    """[(places [batch_size], how many of them are new)] of `count` pictures.

    The last place is repeated to fill the last batch. Raises ValueError if batch_size
    does not divide over devices.
    """
    if batch_size % model.mesh.size:
        raise ValueError(
            f"batch_size {batch_size} must be a multiple of the number of devices, "
            f"{model.mesh.size}"
        )
    return [
        (
            np.minimum(np.arange(start, start + batch_size), count - 1),
            min(batch_size, count - start),
        )
        for start in range(0, count, batch_size)
    ]


def through(model, images, keys, batch_size, bar):
    """uint8 [N, S, S, 3] encoded, a latent drawn, decoded: uint8 of the same shape.

    keys: [N] typed keys. Raises ValueError if batch_size does not divide over devices,
    FloatingPointError where pictures are not finite.
    """
    restore, rows = restorer(model), sharding.batch_sharding(model.mesh)
    parts = []
    for places, new in batches_of(model, len(images), batch_size):
        given = jax.device_put((keys[places], images[places]), rows)
        told = finite(jax.device_get(restore(model.params, *given)))
        parts.append(told["image"][:new])
        bar.update(new)
    return np.concatenate(parts)


def down_up(images, factor):
    """Shrunk by area and enlarged by bicubic interpolation: uint8 [N, H, W, 3]."""
    height, width = images.shape[1:3]
    small = (width // factor, height // factor)

    def one(image):
        image = Image.fromarray(image).resize(small, Image.Resampling.BOX)
        return np.asarray(image.resize((width, height), Image.Resampling.BICUBIC))

    return np.stack([one(image) for image in images])


@functools.partial(jax.jit, static_argnames="net")
def activations(params, images, net):
    """The taps of `perceptual.features` for uint8 pictures."""
    return perceptual.features(params, pictures.to_float(images), net)


@jax.jit
def pooled(taps):
    """VGG16's taps -> what Frechet distances are taken of: float32 [B, 1280]."""
    return jnp.concatenate([jnp.mean(taps[tap], axis=(1, 2)) for tap in TAPS], axis=-1)


distance = jax.jit(perceptual.distance)


@dataclasses.dataclass(frozen=True)
class Judge:
    """LPIPS by `net`, and VGG16's features, on the devices of a model."""

    net: str
    params: dict  # by the name of the network
    mesh: jax.sharding.Mesh

    def look(self, images):
        """(taps of `net`, features float32 [B, 1280]) of uint8 pictures [B, S, S, 3].

        Each network runs once.
        """
        images = jax.device_put(images, sharding.batch_sharding(self.mesh))
        taps = {net: activations(self.params[net], images, net) for net in self.params}
        return taps[self.net], np.asarray(pooled(taps["vgg16"]))

    def see(self, x, sides, where=None):
        """{"original": {energy, features}, side: {psnr, ...}}, numbers of each picture.

        x: uint8 pictures; sides: {name: what became of them}; where: for LPIPS, what
        each pixel counts, [B, S, S].
        """
        taps, features = self.look(x)
        original = {"energy": evaluation.gradient_energy(x), "features": features}
        seen = {name: self.compare(x, taps, y, where) for name, y in sides.items()}
        return {"original": original} | seen

    def compare(self, x, taps, y, where):
        """{name: [B, ...]} of pictures y beside x, whose taps of `net` are given."""
        own_taps, features = self.look(y)
        return {
            "psnr": evaluation.psnr(x, y),
            "ssim": evaluation.ssim(x, y),
            "lpips": np.asarray(
                distance(self.params[self.net]["heads"], taps, own_taps, where)
            ),
            "energy": evaluation.gradient_energy(y),
            "features": features,
        }


def judge(net, mesh):
    """The Judge with LPIPS by `net`; raises before anything is computed."""
    params = {name: frozen.perceptual(name) for name in {net, "vgg16"}}
    return Judge(net, jax.device_put(params, sharding.replicated(mesh)), mesh)


def figures(original, rows):
    """Numbers of a set from `Judge.compare`; original: {energy, features} of x."""
    with np.errstate(divide="ignore", invalid="ignore"):  # flat originals have none
        energy = np.mean(rows["energy"]) / np.mean(original["energy"])
    means = {key: float(np.mean(rows[key])) for key in ("psnr", "ssim", "lpips")}
    return means | {
        "rfd": evaluation.frechet(original["features"], rows["features"]),
        "gradient_energy": float(energy),
    }


def codebook(counts):
    """What a codebook is used for; counts [codes] of the choices."""
    return {
        "codes": len(counts),
        "usage": evaluation.usage(counts),
        "perplexity": evaluation.perplexity(counts),
    }


def held_out(config, dataset):
    """A data set's held-out split, in pictures of the config's size."""
    make = names.pick(datasets.DRAWN, dataset)
    return make("heldout", config.seed, config.data.image_size)


def evaluate(model, net, dataset, count, seed, batch_size, rival, progress):
    """(figures, sheet rows): dict, uint8 [n, 2 or 3, S, S, 3].

    net: the one that judges. The rows hold the first pictures, their reconstructions
    and, if `rival`, the shrunk and enlarged ones, whose figures come too. Of all other
    pictures only numbers are kept. progress(total) makes a bar.
    """
    factor = system_lib.arch_of_first_stage(model.config).factor
    critic, source = judge(net, model.mesh), held_out(model.config, dataset)
    batches = batches_of(model, count, batch_size)
    restore, keys = restorer(model), generation.keys(seed, np.arange(count))
    devices = sharding.batch_sharding(model.mesh)
    numbers, shown, latents, counts = [], [], 0, 0
    with progress(count) as bar:
        for places, new in batches:
            x = np.stack([source[int(i)]["image"] for i in places])
            given = jax.device_put((keys[places], x), devices)
            told = finite(jax.device_get(restore(model.params, *given)))
            sides = {"model": told["image"]}
            sides |= {"down_up": down_up(x, factor)} if rival else {}
            seen = critic.see(x, sides)
            numbers.append(jax.tree.map(lambda rows, new=new: rows[:new], seen))
            latents = latents + evaluation.moments(told["latent"][:new])
            if "indices" in told:
                chosen, codes = told["indices"][:new], model.config.first_stage.codes
                counts = counts + np.bincount(chosen.ravel(), minlength=codes)
            if sum(map(len, shown)) < SHOWN:
                shown.append(np.stack([x, *sides.values()], axis=1)[:new])
            bar.update(new)
    seen = jax.tree.map(lambda *parts: np.concatenate(parts), *numbers)
    result = {"n": count, "dataset": dataset, "factor": factor}
    result |= figures(seen["original"], seen["model"])
    result |= evaluation.latent_statistics(latents)
    result |= codebook(counts) if model.system.encode_indices else {}
    if rival:
        result["down_up"] = figures(seen["original"], seen["down_up"])
        result["down_up"]["factor"] = factor
    return result, np.concatenate(shown)[:SHOWN]
