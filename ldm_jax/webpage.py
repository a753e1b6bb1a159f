"""What a web page asks of a model: a request, its hint, and the pictures it becomes.

How the page looks is told in ldm_jax.demo.page; nothing here knows it.
"""

import dataclasses
import pathlib
import secrets

import numpy as np

from ldm_jax import (
    album,
    control,
    generation,
    given,
    names,
    pictures,
    sharding,
    tokenizers,
)
from ldm_jax.data import datasets, hints

# Pictures at once, whatever is asked for, so that another number compiles nothing.
BATCH = 4
WAYS = ("ready", "find")  # what is uploaded: a hint, or a picture to find it in
# What may be asked for, lowest and highest: as the web UIs of ControlNet have it.
RANGES = {
    "low": (1, 255),
    "high": (1, 255),
    "strength": (0.0, 2.0),
    "scale": (0.1, 30.0),
    "steps": (1, 100),
    "seed": (-1, album.HIGHEST),
    "n": (1, 12),
}
NIGHT, BEACH = 11, 14  # held-out scenes whose edges are plain at 64 pixels too


@dataclasses.dataclass(frozen=True)
class Asked:
    """One request."""

    prompt: str = ""
    negative: str = ""
    picture: str | None = None  # a file; its middle square is used
    kind: str = ""  # of control.hints: the branch that hears the picture
    way: str = "ready"  # of WAYS
    low: int = 100  # thresholds of canny, where it is found
    high: int = 200
    strength: float = 1.0  # of the branch
    weighting: str = "even"  # a key of control.WEIGHTINGS
    scale: float | None = None  # of guidance; None: as the model has it
    steps: int | None = None
    seed: int = -1  # -1: any
    n: int = 1


@dataclasses.dataclass(frozen=True)
class Drawn:
    """What becomes of it: uint8 pictures [S, S, 3]; the hint is the one that was heard.

    The pictures have the indices 0, 1, ... of the seed, as those of ldm_jax.sample.
    """

    hint: np.ndarray | None
    pictures: list
    seed: int


def check(config):
    """Raises ValueError for a model that is not asked by prompts and hints alone."""
    kind = config.cond_stage.kind
    if kind not in tokenizers.SPOKEN:
        raise ValueError(
            f"this model's condition is {kind!r}: the page draws by prompts, and "
            "ldm_jax.sample by all that there is"
        )
    given.read(config, {"image": None})


def draw(model, asked, tell, tick=lambda done: None):
    """The Drawn of a request.

    tell: (words) of what is not understood; tick: (pictures done). Another number of
    steps, a picture after none, and another branch compile a program, once; nothing
    else does. Raises ValueError for what cannot be drawn, a prompt that is too long
    among it, OSError, and FloatingPointError for a picture that is not finite.
    """
    asked = _checked(model.config, asked)
    heard = _heard(model.config, asked)
    seed = secrets.randbelow(album.HIGHEST + 1) if asked.seed < 0 else asked.seed
    wanted = album.Wanted(
        prompts=(asked.prompt,),
        n=asked.n,
        seed=seed,
        negative=asked.negative,
        given=heard,
    )
    model = dataclasses.replace(model, config=_told(model.config, asked))
    told = album.Told(model, wanted, tell, cut=False)
    at_once, drawn = batch_size(model), []
    for number, x in told.drawn(np.arange(len(wanted)), at_once):
        if not np.isfinite(x).all():
            raise FloatingPointError(f"picture {number} of seed {seed} is not finite")
        drawn.append(np.asarray(pictures.to_uint8(x)))
        tick(len(drawn))
    return Drawn(next(iter(heard.values()), None), drawn, seed)


def batch_size(model):
    """BATCH, or as much more as the model's devices share."""
    return sharding.whole_batch(BATCH, model.mesh.size)


def hint(config, asked):
    """The hint that `draw` gives the model, uint8 [S, S, 3]; None without a picture.

    Raises ValueError, which calls the picture by its file's name, or OSError.
    """
    return next(iter(_heard(config, _checked(config, asked)).values()), None)


def examples(config):
    """(kind, pairs (prompt, uint8 [S, S, 3])): hints of scenes that no training has.

    kind: the first branch whose hint a scene can be drawn as; "" without any, and
    then the hints are None.
    """
    drawn = (name for name in config.control.hints if "hint" not in _needs(name))
    kind = next(drawn, "")
    scenes = datasets.DRAWN["emoji_scenes"]("heldout", 0, config.data.image_size)
    rng, pairs = np.random.default_rng(0), []
    for example in (scenes[NIGHT], scenes[BEACH]):
        # The classes of scenes have the colours of those of ADE20K.
        known = "segments" if kind == "segmentation" else kind
        made = hints.HINTS[known].make(example, rng) if kind else None
        pairs.append((example["caption"], made))
    return kind, pairs


def _needs(name):
    return hints.HINTS[name].needs


def ranges(config):
    """{field of Asked: (lowest, highest)}: RANGES, and what the model itself says."""
    own = {name: config.sample[name] for name in ("scale", "steps")}
    return RANGES | {
        name: (RANGES[name][0], max(RANGES[name][1], value))
        for name, value in own.items()
    }


def _checked(config, asked):
    """The request, its whole numbers as int; raises ValueError for what is none."""
    whole = {}
    for name, (low, high) in ranges(config).items():
        value = vars(asked)[name]
        if value is None:
            continue
        if not low <= value <= high:
            raise ValueError(f"{name} {value} is not in {low} .. {high}")
        if isinstance(low, int):
            whole[name] = int(value)
            if whole[name] != value:
                raise ValueError(f"{name} {value} is no whole number")
    names.pick(dict.fromkeys(WAYS), asked.way)
    return dataclasses.replace(asked, **whole)


def _told(config, asked):
    """The config that says scale, steps and strength as the request does."""
    own = {"scale": asked.scale, "steps": asked.steps}
    if config.control.hints:
        loud = (float(asked.strength),) * len(config.control.hints)
        own |= {"hint_strengths": loud, "hint_weighting": asked.weighting}
    return generation.overridden(config.copy_and_resolve_references(), own)


def _heard(config, asked):
    """{the batch's name of the hint: uint8 [S, S, 3]}, or {} without a picture."""
    if asked.picture is None:
        return {}
    names.pick(dict.fromkeys(config.control.hints), asked.kind)
    path = pathlib.Path(asked.picture)
    try:
        if asked.way == "find":
            own = (asked.low, asked.high) if asked.kind == "canny" else ()
            found = given.found(asked.kind, path, config.data.image_size, own)
            return {control.key(asked.kind): found}
        alone = config.copy_and_resolve_references()
        alone.control.hints = (asked.kind,)  # the others hear nothing
        return given.read(alone, {"image": None, "hint": (str(path),)})
    except ValueError as error:
        words = str(error).replace(f"--hint {path}", path.name)
        raise ValueError(words) from error
