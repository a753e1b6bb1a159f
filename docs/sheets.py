"""Draws the contact sheets of the docs with the embedded weights: 64 prompts each.

python -m docs.sheets

Nothing is picked: the captions are the first of the data sets, the seed is 0.
docs/sheet_singles.png has single objects of the training's pairs, docs/sheet_scenes.png
scenes with held-out pairs; the .txt beside each says what was asked, row after row.
"""

import pathlib
import shutil
import tempfile

from ldm_jax import album, generation
from ldm_jax.data import datasets

HERE = pathlib.Path(__file__).parent
SEED, COUNT, BATCH_SIZE = 0, 64, 16  # 64 make 8 columns
SHEETS = {  # name -> data set, split
    "singles": ("emoji_singles", "train"),
    "scenes": ("emoji_scenes", "heldout"),
}


def asked(data, split, image_size):
    """The captions at places 0 to 63."""
    source = datasets.DRAWN[data](split, SEED, image_size)
    return tuple(source[i]["caption"] for i in range(COUNT))


def main():
    model = generation.load()
    for name, (data, split) in SHEETS.items():
        prompts = asked(data, split, model.config.data.image_size)
        text = "".join(f"{prompt}\n" for prompt in prompts)
        (HERE / f"sheet_{name}.txt").write_text(text, encoding="utf-8")
        with tempfile.TemporaryDirectory() as out:
            wanted = album.Wanted(prompts, seed=SEED)
            album.draw(model, wanted, BATCH_SIZE, out)
            shutil.copy(pathlib.Path(out) / "grid.png", HERE / f"sheet_{name}.png")


if __name__ == "__main__":
    main()
