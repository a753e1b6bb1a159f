"""Generated pictures as files: numbered PNGs, one sheet of all, and a manifest."""

import dataclasses
import json
import pathlib

import numpy as np
import tqdm

from ldm_jax import cli, generation, pictures
from ldm_jax import prompts as prompts_lib

MANIFEST = "manifest.jsonl"
HIGHEST = 2**31 - 1  # seed or index: beyond it two could be the same


@dataclasses.dataclass(frozen=True)
class Wanted:
    """n pictures of each prompt; of a model without a condition, n without any."""

    prompts: tuple = ()
    n: int = 1
    seed: int = 0
    index: int = 0  # of the first picture: its noise comes from seed and index alone
    negative: str = ""  # the prompt that all are led away from
    given: dict = dataclasses.field(default_factory=dict)  # all are told {name: array}

    def texts(self):
        """What each picture is asked to be."""
        return [p for p in self.prompts for _ in range(self.n)] or [""] * self.n


def draw(model, wanted, batch_size, out):
    """Draws what is wanted into the folder `out`; returns the rows of its manifest.

    Writes 00000.png, ... (prompt after prompt), grid.png and manifest.jsonl, which has
    a row for every picture that is written. Raises FloatingPointError at a picture
    that is not finite.
    """
    batch, out = _batch(model, wanted, cli.say), _folder(out)
    (out / MANIFEST).unlink(missing_ok=True)  # it would not be of these
    with tqdm.tqdm(total=len(wanted.texts()), unit="picture") as bar:
        return _write_all(model, wanted, batch, batch_size, out, 0, bar.update)


def extend(model, wanted, batch_size, out, say=cli.say):
    """As `draw`, but beside the pictures in `out`: numbers and manifest go on.

    grid.png shows the new ones; returns their rows. Prompts that are not understood
    whole are told by `say`.
    """
    batch, out = _batch(model, wanted, say), _folder(out)
    return _write_all(model, wanted, batch, batch_size, out, next_number(out))


def next_number(out):
    """One more than the highest number of a picture in the folder."""
    stems = (path.stem for path in out.glob("*.png"))
    return max((int(stem) + 1 for stem in stems if stem.isdecimal()), default=0)


def _folder(out):
    out = pathlib.Path(out)
    out.mkdir(parents=True, exist_ok=True)
    return out


def _batch(model, wanted, say):
    """What the conditioner reads: {name: [pictures, ...]}."""
    texts = wanted.texts()
    told = {}
    if wanted.prompts:
        told = prompts_lib.arrays(model, texts, wanted.negative, say)
    return told | {k: np.stack([x] * len(texts)) for k, x in wanted.given.items()}


def _same(model, wanted):
    """What the rows of all pictures have in common."""
    settings = model.config.sample.to_dict()
    settings |= {"image_size": model.config.data.image_size}
    settings |= {"words": [word for word, _ in model.words]} if model.words else {}
    same = {"seed": wanted.seed, "settings": settings, "weights": model.weights}
    return same | ({"negative_prompt": wanted.negative} if wanted.negative else {})


def _write_all(model, wanted, batch, batch_size, out, number, tick=lambda: None):
    """Draws and writes, each picture before its row: a row's file is always whole."""
    texts, same = wanted.texts(), _same(model, wanted)
    indices = wanted.index + np.arange(len(texts), dtype=np.uint32)
    seeds = generation.Keys(wanted.seed, indices)
    rows, images = [], []
    for part in generation.generate(model, batch, seeds, batch_size):
        for x in part:
            i = len(rows)
            row = {"file": f"{number + i:05}.png", "prompt": texts[i]}
            row |= {"index": wanted.index + i} | same
            images.append(write(out, x, row))
            rows.append(row)
            tick()
    pictures.save_png(out / "grid.png", pictures.grid(np.stack(images)))
    return rows


def write(out, x, row):
    """One x [H, W, 3] as a PNG that holds its row, then in the manifest; as uint8."""
    if not np.isfinite(x).all():
        raise FloatingPointError(
            f"picture {row['index']} is not finite, nothing was written for it: {row}"
        )
    image = np.asarray(pictures.to_uint8(x))
    pictures.save_png(out / row["file"], image, {"ldm_jax": json.dumps(row)})
    with (out / MANIFEST).open("a", encoding="utf-8") as manifest:
        manifest.write(json.dumps(row) + "\n")
    return image
