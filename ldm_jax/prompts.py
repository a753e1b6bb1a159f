"""What a model is told of prompts: the arrays that its conditioner reads."""

import warnings

import numpy as np

from ldm_jax import class_names, inputs
from ldm_jax.models import conditioners

NEGATIVE_AESTHETIC = 2.5  # what SDXL's refiner is told to stay away from


def arrays(model, prompts, negative="", warn=print):
    """{name: [n, ...]} of n prompts; unknown words and cut ends are told by `warn`.

    The prompts of a model of classes are their names or numbers.
    negative: what guidance leads away from, "" for the model's null. Names are the
    same whatever the prompts are, so that another prompt compiles nothing.
    """
    section = model.config.cond_stage
    if section.kind == "label":
        if negative:
            raise ValueError("a model of classes takes no negative prompt")
        numbers = [class_names.number(model.config, said) for said in prompts]
        return {"label": np.array(numbers, np.int32)}
    if section.kind not in inputs.SPOKEN:
        raise ValueError(
            f"this model's condition is {section.kind!r}: it takes no prompts"
        )
    words = inputs.words(section, "warn", model.words)
    asked = [*prompts, negative]
    for prompt in dict.fromkeys(asked):
        if unknown := words.unknown(prompt):
            warn(f"words this model does not know, in {prompt!r}: {', '.join(unknown)}")
    with warnings.catch_warnings(record=True) as cut:
        warnings.simplefilter("always")
        found = SPELLED[section.kind](words, asked)
    for message in dict.fromkeys(str(warning.message) for warning in cut):
        warn(message)
    if section.kind == "clip" and not negative and not section.null_tokens:
        found["tokens"][-1] = -1  # no text at all
    if section.micro:
        found["micro"] = _sizes(section.micro, model.config.data.image_size, len(asked))
    told = {key: rows[:-1] for key, rows in found.items()}
    last = {key: np.repeat(rows[-1:], len(prompts), 0) for key, rows in found.items()}
    return told | {f"negative_{key}": rows for key, rows in last.items()}


def _clip(words, texts):
    tokens, emphasis = words.emphasis(texts)
    return {"tokens": tokens, "emphasis": emphasis}


SPELLED = {"text": lambda words, texts: {"tokens": words(texts)}, "clip": _clip}


def _sizes(micro, image_size, count):
    """The same for all rows but the last, whose score is the negative one."""
    rows = np.tile(conditioners.sizes(micro, image_size), (count, 1))
    rows[-1] = conditioners.sizes(micro, image_size, NEGATIVE_AESTHETIC)
    return rows
