"""How near do enlarged and in-painted pictures come to the real ones, beside rivals?

Held-out pictures are shrunk or get holes, as a model's config says, and are restored:

  model    by the model
  bicubic  of super-resolution: by bicubic interpolation
  mean     of in-painting: the hole gets the mean colour of what is around it
  telea    of in-painting: by OpenCV's inpaint with Telea's method (2004)
  ceiling  the real ones after the first stage, in a hole where there is one

The figures are those of ldm_jax/reconstruction.py; the LPIPS of in-painting counts the
hole alone.
"""

import cv2
import jax
import numpy as np
from PIL import Image

from ldm_jax import fidelity, generation, inputs, reconstruction

RADIUS = 3  # pixels around a hole that Telea's method looks at


def enlarged(low_res, size, resample=Image.Resampling.BICUBIC):
    """uint8 [n, s, s, 3] -> uint8 [n, size, size, 3]."""
    return np.stack(
        [np.asarray(Image.fromarray(x).resize((size, size), resample)) for x in low_res]
    )


def mean_fill(images, masks):
    """Pictures whose holes have the mean colour of what is around them, all uint8."""
    filled = images.copy()
    for image, hole in zip(filled, masks > 0, strict=True):
        image[hole] = np.rint(image[~hole].mean(axis=0))
    return filled


def telea(images, masks):
    """The same filled by Telea's method: from the hole's edge to its middle."""
    pairs = zip(images, masks, strict=True)
    return np.stack(
        [cv2.inpaint(image, mask, RADIUS, cv2.INPAINT_TELEA) for image, mask in pairs]
    )


def _of_low_res(examples, truth):
    """What SR starts from as pixels, and its rivals: (uint8, {name: uint8}, where)."""
    small = np.stack([example["low_res"] for example in examples])
    size = truth.shape[1]
    given = enlarged(small, size, Image.Resampling.NEAREST)
    return given, {"bicubic": enlarged(small, size)}, None


def _of_holes(examples, truth):
    masks = np.stack([example["mask"] for example in examples])
    for number, share in enumerate(masks.mean(axis=(1, 2))):
        if not 0 < share < 1:
            much = "all" if share else "none"
            raise ValueError(
                f"the hole of held-out picture {number} is {much} of it: there must be "
                "some, and something around it"
            )
    given = np.where(masks[..., None] > 0, np.uint8(0), truth)
    rivals = {"mean": mean_fill(truth, masks), "telea": telea(given, masks)}
    return given, rivals, masks


def restores(config):
    """Whether a config's model enlarges or in-paints."""
    return config.cond_stage.kind == "low_res" or bool(config.cond_stage.inpaint)


def evaluate(model, net, count, seed, batch_size, progress):
    """(figures, sheet rows): generation.Model -> dict, uint8 [n, 4 or 5, S, S, 3].

    net: of LPIPS. The rows hold what was given, what the rivals and the model made of
    it, and the real picture. progress(total) makes a bar.
    """
    critic, config = reconstruction.judge(net, model.mesh), model.config
    with progress(3 * count) as bar:
        examples = inputs.held_out(config, count, seed)
        truth = np.stack([example["image"] for example in examples])
        holes = bool(config.cond_stage.inpaint)
        given, sides, where = (_of_holes if holes else _of_low_res)(examples, truth)
        sides["model"] = fidelity.draw_told(model, examples, seed, batch_size, bar)
        shown = np.stack([given, *sides.values(), truth], axis=1)
        keys = generation.keys(seed, np.arange(count))
        if config.first_stage.kind != "identity":
            through = reconstruction.through(model, truth, keys, batch_size, bar)
            if holes:
                through = np.where(where[..., None] > 0, through, truth)
            sides["ceiling"] = through
        seen = _seen(model, critic, truth, sides, where, batch_size, bar)
    told = {
        name: reconstruction.figures(seen["original"], seen[name]) for name in sides
    }
    figures = {"n": count, "dataset": config.data.name, "lpips_net": net}
    return figures | told.pop("model") | told, shown


def _seen(model, critic, truth, sides, where, batch_size, bar):
    """`reconstruction.Judge.see` of all, batch by batch."""
    rows = []
    for places, new in reconstruction.batches_of(model, len(truth), batch_size):
        part = {name: images[places] for name, images in sides.items()}
        hole = None if where is None else where[places].astype(np.float32)
        seen = critic.see(truth[places], part, hole)
        rows.append(jax.tree.map(lambda x, new=new: x[:new], seen))
        bar.update(new)
    return jax.tree.map(lambda *parts: np.concatenate(parts), *rows)
