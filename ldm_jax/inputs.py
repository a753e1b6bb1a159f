"""From a config to batches: the one place where config and data pipeline meet."""

import contextlib
import dataclasses

import jax
import ml_collections
import numpy as np

from ldm_jax import control, frozen, names, paths, tokenizers
from ldm_jax.data import (
    datasets,
    hints,
    latents,
    layout,
    masks,
    packed,
    pipeline,
    transforms,
)
from ldm_jax.data import degrade as degradations
from ldm_jax.models import conditioners


def _spoken(config, example, rng):
    tokens = tokenizers.of_training(config)([example["caption"]])[0]
    micro = conditioners.sizes(config.cond_stage.micro, config.data.image_size)
    return {"tokens": tokens, "micro": micro}


def _laid_out(config, example, rng):
    cond = config.cond_stage
    seen = {key: example[key] for key in ("flags", "crop", "flip") if key in example}
    tokens = layout.tokens(
        *(example["classes"], example["boxes"]),
        count=cond.classes,
        vocab=cond.vocab,
        objects=(cond.length - 2) // 3,
        rng=rng,
        **seen,
    )
    return {"tokens": tokens}


def _degraded(config, example, rng):
    degrade = degradations.DEGRADATIONS[config.data.degradation]
    return {"low_res": degrade(example["image"], rng, 2**config.cond_stage.stages)}


def _labelled(config, example, rng):
    """With dropout the last number is the null's, and no label of an example."""
    label, cond = int(example["label"]), config.cond_stage
    guided = cond.drop > 0
    last = cond.classes - 1 - guided
    if not 0 <= label <= last:
        raise ValueError(
            f"an example has the label {label}, cond_stage.classes {cond.classes} has "
            f"room for 0 to {last}{' and the null' if guided else ''}"
        )
    return {}


def _mapped(config, example, rng):
    found, classes = example["segmentation"], config.cond_stage.classes
    if found.min() < 0 or found.max() >= classes:
        raise ValueError(
            f"an example's map has numbers from {found.min()} to {found.max()}, "
            f"cond_stage.classes {classes} has room for 0 to {classes - 1}"
        )
    return {"segmentation": found.astype(np.uint8)}


# What each kind of cond_stage is told beside the picture: (config, example, rng) ->
# what joins the example.
TOLD = {
    "none": lambda config, example, rng: {},
    "text": _spoken,
    "clip": _spoken,
    "layout": _laid_out,
    "low_res": _degraded,
    "label": _labelled,
    "segmentation": _mapped,
}


@dataclasses.dataclass(frozen=True)
class Prepare:
    """(example, rng) -> the example as the model is given it; picklable, for workers.

    config: a frozen one of latent diffusion, or None: then it stays as it is.
    """

    config: object
    geometry: object = None  # of pictures that are read, as those come in any size

    def __call__(self, example, rng=None):
        if self.geometry is not None:
            example = self.geometry(example, rng)
        if self.config is None:
            return example
        told = TOLD[self.config.cond_stage.kind](self.config, example, rng)
        kind, size = self.config.data.holes, self.config.data.image_size
        if kind:
            told["mask"] = masks.free(rng, size, kind)
        for name in self.config.control.hints:
            told[control.key(name)] = _hint(name, example, rng)
        return {**example, **told}


def _hint(name, example, rng):
    hint = names.pick(hints.HINTS, name)
    if missing := [key for key in hint.needs if key not in example]:
        raise ValueError(
            f"control.hints {name!r} is made of {', '.join(hint.needs)}, and an "
            f"example has no {', '.join(missing)}"
        )
    return hint.make(example, rng)


def geometry_of(config, split):
    """The Geometry of pictures that are read; None where they are drawn."""
    data = config.data
    if data.name not in datasets.READ:
        return None
    names.pick(transforms.CROPS, data.crop)
    names.pick(transforms.RESIZES, data.resize)
    geometry = transforms.Geometry(data.image_size, data.crop, data.resize, data.flip)
    return geometry if split == "train" else geometry.steady()


def prepare(config, split="train"):
    """The transform of a config's examples.

    Those that were kept by ldm_jax.encode have no pictures, they were cut before; and
    with data.texts there is nothing left to tell.
    """
    data, kept = config.data, split == "train" and config.data.latents
    geometry = geometry_of(config, split)
    geometry = None if kept else geometry
    if config.task != "latent_diffusion" or kept and data.texts:
        return Prepare(None, geometry)
    names.pick(degradations.DEGRADATIONS, data.degradation)
    if data.holes:
        names.pick(masks.FREE, data.holes)
    for name in config.control.hints:
        names.pick(hints.HINTS, name)
        if name == "segmentation" and data.name in datasets.DRAWN:
            raise ValueError(
                "control.hints 'segmentation' is of ADE20K's classes, and data.name "
                f"{data.name!r} has those of drawn scenes: call the branch 'segments'"
            )
    if config.cond_stage.kind in tokenizers.SPOKEN:
        tokenizers.of_training(config)
    return Prepare(ml_collections.FrozenConfigDict(config), geometry)


def speech(config):
    """The Prepare of captions alone, where data.texts keeps what is said of them.

    As in validation; pictures come as `square_source` has them.
    """
    if not config.data.texts:
        return Prepare(None)
    return dataclasses.replace(prepare(config, "heldout"), geometry=None)


def source(config, split):
    """The examples of a config's data set: random access, deterministic.

    Those that are read, and with data.latents those of training, which have what was
    kept of their latents in place of pictures, are walked over again and again, each
    time in another order.
    """
    if split != "train" or not config.data.latents:
        drawn = drawn_source(config, split)
        if config.data.name in datasets.DRAWN:
            return drawn
        return pipeline.shuffled(drawn, config.seed)
    square = square_source(config, split)
    folder = paths.resolve(config.data.latents)
    kept = latents.open_kept(folder, made_from(config, split))
    latents.check_examples(kept, square)
    return pipeline.shuffled(kept, config.seed)


def drawn_source(config, split):
    """`source` of the pictures themselves, data.latents or not; may have an end."""
    names.pick(datasets.DATASETS, config.data.name)
    if config.data.name in datasets.READ:
        if not config.data.path:
            raise ValueError(
                f"data.path is empty: name the folder of data.name {config.data.name!r}"
            )
        return datasets.READ[config.data.name](paths.resolve(config.data.path), split)
    make = datasets.DRAWN[config.data.name]
    return make(split, config.seed, config.data.image_size)


def square_source(config, split):
    """The pictures that latents are kept of, in order: those that are read are cut."""
    drawn, geometry = drawn_source(config, split), geometry_of(config, split)
    return transforms.Cut(drawn, geometry, config.seed) if geometry else drawn


# Of cond_stage, what does not change what its encoder says of a caption.
UNSAID = ("drop", "null_tokens")


def made_from(config, split):
    """What decides the latents of a config's pictures, as data.latents keeps it.

    With data.texts "texts" joins: what decides what is kept of the captions.
    """
    data = config.data
    told = {
        "data.name": data.name,
        "data.image_size": data.image_size,
        "content": datasets.content(data.name, paths.resolve(data.path)),
        **{f"data.{key}": data[key] for key in ("crop", "resize", "flip")},
        "seed": config.seed,
        "split": split,
        "first_stage.kind": config.first_stage.kind,
        "first_stage.weights": frozen.digest(config),
        "first_stage.dtype": config.first_stage.dtype,
    }
    if not data.texts:
        return told
    section = config.cond_stage
    texts = {
        f"cond_stage.{key}": list(value) if isinstance(value, tuple) else value
        for key, value in section.items()
        if key not in UNSAID
    }
    vocabulary = frozen.digest_of(paths.resolve(section.vocabulary))
    texts |= {"cond_stage.vocabulary": vocabulary}
    return told | {"texts": texts | {"train.init": frozen.digest_of_start(config)}}


def check(config):
    """Raises in words what `batches` would: an unknown data set or vocabulary."""
    names.pick(datasets.DATASETS, config.data.name)
    for split in ("train", "heldout"):
        prepare(config, split)
    if config.data.latents:
        source(config, "train")
    if config.data.name in datasets.READ:
        for split in ("train", "heldout"):
            drawn_source(config, split)
    check_pack(config)


def check_pack(config):
    """Raises ValueError where a packed folder lacks what the model is told."""
    if config.data.name == "packed":
        wanted = _wanted(config)
        for name in config.control.hints if "control" in config else ():
            absent = set(hints.HINTS[name].needs) - set(packed.PARTS)
            if absent:
                raise ValueError(
                    f"control.hints {name!r} is made of {', '.join(sorted(absent))}, "
                    "which a packed folder does not keep: pack such hints as pictures "
                    "(the key hint of metadata.jsonl) and call the branch 'given'"
                )
        packed.check(paths.resolve(config.data.path), wanted)


# What of a packed folder each kind of cond_stage is told.
NEEDS = {
    "text": ("captions",),
    "clip": ("captions",),
    "layout": ("classes",),
    "label": ("labels",),
    "segmentation": ("segmentation",),
}


def _wanted(config):
    if config.task != "latent_diffusion":
        return ()
    holes = config.cond_stage.inpaint and not config.data.holes
    told = {key for name in config.control.hints for key in hints.HINTS[name].needs}
    return (
        *NEEDS.get(config.cond_stage.kind, ()),
        *("mask",) * bool(holes),
        *sorted(told - {"image"}),
    )


def batches(config, keys, split="train", start=0):
    """A context manager of this host's batches of numpy arrays, from number `start`."""
    return contextlib.closing(
        pipeline.batches(
            source(config, split),
            keys,
            prepare(config, split),
            config.data.batch_size,
            start,
            jax.process_index(),
            jax.process_count(),
            config.data.workers,
            config.seed,
        )
    )


def held_out(config, count, seed):
    """The first `count` held-out examples, as the model is given them: a list.

    What is random in them (a hole, a degradation, the order of a layout) comes from the
    seed and the place alone. Raises ValueError where there are not so many.
    """
    check_pack(config)
    examples, give = drawn_source(config, "heldout"), prepare(config, "heldout")
    if count > len(examples):
        raise ValueError(
            f"{count} pictures are asked for, and {config.data.path} has "
            f"{len(examples)} that are held out: take --n={len(examples)} or fewer"
        )
    return [give(examples[i], np.random.default_rng((seed, i))) for i in range(count)]
