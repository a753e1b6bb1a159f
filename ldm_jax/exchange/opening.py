"""Opens a released file or folder: its config, and its parameters when asked."""

import dataclasses
import importlib.util
import pathlib
import re
import types

from ldm_jax import config as config_lib
from ldm_jax import config_rules
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
    configs: dict = dataclasses.field(default_factory=dict)  # a folder's JSON files
    others: tuple = ()  # components of a folder that are not opened


def open_path(path, variant=None):
    """The Opened of a file, or of a diffusers folder.

    variant: "fp16" takes a folder's *.fp16.safetensors. Raises FileNotFoundError and
    ValueError that name the file.
    """
    path = pathlib.Path(path).expanduser()
    if not path.exists():
        raise FileNotFoundError(
            f"no file or folder {path}; nothing is downloaded: name one on this disk"
        )
    try:
        return _folder(path, variant) if path.is_dir() else _file(path)
    except ValueError as error:
        told = str(error)
        raise ValueError(told if str(path) in told else f"{path}: {told}") from error


def _file(path):
    source = reading.open_file(path)
    found = detection.of_file(source.tensors, source.meta)
    changes = found.changes | _numbers(source.tensors)
    found = dataclasses.replace(found, changes=changes)
    return Opened(path, {released.SINGLE: source}, found)


def _numbers(tensors):
    """What arrays of the training code say of a config."""
    told = {}
    for name, keys in NUMBERS.items():
        if name not in tensors:
            continue
        numbers = plans.finite(name, tensors[name].read()).reshape(-1)
        if len(numbers) < len(keys):
            raise ValueError(f"{name} holds {len(numbers)} numbers: it is damaged")
        ends = (numbers[0], numbers[-1])
        told |= {key: float(end) for key, end in zip(keys, ends, strict=False)}
    return told


# An array of the training code -> the knobs that its first and last number are.
NUMBERS = {
    "scale_factor": ("first_stage.scale",),  # measured by scale_by_std
    "betas": ("schedule.beta_start", "schedule.beta_end"),
}


def _folder(path, variant):
    opened = folders.open_folder(path, variant, only=(*COMPONENTS, ""))
    configs = opened.configs
    others = sorted(configs.keys() - {*COMPONENTS, "", "scheduler"})
    sources = {name: modern(source, name) for name, source in opened.components.items()}
    if list(sources) == [""]:
        return _component(path, configs[""], sources[""])
    found = detection.of_folder(configs, any(map(is_flax, sources.values())))
    return Opened(path, sources, found, configs, tuple(others))


def is_flax(source):
    return source.format.startswith("flax")


def _component(path, told, source):
    """A folder that is one network: under the component that it would be."""
    kinds = {
        "UNet2DConditionModel": "unet",
        "UNet2DModel": "unet",
        "AutoencoderKL": "vae",
        "VQModel": "vqvae",
        "ControlNetModel": "controlnet",
    }
    kind = str(told.get("_class_name")).removeprefix("Flax")
    layout = "flax" if is_flax(source) else "diffusers"
    if kind not in kinds:
        raise ValueError(f"{path} holds a {kind!r}; known are {', '.join(kinds)}")
    hint = "name the config that it belongs to with --config"
    found = detection.Found(layout, f"a {kind} alone", "", hint, parts=True)
    if kind == "ControlNetModel":
        _check_controlnet(path, told)
        width = told.get("cross_attention_dim")
        found = detection.control_alone(layout, width)
    sources = {kinds[kind]: modern(source, kinds[kind])}
    return Opened(path, sources, found, {kinds[kind]: told})


# What a ControlNetModel may also be told, and what ours is.
PLAIN = {
    "controlnet_conditioning_channel_order": "rgb",
    "global_pool_conditions": False,
    "conditioning_channels": 3,
}


def _check_controlnet(path, told):
    for key, ours in PLAIN.items():
        if told.get(key, ours) != ours:
            raise ValueError(
                f"{path}/config.json: {key} is {told[key]!r}, and a branch is read "
                f"where it is {ours!r}: its numbers would mean something else"
            )


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


def config_of(opened, given=None):
    """The config for a file: the shipped one that goes with it, or the one given.

    ValueError says what to do where there is none, and where the given one contradicts
    what the file says of itself.
    """
    found = opened.found
    if given is None and not found.config:
        raise ValueError(f"{opened.path} is {found.what}: {found.hint}")
    if given is None:
        path, variant = detection.config_path(found.config)
        config = _loaded(path).get_config(variant)
    else:
        config = given.copy_and_resolve_references()
    flat = config_rules.flat(config)
    changes = {
        key: value
        for key, value in found.changes.items()
        if key in flat and not _near(flat[key], value)
    }
    if given is not None and flat.get("cond_stage.encoders") != ("openclip_h",):
        changes = {k: x for k, x in changes.items() if k not in detection.TRIMMED}
    wrong = changes.keys() - detection.TRIMMED.keys() if given is not None else ()
    for key in sorted(wrong):
        raise ValueError(
            f"{opened.path} says that {key} is {changes[key]!r}, the config "
            f"{flat[key]!r}: if the file is right, "
            f"--config.{key}={changes[key]}"
        )
    config.update_from_flattened_dict(changes)
    config = config_lib.check(config)
    _check_heads(opened, config)
    return config


def _near(ours, value):
    """Whether a config says so already; a file's float32 is near enough."""
    if isinstance(ours, float) and isinstance(value, int | float):
        return abs(ours - value) <= 1e-3 * abs(ours)
    return ours == value


def _check_heads(opened, config):
    """Raises ValueError where a UNet of the same shapes has other attention heads."""
    name = "unet" if "unet" in opened.configs else "controlnet"
    told = opened.configs.get(name, {})
    # UNet2DModel, which has no cross-attention, says channels per head by that name.
    plain = str(told.get("_class_name")).endswith("UNet2DModel")
    told = told.get("attention_head_dim")
    if told is None or plain:
        return
    unet = config.unet
    widths = [unet.channels * factor for factor in unet.mult]
    heads = [unet.heads or width // unet.head_channels for width in widths]
    if (told if isinstance(told, list) else [told] * len(heads)) != heads:
        raise ValueError(
            f"{opened.path}, config.json of the {name}: attention_head_dim is {told}, "
            f"the config's UNet has {heads} heads by level"
        )


def _loaded(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module: types.ModuleType = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def plan(opened, config, average=False, control=True):
    """The plans.Plan of a config's parameters; errors name the file.

    control: whether a control branch that the file holds is read too.
    """
    found = opened.found
    if average and found.layout != "original":
        raise ValueError(
            f"{opened.path} is {found.what}: only single files hold averages"
        )
    wanted = released.rows(config, found.layout) if found.base else {}
    absent = wanted.keys() - opened.sources.keys()
    if found.parts:
        wanted = _parts(wanted, opened.sources)
    elif absent:
        names = ", ".join(f"{name}/" for name in sorted(absent))
        raise ValueError(f"{opened.path} is {found.what}: it has no {names}")
    if found.control and control:
        for component, rows in released.control_rows(config, found.layout).items():
            wanted[component] = [*wanted.get(component, ()), *rows]
    try:
        made = plans.plan(wanted, opened.sources, average)
        _refuse_strangers(made)
    except ValueError as error:
        goes = f" (its own config is configs/{found.config})" if found.config else ""
        raise ValueError(f"{opened.path} is {found.what}{goes}: {error}") from error
    return made


# What stands in a single file before the names of its networks.
NETWORKS = ("model.diffusion_model.", "first_stage_model.", "cond_stage_model.")
NETWORKS += ("conditioner.",)


def _refuse_strangers(made):
    """Raises ValueError for arrays within the networks that nothing reads."""
    strange = [
        name
        for name, why in made.unused.items()
        if why is None and (name.startswith(NETWORKS) or "/" in name)
    ]
    if strange:
        more = f", and {len(strange) - SHOWN} more" if len(strange) > SHOWN else ""
        raise ValueError(
            f"it is another model: {len(strange)} arrays of its networks have no place "
            f"in this one: {', '.join(strange[:SHOWN])}{more}"
        )


def _parts(wanted, sources):
    """The rows of the networks of which a file has any array."""
    found = {component: list(wanted.get(component, ())) for component in sources}
    if released.SINGLE in found:
        found[released.SINGLE] = released.alone(found[released.SINGLE])
    return found


def has_average(opened):
    """Whether a file holds the averaged UNet beside the raw one."""
    return any(
        released.averaged_name("model.diffusion_model.input_blocks.0.0.weight")
        in source.tensors
        for source in opened.sources.values()
    )


def tell(opened, plan, say, average=False):
    """Says what a file is, and all that it holds and the plan does not read."""
    formats = sorted({source.format for source in opened.sources.values()})
    say(f"{opened.path}: {opened.found.what} ({', '.join(formats)})")
    if opened.found.changes:
        facts = (f"{key} {value}" for key, value in opened.found.changes.items())
        say(f"it says of itself: {', '.join(facts)}")
    if opened.others:
        say(f"not read, other parts of the folder: {', '.join(opened.others)}")
    if has_average(opened) and not average:
        say("the file holds an average too; this takes the raw UNet (--average)")
    reasons = {}
    for name, why in plan.unused.items():
        reasons.setdefault(why or "UNKNOWN to this model", []).append(name)
    for why, names in reasons.items():
        shown = SHOWN if why in released.UNUSED.values() else len(names)
        more = f", and {len(names) - shown} more" if len(names) > shown else ""
        say(f"not read, {why} ({len(names)}): {', '.join(names[:shown])}{more}")


def digest(opened):
    """The hash of a file; of a folder's UNet; and which it is."""
    source = opened.sources.get("unet") or next(iter(opened.sources.values()))
    parts = [own.digest(file) for file in source.files or (source.path,)]
    return f"{'+'.join(parts)} ({opened.path})"
