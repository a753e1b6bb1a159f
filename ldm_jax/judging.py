"""What a picture shows, and where: what a trained judge says of it.

A thing is one of the 266 scene sprites or a person (`labels.PERSON`, 266);
`labels.NONE` (267) says that none is there. Pictures are seen on a grid of places,
`judge.patch` pixels a side. One judge names things and segments; another, the reader,
reads depth and a person's joints.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from ldm_jax import config_saved, generation, judge_loss, paths, pictures, sharding
from ldm_jax import system as system_lib
from ldm_jax.weights import own

EMBEDDED = "demo:judge.safetensors"
READER = "demo:reader.safetensors"


def load(weights=EMBEDDED, reads=("things", "segments")):
    """The generation.Model of a judge: of the embedded one unless a file is named.

    The file is one that `ldm_jax.export` wrote; `reads` is what will be asked of it,
    keys of judge_loss.HEADS: ("depth", "joints") of READER. Raises FileNotFoundError
    without the file, ValueError where it is no judge's, reads something else or holds
    another shape than its config says.
    """
    path = paths.resolve(weights)
    if not path.is_file():
        raise FileNotFoundError(
            f"there is no judge in {path}: train one with "
            "--config=configs/demo_judge.py and write it with python -m ldm_jax.export"
        )
    params, saved, _ = own.load_weights(path)
    if saved.get("task") != "judge":
        raise ValueError(
            f"{path} holds no judge: its config is of task {saved.get('task')!r}, not "
            "'judge'"
        )
    try:
        config = config_saved.from_dict(saved)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path} has a config that is none: {error}") from error
    if not set(reads) <= set(config.judge.reads):
        raise ValueError(
            f"the judge in {path} reads {' and '.join(config.judge.reads)}, and it is "
            f"asked for {' and '.join(reads)}"
        )
    system = system_lib.build(config)
    shapes = jax.eval_shape(system.init, jax.random.key(0))
    own.check_tree(params, shapes, str(path))
    # Not the training's, which may have had more devices; nor that of several hosts,
    # each of which judges by itself.
    mesh = sharding.make_mesh(devices=jax.local_devices())
    params = sharding.put_tree(params, mesh, "reading the judge")
    return generation.Model(config, system, params, own.digest(path), mesh)


def see(judge, images, bar=None, batch_size=32, head="things"):
    """The likeliest thing at each place: uint8 [N, S, S, 3] -> int32 [N, h, w].

    head: "segments" for the likeliest of labels.SEGMENTS instead. For the rest see
    `read`.
    """
    return read(judge, images, bar, batch_size, (head,))[head]


def read(judge, images, bar=None, batch_size=32, heads=("depth", "joints")):
    """What a judge reads off pictures: uint8 [N, S, S, 3] -> {head: array [N, ...]}.

    "depth": float32 [N, S, S], about 0 near to 1 far; "joints": float32 [N, 18, 2], (x,
    y) in 0..1 of the likeliest place of each, a person or none; "things" and
    "segments": int32 [N, h, w], the likeliest at each place.

    bar: a tqdm bar that is moved by each picture, if there is one. The last batch is
    padded, so that one compiled program serves all. Raises ValueError for pictures of
    another size than the judge was trained on, or where batch_size does not divide
    over devices.
    """
    size = judge.config.data.image_size
    if images.shape[1:] != (size, size, 3):
        raise ValueError(
            f"the judge was trained on pictures of {size}x{size}, not of "
            f"{'x'.join(map(str, images.shape[1:3]))}"
        )
    if batch_size % judge.mesh.size:
        raise ValueError(
            f"batch_size {batch_size} must be a multiple of the number of devices, "
            f"{judge.mesh.size}"
        )
    found = []
    for start in range(0, len(images), batch_size):
        places = np.minimum(np.arange(start, start + batch_size), len(images) - 1)
        part = sharding.put_batch(np.ascontiguousarray(images[places]), judge.mesh)
        said = _look(judge.system.judge, tuple(heads), judge.params, part)
        found.append(jax.device_get(said))
        if bar is not None:
            bar.update(min(batch_size, len(images) - start))
    return {
        head: np.concatenate([part[head] for part in found])[: len(images)]
        for head in heads
    }


@functools.partial(jax.jit, static_argnums=(0, 1))
def _look(judge, heads, params, images):
    """uint8 [B, S, S, 3] -> {head: array [B, ...]}, as `read` tells them."""
    x = pictures.to_float(images)
    plain, mirrored = judge(params, x), judge(params, x[:, :, ::-1])
    return {head: FOUND[head](plain[head], mirrored[head]) for head in heads}


def _likeliest(plain, mirrored):
    """By the sum of log-probabilities of a picture and its mirror image.

    It then names a fifth less of the things that are not there (512 held-out scenes).
    """
    plain, mirrored = jax.nn.log_softmax(plain), jax.nn.log_softmax(mirrored)
    return jnp.argmax(plain + mirrored[:, :, ::-1], axis=-1).astype(jnp.int32)


def _depth(plain, mirrored):
    plain, mirrored = judge_loss.by_pixel(plain), judge_loss.by_pixel(mirrored)
    return (plain + mirrored[:, :, ::-1]) / 2


def _joints(plain, mirrored):
    """Of the picture alone: in a mirror image a right arm is a left one."""
    del mirrored
    return judge_loss.joints_of(plain)


# Of the logits of a picture and of its mirror image, what `read` tells.
FOUND = {
    "things": _likeliest,
    "segments": _likeliest,
    "depth": _depth,
    "joints": _joints,
}
