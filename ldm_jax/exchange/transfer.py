"""Weights from any layout that is read into any that is written."""

import contextlib
import dataclasses
import os
import pathlib
import tempfile

import orbax.checkpoint as ocp
import tqdm

from ldm_jax import config as config_lib
from ldm_jax import config_rules_control, config_saved, frozen
from ldm_jax.exchange import folder_json, opening, plans, released
from ldm_jax.weights import own, streaming

DIFFUSION, FIRST_STAGE = "diffusion.safetensors", "first_stage.safetensors"
CONTROL = "control.safetensors"
BRANCH = ("hint", "first_stage", "base")  # what the file of a branch says of it


@dataclasses.dataclass(frozen=True)
class Weights:
    """Parameters that are not read yet, and what they are of."""

    config: object
    held: dict  # path of ours -> weights.tensors.Tensor
    origin: str  # for the header of what is written
    # Of a branch of ours "hint", "first_stage" and "base", digests of what it was
    # trained over; of a model of ours its own "digest" and what tells its latents from
    # others, "first_stage"; of a model with a branch all of them.
    about: dict = dataclasses.field(default_factory=dict)


def read(path, config=None, variant=None, average=False, say=print):
    """The Weights in a released file or folder, or in files of our own.

    config: None takes the one that goes with it. Errors name the file and the reason.
    """
    if ours := file_of_ours(path):
        if average or variant:
            raise ValueError(f"{ours} is of ldm_jax: it has no average and no variant")
        return _read_ours(ours, config, say)
    opened = opening.open_path(path, variant)
    config = opening.config_of(opened, config)
    plan = opening.plan(opened, config, average)
    opening.tell(opened, plan, say, average)
    return Weights(config, plans.tensors_of(plan), opening.digest(opened))


def file_of_ours(path):
    """The file of ldm_jax that a path is, or that lies in that folder; or None."""
    path = pathlib.Path(path).expanduser()
    if path.is_dir():
        inside = [path / name for name in (DIFFUSION, FIRST_STAGE, CONTROL)]
        return next((file for file in inside if file.is_file()), None)
    ours = path.suffix == ".safetensors" and path.is_file() and own.has_header(path)
    return path if ours else None


def _read_ours(path, config, say):
    source, saved, meta = own.open_weights(path)
    config = config_lib.check(config or config_saved.from_dict(saved))
    held = dict(source.tensors)
    branch = all(name.startswith("control/") for name in held)
    if meta.get("first_stage") and not branch:  # of a diffusion model, in another file
        wanted, named = meta["first_stage"], config.first_stage.weights
        stage = frozen.located(named, path.parent, wanted)
        if not stage.is_file() or frozen.latents_of(stage) != wanted:
            raise ValueError(
                f"{path} was made with the first stage {wanted}, which is not {stage}: "
                "put that file beside it, or name it with --config.first_stage.weights"
            )
        held |= own.open_weights(stage)[0].tensors
    digest = own.digest(path)
    about = {"first_stage": meta["first_stage"]} if "first_stage" in meta else {}
    if path.name == DIFFUSION and (path.parent / CONTROL).is_file():
        control, shape, said = own.open_weights(path.parent / CONTROL)
        held |= control.tensors
        config = config.copy_and_resolve_references()
        config.control.update(config_saved.completed(shape)["control"])
        config.control.init = ()  # it was of a training
        config_lib.check(config)
        about |= {key: said[key] for key in BRANCH if key in said}
    if branch:
        about |= {key: meta[key] for key in BRANCH if key in meta}
    else:
        about |= {"digest": digest}
    if all(name.startswith("first_stage/") for name in held):
        about["first_stage"] = frozen.latents_of(path)
    say(f"{path}: weights of ldm_jax ({len(held)} arrays)")
    return Weights(config, held, f"{digest} ({path})", about)


def to_ours(weights, out, dtype):
    """A folder: the first stage with its scale, the rest, and a control branch."""
    check_target("ours", out)
    parts = {"first_stage": {}, "control": {}, "": {}}
    for path, tensor in weights.held.items():
        role = path.split("/")[0]
        parts[role if role in parts else ""][path] = tensor
    with whole_folder(out) as folder:
        _save_ours(weights, parts, folder, dtype)


def _save_ours(weights, parts, out, dtype):
    config = weights.config.copy_and_resolve_references()
    meta = {"from": weights.origin}
    if parts["first_stage"]:
        stage = out / FIRST_STAGE
        scale = config.first_stage.scale if config.task == "latent_diffusion" else 1.0
        arrays = parts["first_stage"]
        latents = weights.about.get("first_stage") or _latents_of(arrays)
        about = meta | {"scale": scale, "latents": latents}
        own.save_arrays(stage, arrays, config.to_dict(), about, dtype)
        meta["first_stage"] = latents
        config.first_stage.update({"weights": FIRST_STAGE} if parts[""] else {})
    if parts[""]:
        alone = _without_branches(config, parts[""]).to_dict()
        own.save_arrays(out / DIFFUSION, parts[""], alone, meta, dtype)
    if parts["control"]:
        said = {key: weights.about[key] for key in BRANCH if weights.about.get(key)}
        if parts[""] and said.get("base") in (None, weights.about.get("digest")):
            said["base"] = own.digest(out / DIFFUSION)  # what is written beside it
        about = meta | said
        own.save_arrays(out / CONTROL, parts["control"], config.to_dict(), about, dtype)


def _latents_of(arrays):
    """What tells a first stage's latents from others: a hash of what makes them.

    Not the file's, which says where it came from and stores floats as asked; what
    decodes them may be another.
    """
    encoder = ("first_stage/encoder/", "first_stage/quant_conv/")
    return own.content({k: v for k, v in arrays.items() if k.startswith(encoder)})


def _without_branches(config, arrays):
    """The config of arrays that hold no branch of its control.hints."""
    config = config.copy_and_resolve_references()
    roles = {path.split("/")[0] for path in arrays}
    if config.task == "latent_diffusion" and not roles & {*config.control.hints}:
        silent = {"control.hints": (), **config_rules_control.UNHEARD}
        config.update_from_flattened_dict(silent)
    return config


def to_original(weights, out, dtype):
    """One .safetensors with the names of the original code."""
    check_target("original", out)
    held = own.narrowed(weights.held, dtype)
    rows = _rows(weights, "original")
    (arrays,) = plans.outgoing(rows, held).values()
    out.parent.mkdir(parents=True, exist_ok=True)
    streaming.write(out, arrays, {"format": "pt", "from": weights.origin})


def to_diffusers(weights, out, dtype):
    """A folder that diffusers and transformers load."""
    check_target("diffusers", out)
    if {path.split("/")[0] for path in weights.held} == {"control"}:
        _check_clip(weights.config)
        folder_json.check(weights.config)
        files = folder_json.branch(weights.config)
    else:
        weights = for_diffusers(weights)
        files = folder_json.files(weights.config)
    held = own.narrowed(weights.held, dtype)
    arrays = plans.outgoing(_rows(weights, "diffusers"), held)
    with whole_folder(out) as folder:
        for path, text in files.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(text, encoding="utf-8")
        for component, tensors in arrays.items():
            component = "" if component == "controlnet" else component
            text = component.startswith("text_encoder")
            name = "model" if text else "diffusion_pytorch_model"
            file = folder / component / f"{name}.safetensors"
            streaming.write(file, tensors, {"format": "pt"})


def for_diffusers(weights):
    """The Weights without the text encoder's last block, which SD2's folders lack."""
    config = weights.config
    _check_clip(config)
    roles = {path.split("/")[0] for path in weights.held}
    if roles != {"first_stage", "cond_stage", "unet"}:
        raise ValueError(
            f"a diffusers folder is a whole model; this is {', '.join(sorted(roles))}: "
            "write it with --layout=ours or original"
        )
    folder_json.check(config)
    if config.cond_stage.encoders != ("openclip_h",):
        return weights
    config = config.copy_and_resolve_references()
    config.cond_stage.update(encoders=("openclip_h_23",), skip=(0,))
    before, after = "cond_stage/openclip_h/", "cond_stage/openclip_h_23/"
    left = (f"{before}block_23/", f"{before}projection/")
    held = {
        path.replace(before, after): tensor
        for path, tensor in weights.held.items()
        if not path.startswith(left)
    }
    return dataclasses.replace(weights, config=config_lib.check(config), held=held)


def _check_clip(config):
    if config.task != "latent_diffusion" or config.cond_stage.kind != "clip":
        raise ValueError(
            "the diffusers layout is written for Stable Diffusion 1, 2 and XL; use "
            "--layout=original"
        )


def to_orbax(weights, out, dtype):
    """A folder of Orbax's StandardCheckpointer with the tree, and config.json."""
    check_target("orbax", out)
    tree = plans.tree(own.narrowed(weights.held, dtype))
    with whole_folder(out) as folder, ocp.StandardCheckpointer() as checkpointer:
        (folder / "config.json").write_text(config_saved.to_json(weights.config))
        checkpointer.save(folder.absolute() / "params", tree)
        checkpointer.wait_until_finished()


def _rows(weights, layout):
    """The rows of what is held: a model, some of its networks, a control branch."""
    roles = {path.split("/")[0] for path in weights.held}
    rows = {}
    if roles - {"control"}:
        for component, here in released.rows(weights.config, layout).items():
            kept = [row for row in here if row.ours.split("/")[0] in roles]
            rows |= {component: kept} if kept else {}
    if roles == {"first_stage"} and layout == "original":
        rows = {released.SINGLE: released.alone(rows[released.SINGLE])}
    if "control" in roles:
        for component, more in released.control_rows(weights.config, layout).items():
            rows[component] = [*rows.get(component, ()), *more]
    return rows


WRITERS = {
    "ours": to_ours,
    "original": to_original,
    "diffusers": to_diffusers,
    "orbax": to_orbax,
}


def with_progress(weights):
    """The Weights whose reading is shown; a bar for each array."""
    bar = tqdm.tqdm(total=len(weights.held), desc="converting", unit="array")
    seen = set()

    def shown(path, tensor):
        def read():
            if path not in seen:
                seen.add(path)
                bar.update()
            return tensor.read()

        return dataclasses.replace(tensor, read=read)

    held = {path: shown(path, tensor) for path, tensor in weights.held.items()}
    return dataclasses.replace(weights, held=held)


@contextlib.contextmanager
def whole_folder(path):
    """A folder to write into, which appears at `path` when all is written, or never."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as near:
        inner = pathlib.Path(near) / "whole"
        inner.mkdir()
        yield inner
        check_target("", path)
        os.replace(inner, path)


def check_target(layout, out):
    """Raises ValueError or FileExistsError where `out` cannot be what is written."""
    if layout == "original" and out.suffix != ".safetensors":
        raise ValueError(f"--to={out}: the original layout is one .safetensors file")
    if layout not in ("", "original") and out.suffix in (".safetensors", ".ckpt"):
        raise ValueError(
            f"--to={out}: the layout {layout!r} is a folder; for one file add "
            "--layout=original"
        )
    if out.exists():
        raise FileExistsError(f"--to={out} exists: name what does not")
