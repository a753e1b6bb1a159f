"""What a judge learns: what is at every pixel of a picture, from its place.

A place is `patch` pixels a side. It says one thing and one segment, so that pixels
whose neighbours in the place are others cost something at best; but the depth of each
of its pixels. Each joint of a person is at one place of all.
"""

from collections.abc import Callable
import dataclasses

import jax
import jax.numpy as jnp

from ldm_jax import pictures

THINGS = 268  # that a judge names, the last one "none": data.labels
SEGMENTS = 14
JOINTS = 18
SMALLEST = 1e-3  # share of a picture below which an object gains no more weight
NEAR = 1.5  # places from its truth at which a joint still counts as found
EVEN = 1e-12  # variance below which a picture's depths correlate with nothing


def places(x, patch):
    """Space to depth: [B, H, W, C] -> [B, H / patch, W / patch, patch^2 * C]."""
    batch, height, width, depth = x.shape
    x = x.reshape(batch, height // patch, patch, width // patch, patch, depth)
    x = x.swapaxes(2, 3)
    return x.reshape(batch, height // patch, width // patch, patch * patch * depth)


def by_place(pixels, logits):
    """[B, H, W] -> [B, h, w, p], the pixels of each of the logits' [B, h, w, K]."""
    return places(pixels[..., None], pixels.shape[1] // logits.shape[1])


def by_pixel(logits):
    """The inverse of `by_place`: [B, h, w, patch^2] -> [B, H, W]."""
    batch, rows, columns, pixels = logits.shape
    patch = round(pixels**0.5)
    x = logits.reshape(batch, rows, columns, patch, patch).swapaxes(2, 3)
    return x.reshape(batch, rows * patch, columns * patch)


def _looked_up(table, indices):
    """[B, n] tables at [B, H, W] indices."""
    return jax.vmap(lambda row, at: row[at])(table, indices.astype(jnp.int32))


def things_of(batch, none):
    """The thing of every pixel, int32 [B, H, W]; `none` is none."""
    table = jnp.pad(batch["sprites"], ((0, 0), (1, 0)), constant_values=none)
    return _looked_up(table, batch["instances"])


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


def _of_picture(x):
    """[B, h, w, p] -> the means [B]."""
    return jnp.mean(x, axis=(1, 2, 3))


def _things(logits, batch):
    """(the places' own things int32 [B, h, w, p], the number that is none)."""
    none = logits.shape[-1] - 1
    return by_place(things_of(batch, none), logits), none


def _things_error(logits, batch, balance):
    things, _ = _things(logits, batch)
    count = weights(batch["instances"], batch["sprites"].shape[1], balance)
    return _of_picture(by_place(count, logits) * cross_entropy(logits, things))


def _things_right(logits, batch):
    things, none = _things(logits, batch)
    right, there = jnp.argmax(logits, axis=-1)[..., None] == things, things != none
    found = jnp.sum(right & there, axis=(1, 2, 3))
    return {
        "pixels_right": _of_picture(right),
        "objects_right": found / jnp.sum(there, axis=(1, 2, 3)),
    }


def _segments(logits, batch):
    return by_place(batch["segmentation"].astype(jnp.int32), logits)


def _segments_error(logits, batch, balance):
    del balance
    return _of_picture(cross_entropy(logits, _segments(logits, batch)))


def _segments_right(logits, batch):
    right = jnp.argmax(logits, axis=-1)[..., None] == _segments(logits, batch)
    return {"segments_right": _of_picture(right)}


def correlation(a, b):
    """Pearson's, of each picture: [B, H, W] twice -> [B]; 0 where one is even."""
    a, b = (x - jnp.mean(x, axis=(1, 2), keepdims=True) for x in (a, b))
    both, *own = (jnp.mean(x, axis=(1, 2)) for x in (a * b, a * a, b * b))
    return both / jnp.sqrt(jnp.maximum(own[0], EVEN) * jnp.maximum(own[1], EVEN))


def _depth_error(logits, batch, balance):
    """L1: between two depths, at an edge, it takes one and not their mean."""
    del balance
    return _of_picture(jnp.abs(logits - by_place(batch["depth"], logits)))


def _depth_right(logits, batch):
    return {"depth_correlation": correlation(by_pixel(logits), batch["depth"])}


def joints_of(logits):
    """The middle of each joint's likeliest place: [B, h, w, J] -> [B, J, 2].

    (x, y) in 0..1, as the truth has them.
    """
    batch, height, width, joints = logits.shape
    at = jnp.argmax(logits.reshape(batch, height * width, joints), axis=1)
    return jnp.stack([(at % width + 0.5) / width, (at // width + 0.5) / height], -1)


def near(joints, truth, side):
    """Which visible joints are near their truth: [B, J, 2], [B, J, 3] -> [B, J].

    That is within NEAR places, of which a picture has `side` a side.
    """
    far = jnp.linalg.norm(joints - truth[..., :2], axis=-1) * side
    return (far <= NEAR) & (truth[..., 2] > 0)


def joints_at(joints, logits):
    """1 at each visible joint's own place: [B, J, 3] -> [B, h, w, J] as the logits."""
    height, width = logits.shape[1:3]
    column, row = (
        jax.nn.one_hot(jnp.int32(joints[..., i] * size), size)
        for i, size in enumerate((width, height))
    )
    return jnp.einsum("bjy,bjx,bj->byxj", row, column, joints[..., 2])


def _joints_error(logits, batch, balance):
    """Cross-entropy over all places, summed over visible joints; 0 without a person.

    Of JOINTS, so that a picture counts by how many it shows.
    """
    del balance
    surprise = -jax.nn.log_softmax(logits, axis=(1, 2))
    own = joints_at(batch["joints"], logits)
    return jnp.mean(jnp.sum(surprise * own, axis=(1, 2)), axis=1)


def _joints_right(logits, batch):
    """Numbers of joints, whose ratio is the share: a picture may show none."""
    truth = batch["joints"]
    right = near(joints_of(logits), truth, logits.shape[1])
    return {
        "joints_found": jnp.sum(right, axis=1, dtype=jnp.float32),
        "joints_visible": jnp.sum(truth[..., 2], axis=1),
    }


@dataclasses.dataclass(frozen=True)
class Head:
    """Something that a judge may read off a picture. Its truth is in the batch.

    Logits are [B, h, w, channels(patch)]; the error and each figure are [B].
    """

    channels: Callable  # (patch) -> logits of a place
    inputs: tuple  # of the batch
    error: Callable  # (logits, batch, loss.balance) -> what is learnt
    figures: Callable  # (logits, batch) -> {name: how well it is read}


HEADS = {
    "things": Head(
        lambda patch: THINGS, ("instances", "sprites"), _things_error, _things_right
    ),
    "segments": Head(
        lambda patch: SEGMENTS, ("segmentation",), _segments_error, _segments_right
    ),
    "depth": Head(lambda patch: patch**2, ("depth",), _depth_error, _depth_right),
    "joints": Head(lambda patch: JOINTS, ("joints",), _joints_error, _joints_right),
}


def split(logits, reads, patch):
    """{head: its logits} of what a network says of all: [B, h, w, sum]."""
    out, start = {}, 0
    for name in reads:
        end = start + HEADS[name].channels(patch)
        out[name], start = logits[..., start:end], end
    return out


def make(judge, reads, loss):
    """(grads, validate) of System; reads: keys of HEADS; loss: that config section."""

    def seen(params, batch):
        return judge(params, pictures.to_float(batch["image"]))

    def errors(logits, batch):
        """(loss, its parts) of each picture, [B]."""
        parts = {
            name: HEADS[name].error(logits[name], batch, loss.balance) for name in reads
        }
        return sum(loss[f"{name}_weight"] * x for name, x in parts.items()), parts

    def grads(params, frozen, extra, step, keys, batch):
        del frozen, step, keys

        def loss_fn(params):
            total, parts = errors(seen(params, batch), batch)
            return jnp.mean(total), {name: jnp.mean(x) for name, x in parts.items()}

        (total, parts), grads = jax.value_and_grad(loss_fn, has_aux=True)(params)
        return grads, extra, {"loss": total, **parts}

    def validate(params, keys, batch):
        del keys
        logits = seen(params, batch)
        told = {"loss": errors(logits, batch)[0]}
        for name in reads:
            told |= HEADS[name].figures(logits[name], batch)
        return told

    return grads, validate
