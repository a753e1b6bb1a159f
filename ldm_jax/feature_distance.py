"""How near are samples to real pictures? Frechet distances between VGG16's features.

n samples for the captions of n pictures, against n other pictures of the same split:

  fd       of the samples
  floor    of the pictures that gave the captions
  ceiling  of these after the model's first stage

None is FID, whose features are Inception's. They fall as n grows, to zero for the floor
alone: compare at one n. Nobody is compared with the pictures that gave the captions.
"""

import numpy as np

from ldm_jax import evaluation, fidelity, generation, names, reconstruction
from ldm_jax.data import datasets, labels
from ldm_jax.weights import cache, own

FEATURES = "means of vgg16's " + ", ".join(reconstruction.TAPS)
# Held out of single objects are some 160 pairs of object and colour: a distance to so
# few says little. Held out of scenes are pairs of things, and those are many.
HELD_OUT = ("emoji_scenes",)


def split_of(dataset, split=None):
    """The split to take captions and pictures from: a data set's own unless named."""
    names.pick(datasets.DRAWN, dataset)
    return split or ("heldout" if dataset in HELD_OUT else "train")


def examples(source, start, count):
    """(captions, uint8 [n, S, S, 3]) of a data set's items from a place on."""
    items = [source[labels.UNSEEN + i] for i in range(start, start + count)]
    return [item["caption"] for item in items], np.stack([x["image"] for x in items])


def features(model, critic, images, batch_size, bar):
    """VGG16's features of uint8 pictures: float32 [N, 1280]."""
    rows = []
    for places, new in reconstruction.batches_of(model, len(images), batch_size):
        rows.append(critic.look(images[places])[1][:new])
        bar.update(new)
    return np.concatenate(rows)


def evaluate(model, dataset, split, count, seed, batch_size, progress):
    """(figures, sheet rows): generation.Model -> dict, uint8 [n, 2, S, S, 3].

    The rows hold each sample and the picture that gave its caption. progress(total)
    makes a bar.
    """
    critic = reconstruction.judge("vgg16", model.mesh)
    make = names.pick(datasets.DRAWN, dataset)
    source = make(split, model.config.seed, model.config.data.image_size)
    with progress(6 * count) as bar:
        texts, real = examples(source, 0, count)
        _, reference = examples(source, count, count)
        drawn = fidelity.draw(model, texts, seed, batch_size, bar)
        keys = generation.keys(seed, np.arange(count))
        ceiling = reconstruction.through(model, real, keys, batch_size, bar)
        sets = {"fd": drawn, "floor": real, "ceiling": ceiling}
        wanted = features(model, critic, reference, batch_size, bar)
        told = {
            name: evaluation.frechet(
                wanted, features(model, critic, images, batch_size, bar)
            )
            for name, images in sets.items()
        }
    told |= {"n": count, "dataset": dataset, "split": split, "features": FEATURES}
    told["features_file"] = own.digest(cache.path("vgg16.safetensors"))
    return told, np.stack([drawn, real], axis=1)
