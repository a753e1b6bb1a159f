"""Which things a picture shows, and where: what a trained judge says of it.

A thing is one of the 266 scene sprites or a person (`labels.PERSON`, 266);
`labels.NONE` (267) says that none is there. Pictures are seen on a grid of places,
`judge.patch` pixels a side.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from ldm_jax import config_saved, generation, paths, pictures, sharding
from ldm_jax import system as system_lib
from ldm_jax.weights import own

EMBEDDED = "demo:judge.safetensors"


def load(weights=EMBEDDED):
    """The generation.Model of a judge: of the embedded one unless a file is named.

    The file is one that `ldm_jax.export` wrote. Raises FileNotFoundError without it,
    ValueError where it is no judge's or holds another shape than its config says.
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
    system = system_lib.build(config)
    shapes = jax.eval_shape(system.init, jax.random.key(0))
    own.check_tree(params, shapes, str(path))
    mesh = sharding.make_mesh()  # not the training's: it may have had more devices
    params = sharding.put_tree(params, mesh, "reading the judge")
    return generation.Model(config, system, params, own.digest(path), mesh)


def see(judge, images, bar=None, batch_size=32, head="things"):
    """The likeliest thing at each place: uint8 [N, S, S, 3] -> int32 [N, h, w].

    head: "segments" for the likeliest of labels.SEGMENTS instead.

    It looks at each and at its mirror image and adds the log-probabilities: it then
    names a fifth less of the things that are not there (512 held-out scenes).
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
    grids = []
    for start in range(0, len(images), batch_size):
        places = np.minimum(np.arange(start, start + batch_size), len(images) - 1)
        part = sharding.put_batch(np.ascontiguousarray(images[places]), judge.mesh)
        grids.append(np.asarray(_look(judge.system.judge, head, judge.params, part)))
        if bar is not None:
            bar.update(min(batch_size, len(images) - start))
    return np.concatenate(grids)[: len(images)]


@functools.partial(jax.jit, static_argnums=(0, 1))
def _look(judge, head, params, images):
    """uint8 [B, S, S, 3] -> int32 [B, h, w]."""
    x = pictures.to_float(images)
    plain, mirrored = (
        jax.nn.log_softmax(judge(params, view)[head]) for view in (x, x[:, :, ::-1])
    )
    return jnp.argmax(plain + mirrored[:, :, ::-1], axis=-1).astype(jnp.int32)
