"""Opens a diffusers or transformers folder: one component, or a pipeline of them."""

import dataclasses
import pathlib
import re
from typing import Any

from ldm_jax.weights import reading, strict_json, tensors

# (stem, ending) in the order of preference; `variant` goes between the two.
FILES = (
    *(("diffusion_pytorch_model", "safetensors"), ("model", "safetensors")),
    *(("diffusion_pytorch_model", "bin"), ("pytorch_model", "bin")),
    *(("diffusion_flax_model", "msgpack"), ("flax_model", "msgpack")),
)
STEMS, ENDINGS = ("|".join(sorted(set(parts))) for parts in zip(*FILES, strict=True))
WEIGHTS = re.compile(rf"({STEMS})(\.(?P<variant>\w+))?(-\d+-of-\d+)?\.({ENDINGS})")
CONFIGS = ("config.json", "scheduler_config.json")
MAX_SHARDS = 1000


@dataclasses.dataclass(frozen=True)
class Folder:
    """A model's folder.

    components: the weights by the name of their subfolder, '' for the folder itself.
    configs: config.json by the same names, and scheduler_config.json by 'scheduler'.
    All JSON is data, no class is looked up.
    """

    components: dict[str, tensors.Source]
    configs: dict[str, dict[str, Any]]


def open_folder(path, variant=None, only=()):
    """The Folder at `path`, with its files open but no array read.

    variant: 'fp16' takes *.fp16.safetensors and nothing else; None takes no variant.
    only: the components whose weights are wanted, where the folder has them.
    Raises FileNotFoundError naming what is missing, or Refused for a broken file.
    """
    path = pathlib.Path(path)
    if not path.is_dir():
        raise FileNotFoundError(f"no folder {path}")
    places = _places(path)
    _check_configs(path, places, only)
    configs = {name: strict_json.read(file) for name, file in places.items()}
    wanted = [name for name in places if name in only]
    return Folder({name: _weights(path / name, variant) for name in wanted}, configs)


def _places(path):
    """Component -> its config file."""
    alone = path / "config.json"
    if alone.is_file() and not (path / "model_index.json").is_file():
        return {"": alone}
    places = {}
    for folder in sorted(p for p in path.iterdir() if p.is_dir()):
        for name in CONFIGS:
            if (folder / name).is_file():
                places.setdefault(folder.name, folder / name)
    if not places:
        raise FileNotFoundError(
            f"{path} is no diffusers folder: neither it nor a folder in it has a "
            "config.json"
        )
    return places


def _check_configs(path, places, only):
    """Weights without a config would pass for a component that is not there."""
    for name in set(only) - {"", *places}:
        if (path / name).is_dir() and _weight_files(path / name):
            raise FileNotFoundError(f"{path / name} has weights, but no config.json")


def _weight_files(folder):
    ends = (".safetensors", ".bin", ".msgpack")
    return sorted(p.name for p in folder.iterdir() if p.suffix in ends)


def _weights(folder, variant):
    """The Source of the first kind of weights file that a component has."""
    tried = []
    middle = f".{variant}" if variant else ""
    for stem, ending in FILES:
        name = f"{stem}{middle}.{ending}"
        index = f"{stem}.{ending}.index{middle}.json"
        tried += [name]
        if (folder / name).is_file():
            return reading.open_file(folder / name)
        if (folder / index).is_file():
            return _sharded(folder / index)
    raise FileNotFoundError(
        f"{folder} has no weights: expected one of {', '.join(tried)}, or the "
        f"index.json of several{_other(folder, variant)}"
    )


def _other(folder, variant):
    """What there is instead, and the `variant` that would take it."""
    asked = f" of variant {variant!r}" if variant else ""
    have = _weight_files(folder)
    if not have:
        return asked
    matches = [match for name in have if (match := WEIGHTS.fullmatch(name))]
    others = {match["variant"] or "" for match in matches} - {variant or ""}
    hints = [f": add --variant={v}" if v else ": leave --variant out" for v in others]
    return f"{asked}; it has {', '.join(have[:6])}{min(hints, default='')}"


def _sharded(index):
    """One Source of the files that an index names, each opened once."""
    weight_map = strict_json.read(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise tensors.Refused(f"{index} has no weight_map of names and files")
    files = _shards(index, weight_map)
    found, meta = {}, {}
    for name, file in weight_map.items():
        if name not in files[file].tensors:
            raise tensors.Refused(f"{index}: {name!r} is not in {file}")
        tensors.add(found, name, files[file].tensors[name])
    _check_listed(index, weight_map, files)
    for source in files.values():
        meta |= source.meta
    form = next(iter(files.values())).format
    paths = tuple(source.path for source in files.values())
    return tensors.Source(index, form, found, meta, paths)


def _check_listed(index, weight_map, files):
    """An array that the index does not know would be lost."""
    for file, source in files.items():
        lost = [name for name in source.tensors if weight_map.get(name) != file]
        if lost:
            raise tensors.Refused(
                f"{index} does not list {len(lost)} arrays of {file}, such as "
                f"{', '.join(lost[:3])}: get the index that belongs to it"
            )


def _shards(index, weight_map):
    """File name -> Source, of names that stay in the index's folder."""
    files = {}
    for file in weight_map.values():
        if not isinstance(file, str) or pathlib.PurePath(file).name != file:
            raise tensors.Refused(f"{index} names a file outside its folder: {file!r}")
        if file not in files and not (index.parent / file).is_file():
            raise FileNotFoundError(f"{index} names {file}, which is missing")
        if len(files) > MAX_SHARDS:
            raise tensors.Refused(f"{index} names more than {MAX_SHARDS} files")
        files.setdefault(file, None)
    return {file: reading.open_file(index.parent / file) for file in files}
