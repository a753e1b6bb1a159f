"""What a judge learns: the thing and the segment of every pixel, from its place.

A place is `patch` pixels a side and says one thing, so that pixels whose neighbours in
the place are others cost something at best.
"""

import jax
import jax.numpy as jnp

from ldm_jax import pictures

SMALLEST = 1e-3  # share of a picture below which an object gains no more weight


def places(x, patch):
    """Space to depth: [B, H, W, C] -> [B, H / patch, W / patch, patch^2 * C]."""
    batch, height, width, depth = x.shape
    x = x.reshape(batch, height // patch, patch, width // patch, patch, depth)
    x = x.swapaxes(2, 3)
    return x.reshape(batch, height // patch, width // patch, patch * patch * depth)


def _looked_up(table, indices):
    """[B, n] tables at [B, H, W] indices."""
    return jax.vmap(lambda row, at: row[at])(table, indices.astype(jnp.int32))


def truth(batch, none):
    """(thing, segment) of every pixel, int32 [B, H, W]; thing `none` is none."""
    sprites = batch["sprites"]
    table = jnp.pad(sprites, ((0, 0), (1, 0)), constant_values=none)
    things = _looked_up(table, batch["instances"])
    return things, batch["segmentation"].astype(jnp.int32)


def weights(instances, objects, balance):
    """What each pixel counts: [B, H, W], of mean 1 in each picture.

    An object with share `a` of the picture, and what is left without one, counts
    a^-balance a pixel: 0 makes pixels alike, 1 the objects.
    """
    shares = jax.nn.one_hot(instances, objects + 1).mean((1, 2))
    pixel = _looked_up(jnp.maximum(shares, SMALLEST) ** -balance, instances)
    return pixel / jnp.mean(pixel, axis=(1, 2), keepdims=True)


def cross_entropy(logits, labels):
    """Of each pixel: logits [B, h, w, K], labels [B, h, w, p] -> [B, h, w, p]."""
    own = jnp.take_along_axis(logits, labels, axis=-1)
    return jax.nn.logsumexp(logits, axis=-1, keepdims=True) - own


def make(judge, patch, none, loss):
    """(grads, validate) of System; loss: that section of the config."""

    def by_place(pixels):
        return places(pixels[..., None], patch)

    def seen(params, batch):
        return judge(params, pictures.to_float(batch["image"]))

    def labels(batch):
        return map(by_place, truth(batch, none))

    def error(params, batch):
        """(loss, its two parts) of each picture, [B]."""
        logits, (things, segments) = seen(params, batch), labels(batch)
        objects = batch["sprites"].shape[1]
        count = by_place(weights(batch["instances"], objects, loss.balance))
        parts = {
            "things": count * cross_entropy(logits["things"], things),
            "segments": cross_entropy(logits["segments"], segments),
        }
        parts = {name: jnp.mean(x, axis=(1, 2, 3)) for name, x in parts.items()}
        return parts["things"] + loss.segments_weight * parts["segments"], parts

    def grads(params, frozen, extra, step, keys, batch):
        del frozen, step, keys

        def loss_fn(params):
            total, parts = error(params, batch)
            return jnp.mean(total), {name: jnp.mean(x) for name, x in parts.items()}

        (total, parts), grads = jax.value_and_grad(loss_fn, has_aux=True)(params)
        return grads, extra, {"loss": total, **parts}

    def validate(params, keys, batch):
        del keys
        total, _ = error(params, batch)
        logits, (things, segments) = seen(params, batch), labels(batch)
        right = {
            "things": jnp.argmax(logits["things"], axis=-1)[..., None] == things,
            "segments": jnp.argmax(logits["segments"], axis=-1)[..., None] == segments,
        }
        there = things != none
        found = jnp.sum(right["things"] & there, axis=(1, 2, 3))
        return {
            "loss": total,
            "pixels_right": jnp.mean(right["things"], axis=(1, 2, 3)),
            "objects_right": found / jnp.sum(there, axis=(1, 2, 3)),
            "segments_right": jnp.mean(right["segments"], axis=(1, 2, 3)),
        }

    return grads, validate
