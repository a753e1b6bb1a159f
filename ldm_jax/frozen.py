"""What a run uses but does not train, loaded from files. Never random weights."""

import functools

import jax

from ldm_jax import config_saved, paths, trees
from ldm_jax import system as system_lib
from ldm_jax.models import perceptual as perceptual_lib
from ldm_jax.weights import cache, own

BRANCH = "control"  # the role of a control branch in a file of its own


def load(config, system=None):
    """The parameters that `config` needs from files: {top-level name: tree}.

    Raises FileNotFoundError for a file that is not there, ValueError for one that
    does not fit the config.
    """
    system = system or system_lib.build(config)
    if config.task == "autoencoder":
        wanted = config.loss.perceptual_weight
        return {"perceptual": perceptual(config.loss.perceptual)} if wanted else {}
    if config.task == "judge" or config.first_stage.kind == "identity":
        return {}
    shapes = jax.eval_shape(system.init, jax.random.key(0))
    return {"first_stage": first_stage(config.first_stage, shapes["first_stage"])}


def perceptual(net):
    """The parameters of LPIPS on `net`, 'alexnet' or 'vgg16', as numpy.

    Raises FileNotFoundError when they were not fetched, ValueError for another net and
    for a file that is damaged or holds something else; they say what to do.
    """
    shapes = perceptual_lib.shapes(net)
    params = cache.load(net)
    report = trees.differences(params, shapes, "the file", net)
    if report:
        raise ValueError(f"{cache.refusal(net)} it does not hold {net}:\n{report}")
    return params


def start(config, system):
    """(trained, rest): what train.init holds, not read yet.

    All but the first stage, or of a first stage just that, without its adversary; of
    either without what train.redrawn names. With the branches of control.init.
    Trees of weights.tensors.Tensor; both are empty without a file. Raises
    FileNotFoundError or ValueError naming it and what does not fit.
    """
    if not config.train.init:
        return {}, {}
    alone = config.task == "autoencoder"
    path = paths.resolve(config.train.init)
    source, saved, meta = own.open_weights(path)
    shapes = jax.eval_shape(system.init, jax.random.key(0))
    shapes = {k: tree for k, tree in shapes.items() if (k == "first_stage") == alone}
    held = trees.nested(own.narrowed(source.tensors, "float32"))
    if set(held) == {BRANCH}:
        raise ValueError(
            f"train.init {path} is a control branch alone, which has no UNet to go on "
            "from: name the model that it was trained over, and the branch by "
            "control.init"
        )
    redrawn = config.train.redrawn
    trees.check_patterns(shapes, redrawn, "train.redrawn")
    if config.task == "latent_diffusion":
        held |= _branches(config, held, shapes)
        shapes = _copy_trunks(config, held, shapes)
    (_, shapes), (_, held) = trees.split(shapes, redrawn), trees.split(held, redrawn)
    own.check_tree(held, shapes, f"train.init {path}")
    if alone:
        check_shape(config.first_stage, saved, f"train.init {path}")
    if config.task == "latent_diffusion" and "unet" in held:
        _check_origin(config, path, saved, meta)
    return trees.split(held, config.train.trainable)


def _branches(config, held, shapes):
    """{hint: its branch, as float32} of control.init; `held` is train.init's."""
    found = {}
    for hint, named in zip(config.control.hints, config.control.init, strict=False):
        if not named:
            continue
        if hint in held:
            raise ValueError(
                f"train.init {config.train.init} holds a branch {hint!r} itself: "
                "control.init must be ()"
            )
        path = paths.resolve(named)
        tensors, saved, meta = open_branch(path)
        if meta.get("hint", hint) != hint:
            raise ValueError(
                f"control.init {path} hears {meta['hint']!r}, and it is to begin the "
                f"branch {hint!r}"
            )
        check_alike(config, saved, meta, f"control.init {path}")
        found[hint] = trees.nested(own.narrowed(tensors, "float32"))[BRANCH]
        own.check_tree(found[hint], shapes[hint], f"control.init {path}")
    return found


def open_branch(path):
    """(tensors by path, config, meta) of the file of a branch, not read yet."""
    source, saved, meta = own.open_weights(path)
    roles = {name.split("/")[0] for name in source.tensors}
    if BRANCH not in roles:
        raise ValueError(f"{path} holds no control branch, only {sorted(roles)}")
    return source.tensors, saved, meta


def check_alike(config, saved, meta, name):
    """Raises ValueError where a file's UNet or branch was taught another language.

    First stages are compared where both are known by a file: a released branch says
    nothing of one, and that of a released model lies in the model's own file.
    """
    there = config_saved.completed(saved)
    for section, key in (("schedule", None), ("loss", "predicts")):
        ours, theirs = config[section], there.get(section)
        ours = ours[key] if key else ours.to_dict()
        theirs = theirs[key] if key and theirs else theirs
        if ours != theirs:
            raise ValueError(
                f"{name} cannot join this model: its {section} is {theirs}, not {ours}"
            )
    wanted = meta.get("first_stage", "")
    if wanted and knows_latents(config) and wanted != digest(config):
        raise ValueError(
            f"{name} is of the latents of another first stage, {wanted}; this model's "
            f"is {digest(config)}"
        )


def knows_latents(config):
    """Whether `digest` tells a config's latents from others."""
    return config.first_stage.kind == "identity" or bool(config.first_stage.weights)


def _copy_trunks(config, held, shapes):
    """Gives branches that are not `held` the UNet's trunk; the shapes of what is."""
    shapes = dict(shapes)
    for name in config.control.hints:
        if name not in held:
            whole = shapes.pop(name)
            if "trunk" in whole and "trunk" in held.get("unet", {}):
                held[name] = {"trunk": held["unet"]["trunk"]}
                shapes[name] = {"trunk": whole["trunk"]}
    return shapes


def narrowed(tree, dtype):
    """A tree of weights.tensors.Tensor with floats as dtype, when they are read."""
    return trees.nested(own.narrowed(trees.flatten(tree), dtype))


def _check_origin(config, path, saved, meta):
    """Raises ValueError where train.init learned something else than is trained now."""
    then, now = saved["loss"]["predicts"], config.loss.predicts
    if then != now:
        raise ValueError(
            f"train.init {path} predicts {then!r}, loss.predicts is {now!r}: they must "
            "be equal, weights of one kind are noise to the other"
        )
    stage = digest(config)
    if meta.get("first_stage", stage) != stage:
        raise ValueError(
            f"train.init {path} was trained on the latents of first stage "
            f"{meta['first_stage']}, but first_stage.weights "
            f"{config.first_stage.weights} is {stage}"
        )


FREE = ("dtype", "dropout", "weights", "scale")  # do not change what weights mean


def check_shape(section, saved, name):
    """Raises ValueError where a first stage was another function of the same shapes.

    section: first_stage of a config; saved: the config in the file called `name`.
    """
    stage = saved.get("first_stage", {})
    is_section = isinstance(stage, dict)
    if not is_section:
        raise ValueError(f"{name} has a config whose first_stage is {stage!r}")
    for key, then in stage.items():
        now = section.to_dict().get(key, then)
        now = list(now) if isinstance(now, tuple) else now
        if key not in FREE and now != then:
            raise ValueError(
                f"first_stage.{key} is {now!r}, but {name} was made with {then!r}"
            )


def located(named, folder, wanted):
    """The path of the first stage that a weights file in `folder` names.

    It may lie where it was named or beside the file; of two, the one whose digest is
    `wanted` is meant.
    """
    places = [paths.resolve(named)] if named else []
    places.append(folder / (places[0].name if places else "first_stage.safetensors"))
    there = [path for path in places if path.is_file()]
    fitting = [path for path in there if latents_of(path) == wanted]
    return (fitting or there or places)[0]


def digest_of_start(config):
    """The hash of the file train.init, "" without one."""
    return digest_of(paths.resolve(config.train.init)) if config.train.init else ""


def digests_of_branches(config):
    """The hashes of the files control.init; "" where it names none."""
    named = config.control.init if config.task == "latent_diffusion" else ()
    return [name and digest_of(paths.resolve(name)) for name in named]


def digest_of(path):
    """The hash of a file, taken again only when it has changed."""
    about = path.stat()
    return _known_digest(path, about.st_size, about.st_mtime_ns)


@functools.cache
def _known_digest(path, size, changed):
    return own.digest(path)


def digest(config):
    """What tells a config's latents from others, `latents_of`; "" without a file."""
    if config.task != "latent_diffusion" or config.first_stage.kind == "identity":
        return ""
    return latents_of(first_stage_file(config.first_stage))


def latents_of(path):
    """What tells the latents of a first stage's file from others: a hash.

    The file's own, or where only a decoder was trained that of the file it came from.
    """
    meta = own.open_weights(path)[2] if own.has_header(path) else {}
    return meta.get("latents", digest_of(path))


def encoder_of_start(config):
    """What a first stage's export says of latents that are train.init's; else {}.

    So they are where neither the encoder nor quant_conv is trained.
    """
    if config.task != "autoencoder" or not config.train.init:
        return {}
    trained, _ = start(config, system_lib.build(config))
    if trained.get("first_stage", {}).keys() & {"encoder", "quant_conv"}:
        return {}
    path = paths.resolve(config.train.init)
    meta = own.open_weights(path)[2]
    kept = ("scale", "latent_mean", "latent_std", "scale_pictures")
    return {key: meta[key] for key in kept if key in meta} | {
        "latents": latents_of(path)
    }


def first_stage_file(section):
    """The path that first_stage.weights names, which exists."""
    if not section.weights:
        raise FileNotFoundError(
            "first_stage.weights is empty: name the .safetensors of a trained first "
            "stage (python -m ldm_jax.export or ldm_jax.convert writes it)"
        )
    path = paths.resolve(section.weights)
    if not path.is_file():
        raise FileNotFoundError(
            f"first_stage.weights names {path}, which does not exist: train a first "
            "stage and write it with python -m ldm_jax.export, or ldm_jax.convert one"
        )
    return path


def first_stage(section, shapes):
    """The autoencoder of a latent diffusion config, its scale checked."""
    path = first_stage_file(section)
    params, saved, meta = own.load_weights(path)
    if "first_stage" not in params:
        raise ValueError(f"{path} holds no first stage: it has {sorted(params)}")
    params = params["first_stage"]
    own.check_tree(params, shapes, str(path))
    check_shape(section, saved, str(path))
    if "scale" not in meta:
        raise ValueError(
            f"{path} has no scale: write it with ldm_jax.export or ldm_jax.convert"
        )
    if abs(section.scale / meta["scale"] - 1) > 1e-3:
        raise ValueError(
            f"first_stage.scale is {section.scale}, but {path} was measured to need "
            f"{meta['scale']:.6g}: the latents would not have unit variance"
        )
    return params
