"""Words of textual inversion (Gal et al., 2022): vectors in the place of tokens."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from ldm_jax import config as config_lib
from ldm_jax import sharding, trees
from ldm_jax import system as system_lib
from ldm_jax.exchange import plans
from ldm_jax.models import clip
from ldm_jax.weights import own, reading


def added(model, given):
    """The generation.Model that also knows `given`, texts "WORD=FILE".

    Raises ValueError for a file without vectors for each of the model's encoders.
    """
    if not given:
        return model
    config = model.config.copy_and_resolve_references()
    section = config.cond_stage
    if section.kind != "clip":
        raise ValueError(
            f"--embedding: cond_stage.kind {section.kind!r} takes no words"
        )
    tables = {name: [] for name in section.encoders}
    words, files = [], []
    for text in given:
        word, equals, path = text.partition("=")
        if not (word and equals and path):
            raise ValueError(f"--embedding={text}: say it as WORD=FILE")
        vectors = read(path, {n: clip.ENCODERS[n].width for n in section.encoders})
        count = len(next(iter(vectors.values())))
        files.append(f" + {word} {own.digest(path)}")
        words.append((word, tuple(range(section.vocab, section.vocab + count))))
        section.vocab += count
        for name, rows in vectors.items():
            tables[name].append(rows)
    params = _extended(model.params, tables, model.mesh)
    return dataclasses.replace(
        model,
        config=config_lib.check(config),
        system=system_lib.build(config),
        params=params,
        weights=model.weights + "".join(files),
        words=(*model.words, *words),
    )


def read(path, widths):
    """{encoder: float32 [n, width]} of a file: the array whose rows are that wide.

    The files of textual inversion's own code, of the web UIs and of diffusers; for
    SDXL one array for each encoder.
    """
    source = reading.open_file(path)
    arrays = {
        name: np.atleast_2d(plans.finite(name, tensor.read()).astype(np.float32))
        for name, tensor in source.tensors.items()
        if tensor.dtype in own.FLOATS and 1 <= len(tensor.shape) <= 2
    }
    found = {}
    for encoder, width in widths.items():
        fitting = [name for name, x in arrays.items() if x.shape[1] == width]
        if len(fitting) != 1:
            held = {name: x.shape for name, x in arrays.items()}
            raise ValueError(
                f"{path} must hold one array of rows of {width} for {encoder}, it "
                f"holds {held or 'none'}"
            )
        found[encoder] = arrays[fitting[0]]
    if len({len(rows) for rows in found.values()}) > 1:
        raise ValueError(f"{path} has another number of vectors for each encoder")
    return found


def _extended(params, tables, mesh):
    flat = trees.flatten(params)
    for name, parts in tables.items():
        path = f"cond_stage/{name}/tokens/embedding"
        table = jnp.concatenate([flat[path], *parts])
        flat[path] = jax.device_put(table, sharding.params_sharding(table, mesh))
    return trees.nested(flat)
