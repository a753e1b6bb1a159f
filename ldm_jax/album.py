"""Generated pictures as files: numbered PNGs, one sheet of all, and a manifest."""

import json
import os
import pathlib

import numpy as np
import tqdm

from ldm_jax import cli, generation, pictures
from ldm_jax import prompts as prompts_lib


def draw(model, prompts, n, seed, batch_size, out, negative="", given=None):
    """Draws n pictures of each prompt into the folder `out`; returns the manifest.

    Writes 00000.png, ... (prompt after prompt), grid.png and manifest.jsonl. Without
    prompts, for models without a condition, n pictures. negative: the prompt that all
    are led away from; given: what else every picture is told, {name: one array}.
    Raises FloatingPointError at a picture that is not finite.
    """
    out = pathlib.Path(out)
    out.mkdir(parents=True, exist_ok=True)
    repeated = [prompt for prompt in prompts for _ in range(n)] or [""] * n
    batch = prompts_lib.arrays(model, repeated, negative, cli.say) if prompts else {}
    batch |= {k: np.stack([x] * len(repeated)) for k, x in (given or {}).items()}
    settings = model.config.sample.to_dict()
    settings |= {"image_size": model.config.data.image_size}
    settings |= {"words": [word for word, _ in model.words]} if model.words else {}
    same = {"seed": seed, "settings": settings, "weights": model.weights}
    same |= {"negative_prompt": negative} if negative else {}
    seeds = generation.keys(seed, np.arange(len(repeated)))
    (out / "manifest.jsonl").unlink(missing_ok=True)  # it would not be of these
    rows, images = [], []
    with tqdm.tqdm(total=len(repeated), unit="picture") as bar:
        for part in generation.generate(model, batch, seeds, batch_size):
            for x in part:
                i = len(rows)
                row = {"file": f"{i:05}.png", "prompt": repeated[i], "index": i}
                images.append(write(out, x, row | same))
                rows.append(row | same)
                bar.update()
    pictures.save_png(out / "grid.png", pictures.grid(np.stack(images)))
    _write_lines(out / "manifest.jsonl", rows)
    return rows


def write(out, x, row):
    """One x [H, W, 3] as a PNG that holds its row; returns it as uint8."""
    if not np.isfinite(x).all():
        raise FloatingPointError(
            f"picture {row['index']} is not finite, nothing was written for it: {row}"
        )
    image = np.asarray(pictures.to_uint8(x))
    pictures.save_png(out / row["file"], image, {"ldm_jax": json.dumps(row)})
    return image


def _write_lines(path, rows):
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text("".join(json.dumps(row) + "\n" for row in rows))
    os.replace(temporary, path)
