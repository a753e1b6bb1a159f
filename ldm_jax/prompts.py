"""What a model is told of prompts: the arrays that its conditioner reads."""

import warnings

import numpy as np

from ldm_jax import class_names, tokenizers
from ldm_jax.models import conditioners

NEGATIVE_AESTHETIC = 2.5  # what SDXL's refiner is told to stay away from


def arrays(model, prompts, negative="", warn=print, cut=True):
    """{name: [n, ...]} of n prompts; unknown words and cut ends are told by `warn`.

    The prompts of a model of classes are their names or numbers.
    negative: what guidance leads away from, of all or a list of n; "" is the model's
    null. Names are the same whatever the prompts are, so that another prompt compiles
    nothing. cut: False raises ValueError for a prompt that does not fit.
    """
    section, count = model.config.cond_stage, len(prompts)
    negatives = [negative] if isinstance(negative, str) else list(negative)
    if section.kind == "label":
        if any(negatives):
            raise ValueError("a model of classes takes no negative prompt")
        numbers = [class_names.number(model.config, said) for said in prompts]
        return {"label": np.array(numbers, np.int32)}
    if section.kind not in tokenizers.SPOKEN:
        raise ValueError(
            f"this model's condition is {section.kind!r}: it takes no prompts"
        )
    words = tokenizers.load(section, "warn", model.words)
    asked = [*prompts, *negatives]
    for prompt in dict.fromkeys(asked):
        if unknown := words.unknown(prompt):
            warn(f"words this model does not know, in {prompt!r}: {', '.join(unknown)}")
    with warnings.catch_warnings(record=True) as lost:
        warnings.simplefilter("always")
        found = SPELLED[section.kind](words, asked)
    lost = [one for one in lost if issubclass(one.category, UserWarning)]
    for message in dict.fromkeys(str(warning.message) for warning in lost):
        if not cut:
            raise ValueError(f"{message}. Shorten it, or --cut_prompts draws what fits")
        warn(message)
    if section.kind == "clip" and not section.null_tokens:
        blank = [not words for words in negatives]
        found["tokens"][count:][blank] = -1  # no text at all
    if section.micro:
        sizes = section.micro, model.config.data.image_size
        found["micro"] = _sizes(*sizes, count, len(negatives))
    told = {key: rows[:count] for key, rows in found.items()}
    for key, rows in found.items():
        away = rows[count:]
        told[f"negative_{key}"] = np.broadcast_to(away, (count, *away.shape[1:]))
    return told


def _clip(words, texts):
    tokens, emphasis = words.emphasis(texts)
    return {"tokens": tokens, "emphasis": emphasis}


SPELLED = {"text": lambda words, texts: {"tokens": words(texts)}, "clip": _clip}


def _sizes(micro, image_size, told, untold):
    """The same for all that are told, and for all others but for their score."""
    rows = [conditioners.sizes(micro, image_size)] * told
    rows += [conditioners.sizes(micro, image_size, NEGATIVE_AESTHETIC)] * untold
    return np.stack(rows)
