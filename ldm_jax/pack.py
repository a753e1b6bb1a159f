"""Pack a folder of pictures of your own into the files that training reads.

  python -m ldm_jax.pack --folder=pictures --out=packed

Take a folder of pictures, or of folders whose names are labels, or write what is on
them into metadata.jsonl beside them, one JSON object a line:

  {"file_name": "a.jpg", "text": "a fox by a tent", "label": "fox",
   "boxes": [{"class": "fox", "box": [0.1, 0.4, 0.5, 0.9]}],
   "segmentation": "a_map.png", "mask": "a_hole.png", "hint": "a_lines.png"}

All but file_name may be missing. Boxes are x0, y0, x1, y1 in shares of the picture;
"group", "occluded", "depiction" and "inside" may be true in them. A map has a number at
each pixel, a mask is white in the hole, a hint is what a ControlNet is shown, of the
picture's size or in its ratio. The prompt.json of ControlNet's own folders (Fill50K) is
read too, where there is no metadata.jsonl: {"source": hint, "target": file_name,
"prompt": text}. labels.txt and classes.txt, one name a line, give the order of the
numbers; else names are sorted. What cannot be read is left out, counted and named; a
box is cut to the picture. --out has ArrayRecord files and pack.json, and it is there
whole or not at all. Configs find it by data.name="packed" and data.path. metadata.jsonl
is read whole: ten million lines take 15 GB of memory.
"""

from absl import flags
import tqdm

from ldm_jax import cli, packing

FOLDER = flags.DEFINE_string("folder", None, "Of the pictures.", required=True)
OUT = flags.DEFINE_string("out", None, "Folder to write.", required=True)
HELDOUT = flags.DEFINE_float(
    "heldout",
    0.02,
    "Share of the pictures that are kept out of training, by their names' hash.",
    lower_bound=0.0,
    upper_bound=1.0,
)
LEAST = flags.DEFINE_integer(
    "least", 32, "Pixels that the shorter side has at least.", lower_bound=1
)
BROKEN = flags.DEFINE_float(
    "broken",
    0.01,
    "The largest share of unreadable pictures that is put up with.",
    lower_bound=0.0,
    upper_bound=1.0,
)
SHARD = flags.DEFINE_integer(
    "shard",
    4000,
    "Pictures in a file, which lie in memory at once. Training has all files open.",
    lower_bound=1,
)
IGNORE = flags.DEFINE_list("ignore", [], "Keys of what is said to pass over.")


def main(argv):
    del argv
    options = packing.Options(
        heldout=HELDOUT.value,
        least=LEAST.value,
        broken=BROKEN.value,
        shard=SHARD.value,
        ignored=tuple(IGNORE.value),
    )
    bar = lambda total: tqdm.tqdm(total=total, unit="picture")
    about, left_out = packing.pack(FOLDER.value, OUT.value, options, bar)
    for line in left_out:
        cli.say(f"left out {line}")
    told = {split: sum(counts) for split, counts in about["splits"].items()}
    names = {kind: len(about[kind]) for kind in ("labels", "classes")}
    for key, count in packing.lacking(FOLDER.value, options.ignored).items():
        cli.say(f"{count} pictures have no {key}, others have")
    print(f"{OUT.value}: {told}, {names}, left out {len(left_out)}")


if __name__ == "__main__":
    cli.run(main)
