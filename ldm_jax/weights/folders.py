"""Opens a diffusers or transformers folder: one component, or a pipeline of them."""

import dataclasses
import pathlib
from typing import Any

from ldm_jax.weights import reading, strict_json, tensors

# (stem, ending) in the order of preference; `variant` goes between the two.
FILES = (
    *(("diffusion_pytorch_model", "safetensors"), ("model", "safetensors")),
    *(("diffusion_pytorch_model", "bin"), ("pytorch_model", "bin")),
    *(("diffusion_flax_model", "msgpack"), ("flax_model", "msgpack")),
)
CONFIGS = ("config.json", "scheduler_config.json")
MAX_SHARDS = 1000


@dataclasses.dataclass(frozen=True)
class Folder:
    """A model's folder.

    index: model_index.json, {} without one. components: the weights by the name of
    their subfolder, '' for the folder itself. configs: config.json by the same names,
    and scheduler_config.json by 'scheduler'. All JSON is data, no class is looked up.
    """

    path: pathlib.Path
    index: dict[str, Any]
    components: dict[str, tensors.Source]
    configs: dict[str, dict[str, Any]]


def open_folder(path, variant=None, only=None):
    """The Folder at `path`, with its files open but no array read.

    variant: 'fp16' takes *.fp16.safetensors and nothing else; None takes no variant.
    only: the components whose weights are wanted; None wants all that have a config.
    Raises FileNotFoundError naming what is missing, or Refused for a broken file.
    """
    path = pathlib.Path(path)
    if not path.is_dir():
        raise FileNotFoundError(f"no folder {path}")
    index_path = path / "model_index.json"
    index = strict_json.read(index_path) if index_path.is_file() else {}
    places = _places(path, index)
    if only is None:
        _check_complete(path, index, places)
    configs = {name: strict_json.read(file) for name, file in places.items()}
    having = [n for n, file in places.items() if file.name == "config.json"]
    wanted = having if only is None else list(only)
    missing = sorted(set(wanted) - set(having))
    if missing:
        raise FileNotFoundError(f"{path} has no {missing[0]}/config.json")
    components = {name: _weights(path / name, variant) for name in wanted}
    return Folder(path, index, components, configs)


def _places(path, index):
    """Component -> its config file."""
    if (path / "config.json").is_file() and not index:
        return {"": path / "config.json"}
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


def _check_complete(path, index, places):
    """All that the index names is there, and weights have their config."""
    for name, made_by in index.items():
        listed = isinstance(made_by, list) and None not in made_by
        if listed and not (path / name).is_dir():
            raise FileNotFoundError(
                f"{path}/model_index.json lists {name!r}, but there is no such folder; "
                "get the whole model, or say which components you want"
            )
    for folder in (p for p in path.iterdir() if p.is_dir() and "" not in places):
        if folder.name not in places and _weight_files(folder):
            raise FileNotFoundError(f"{folder} has weights, but no config.json")


def _weight_files(folder):
    ends = (".safetensors", ".bin", ".msgpack")
    return sorted(p.name for p in folder.iterdir() if p.suffix in ends)


def _weights(folder, variant):
    """The Source of the first kind of weights file that a component has."""
    tried = []
    for stem, ending in FILES:
        name = f"{stem}.{variant}.{ending}" if variant else f"{stem}.{ending}"
        middle = f".{variant}" if variant else ""
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
    """A hint at what would be taken with another `variant`."""
    have = _weight_files(folder)
    asked = f" of variant {variant!r}" if variant else ""
    return f"{asked}; it has {', '.join(have[:6])}" if have else asked


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
    for source in files.values():
        meta |= source.meta
    form = f"{next(iter(files.values())).format}, {len(files)} files"
    return tensors.Source(index, form, found, meta)


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
