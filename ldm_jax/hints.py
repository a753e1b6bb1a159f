"""From pictures to the hints that a ControlNet is told to draw by.

  python -m ldm_jax.hints --kind=canny photo.jpg edges.png
  python -m ldm_jax.hints --kind=pose people/ poses/

The second takes every file of a folder (not of those inside it) that can be of this
kind, and keeps their names. --kind is one of:

canny, hough, scribble   from a picture: edges, straight lines, dark strokes on white
hed, fake_scribble       from a picture, by a network: `python -m ldm_jax.fetch hed`
segmentation             from a PNG whose numbers are classes of ADE20K, 255 for none
segments                 the same of the classes of drawn scenes, in the same colours
depth, normal            from a gray picture of 8 or 16 bits of distances: white is far,
                         as 3D programs and cameras write it. What MiDaS and others
                         draw has near white: --near_is_white
pose                     from the JSON of OpenPose, drawn as large as its canvas

--resolution=512 works as the originals do: the shorter side gets 512 pixels, and both
are rounded to multiples of 64. What each kind looks like is told in ldm_jax/data.
"""

import functools
import json
import os
import pathlib

from absl import flags
import numpy as np
import tqdm

from ldm_jax import cli, edges, names, pictures
from ldm_jax.data import decoding, folder, hints, palettes, skeletons

KIND = flags.DEFINE_string("kind", None, "What to make of it.", required=True)
LOW = flags.DEFINE_integer(
    "low", None, "canny: gradients that may go on an edge; by default 100."
)
HIGH = flags.DEFINE_integer(
    "high", None, "canny: gradients that begin an edge; by default 200."
)
NEAR_IS_WHITE = flags.DEFINE_bool(
    "near_is_white", False, "depth, normal: white is near, as in what MiDaS draws."
)
RESOLUTION = flags.DEFINE_integer(
    "resolution", 0, "Pixels of the shorter side; 0 leaves it.", lower_bound=0
)


def size_of(height, width):
    """(height, width) of the hint of a picture with these sides."""
    size = height, width
    if RESOLUTION.value:
        size = hints.working_size(height, width, RESOLUTION.value)
    if size[0] * size[1] > decoding.LARGEST:
        raise ValueError(f"{size[1]} x {size[0]} are more than {decoding.LARGEST:,}")
    return size


def sized(image, how=None):
    size = size_of(*image.shape[:2])
    return image if size == image.shape[:2] else hints.resized(image, *size, how)


def canny(image):
    low = 100 if LOW.value is None else LOW.value
    return hints.canny(image, low, 200 if HIGH.value is None else HIGH.value)


def grays(data):
    """int32 [H, W] of a gray picture's bytes, also of one stored as RGB."""
    image = decoding.picture(data)
    if (image != image[..., :1]).any():
        raise decoding.Unreadable("it has colours: a depth is gray")
    if decoding.is_deep(data):
        return decoding.numbers(data)  # all 16 bits
    return image[..., 0].astype(np.int32)


def coloured(palette):
    """Nothing comes between two colours when such a map is resized."""
    return lambda data: sized(
        palettes.colours(decoding.numbers(data), palette), hints.FLAT
    )


def distance(data):
    return -grays(data) if NEAR_IS_WHITE.value else grays(data)


def pose(data):
    told = json.loads(data)
    people = skeletons.keypoints(told)
    size = (round(told[f"canvas_{side}"]) for side in ("height", "width"))
    return skeletons.pose(people, *size_of(*size))


@functools.cache
def network():
    return edges.load()


def hed(image):
    return hints.soft(network()(image))


def of_picture(make):
    """The picture is resized, as by the originals, before anything is found in it."""
    return lambda data: make(sized(decoding.picture(data)))


# Each from a file's bytes to uint8 [H, W, 3].
KINDS = {
    "canny": of_picture(canny),
    "hough": of_picture(hints.hough),
    "scribble": of_picture(hints.scribble),
    "hed": of_picture(hed),
    "fake_scribble": of_picture(lambda x: hints.fake_scribble(hed(x)[..., 0])),
    "segmentation": coloured(palettes.ADE20K),
    "segments": coloured(palettes.SEGMENTS),
    "depth": lambda data: sized(hints.depth(distance(data)), hints.SMOOTH),
    "normal": lambda data: sized(hints.normal(distance(data)), hints.SMOOTH),
    "pose": pose,
}


def check_flags():
    """Raises for flags that this kind does not read."""
    names.pick(KINDS, KIND.value)
    if KIND.value != "canny" and (LOW.value, HIGH.value) != (None, None):
        raise ValueError("--low and --high are of --kind=canny")
    if KIND.value not in ("depth", "normal") and NEAR_IS_WHITE.value:
        raise ValueError("--near_is_white is of --kind=depth and --kind=normal")


def pairs(source, target):
    """[(file to read, .png to write)] of a file or a folder; raises before any work."""
    if source.is_dir():
        suffixes = (".json",) if KIND.value == "pose" else folder.SUFFIXES
        found = [
            path
            for path in sorted(source.iterdir())
            if path.suffix.lower() in suffixes and path.name[0] != "."
        ]
        if not found:
            raise ValueError(f"{source} has no file {', '.join(suffixes)}")
        made = [(path, target / f"{path.stem}.png") for path in found]
    elif source.is_file():
        if target.suffix.lower() != ".png":
            raise ValueError(f"{target} must end in .png: that is what is written")
        if target.is_dir():
            raise IsADirectoryError(f"{target} is a folder, what is read a file")
        made = [(source, target)]
    else:
        raise FileNotFoundError(f"no file or folder {source}")
    first = {}
    for path, out in made:
        if out in first:
            raise ValueError(f"{first[out]} and {path} would both become {out}")
        first[out] = path
        if out.exists() and any(out.samefile(read) for read, _ in made):
            raise ValueError(f"{out} would overwrite what is read: name another place")
    return made


def check_writable(directory):
    """Makes a folder where it is missing; raises where nothing can be written in it."""
    if directory.exists() and not directory.is_dir():
        raise NotADirectoryError(f"{directory} is no folder: nothing is written in it")
    directory.mkdir(parents=True, exist_ok=True)
    if not os.access(directory, os.W_OK):
        raise PermissionError(f"{directory} lets nobody write in it")


def make(path):
    """The hint of a file: uint8 [H, W, 3]; what is wrong with the file names it."""
    data = path.read_bytes()
    try:
        if not data:
            raise ValueError("it is empty")
        return KINDS[KIND.value](data)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: {error}") from error


def main(argv):
    if len(argv) != 3:
        raise ValueError("name what is read and what is written, two files or folders")
    check_flags()
    source, target = map(pathlib.Path, argv[1:])
    made = pairs(source, target)
    check_writable(made[0][1].absolute().parent)
    if KIND.value in ("hed", "fake_scribble"):
        network()  # what is wrong with it is wrong with no picture
    for path, out in tqdm.tqdm(made, unit="file", disable=len(made) == 1):
        pictures.save_png(out, make(path))
    print(f"{len(made)} by {KIND.value}: {target.absolute()}")


if __name__ == "__main__":
    cli.run(main)
