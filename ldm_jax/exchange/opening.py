"""Opens a released file or folder: its config, and its parameters when asked."""

import dataclasses
import importlib.util
import pathlib
import re
import types

from ldm_jax import config as config_lib
from ldm_jax.exchange import detection, plans, released
from ldm_jax.weights import folders, own, reading

SHOWN = 4  # names of what is not read
COMPONENTS = ("unet", "vae", "vqvae", "text_encoder", "text_encoder_2")


@dataclasses.dataclass(frozen=True)
class Opened:
    """A file or folder whose names were looked at; no array is read yet."""

    path: pathlib.Path
    sources: dict  # component -> weights.tensors.Source
    found: detection.Found


def open_path(path, variant=None):
    """The Opened of a file, or of a diffusers folder.

    variant: "fp16" takes a folder's *.fp16.safetensors. Raises FileNotFoundError and
    ValueError that name the file.
    """
    path = pathlib.Path(path)
    return _folder(path, variant) if path.is_dir() else _file(path)


def _file(path):
    source = reading.open_file(path)
    try:
        found = detection.of_file(source.tensors, source.meta)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return Opened(path, {released.SINGLE: source}, found)


def _folder(path, variant):
    configs = folders.open_folder(path, variant, only=()).configs
    wanted = [name for name in configs if name in (*COMPONENTS, "")]
    opened = folders.open_folder(path, variant, only=wanted)
    sources = {name: modern(source, name) for name, source in opened.components.items()}
    if list(sources) == [""]:
        return _component(path, opened.configs[""], sources[""])
    formats = {source.format for source in sources.values()}
    return Opened(path, sources, detection.of_folder(configs, formats))


def _component(path, told, source):
    """A folder that is one network: under the component that it would be."""
    kinds = {
        "UNet2DConditionModel": "unet",
        "UNet2DModel": "unet",
        "AutoencoderKL": "vae",
        "VQModel": "vqvae",
        "ControlNetModel": "controlnet",
    }
    kind = told.get("_class_name")
    if kind not in kinds:
        raise ValueError(f"{path} holds a {kind!r}; known are {', '.join(kinds)}")
    hint = "name the config that it belongs to with --config"
    found = detection.Found("diffusers", f"a {kind} alone", "", hint, parts=True)
    if kind == "ControlNetModel":
        width = told.get("cross_attention_dim")
        found = detection.control_alone("diffusers", width)
    return Opened(path, {kinds[kind]: modern(source, kinds[kind])}, found)


# diffusers before 0.16 named an attention block's matrices otherwise.
OLD = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out{}0"}


def modern(source, component):
    """The source in today's names, where old or new libraries used others."""
    old = re.compile(rf"(attentions([._])\d+)\.({'|'.join(OLD)})\.")

    def name_of(name):
        if component.startswith("text_encoder"):
            return _with_text_model(name)
        return old.sub(lambda m: f"{m[1]}.{OLD[m[3]].format(m[2])}.", name)

    renamed = {name_of(name): tensor for name, tensor in source.tensors.items()}
    return dataclasses.replace(source, tensors=renamed)


def _with_text_model(name):
    """transformers 5 leaves out a level that all released files have."""
    inner = ("embeddings.", "encoder.", "final_layer_norm.")
    return f"text_model.{name}" if name.startswith(inner) else name


def config_of(opened):
    """The config that goes with a file; ValueError says what to do without one."""
    found = opened.found
    if not found.config:
        raise ValueError(f"{opened.path} is {found.what}: {found.hint}")
    path, variant = detection.config_path(found.config)
    config = _loaded(path).get_config(variant)
    config.cond_stage.update(found.encoders)
    return config_lib.check(config)


def _loaded(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module: types.ModuleType = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def plan(opened, config, average=False):
    """The plans.Plan of a config's parameters; errors name the file."""
    layout = opened.found.layout
    wanted = released.rows(config, layout) if opened.found.base else {}
    if opened.found.parts:
        wanted = _parts(wanted, opened.sources)
    if opened.found.control:
        for component, rows in released.control_rows(config, layout).items():
            wanted[component] = [*wanted.get(component, ()), *rows]
    try:
        return plans.plan(wanted, opened.sources, average)
    except ValueError as error:
        raise ValueError(f"{opened.path} is {opened.found.what}: {error}") from error


def _parts(wanted, sources):
    """The rows of the networks of which a file has any array.

    A first stage alone has no prefix in its own file, and one in a whole model's.
    """
    found = {component: list(wanted.get(component, ())) for component in sources}
    if released.SINGLE in found:
        rows, cut = found[released.SINGLE], released.FIRST_STAGE_PREFIX
        found[released.SINGLE] = [
            dataclasses.replace(
                row, theirs=tuple(name.removeprefix(cut) for name in row.theirs)
            )
            for row in rows
            if row.ours.startswith("first_stage/")
        ]
    return found


def has_average(opened):
    """Whether a file holds the averaged UNet beside the raw one."""
    return any(
        released.averaged_name("model.diffusion_model.input_blocks.0.0.weight")
        in source.tensors
        for source in opened.sources.values()
    )


def tell(opened, plan, say):
    """Says what a file is, and all that it holds and the plan does not read."""
    formats = sorted({source.format for source in opened.sources.values()})
    say(f"{opened.path}: {opened.found.what} ({', '.join(formats)})")
    reasons = {}
    for name, why in plan.unused.items():
        reasons.setdefault(why or "UNKNOWN to this model", []).append(name)
    for why, names in reasons.items():
        more = f", and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
        say(f"not read, {why} ({len(names)}): {', '.join(names[:SHOWN])}{more}")


def digest(opened):
    """The hash of a file; of a folder's UNet, and which folder."""
    source = opened.sources.get("unet") or next(iter(opened.sources.values()))
    return f"{own.digest(source.path)} ({opened.path})"
