"""Plans to read a file: what is missing, unlike or unknown is told by its name."""

import dataclasses
import pathlib

import numpy as np
import pytest
import tiny_text_to_image

from ldm_jax.exchange import detection, opening, plans, released
from ldm_jax.weights import tensors

PATH = pathlib.Path("there")


def tensor(shape):
    return tensors.Tensor(tuple(shape), np.dtype("float32"), lambda: np.zeros(shape))


@pytest.fixture(scope="module")
def tiny():
    """(rows, the Source that they describe) of a small model with every network."""
    c = tiny_text_to_image.get_config()
    rows = released.rows(c, "original")
    held = {name: tensor(x) for row in rows[""] for name, x in shapes_of(row)}
    return rows, tensors.Source(PATH, "safetensors", held, {})


def shapes_of(row):
    return [(name, row.their_shape) for name in row.theirs]


NAME = "model.diffusion_model.out.2.weight"


def planned(tiny, held, average=False):
    rows, there = tiny
    there = dataclasses.replace(there, tensors=held)
    return plans.plan(rows, {released.SINGLE: there}, average)


def test_a_renamed_and_a_dropped_array_are_named(tiny):
    held = dict(tiny[1].tensors)
    planned(tiny, held)
    moved = held.pop(NAME)
    with pytest.raises(ValueError, match=rf"missing \(1\): {NAME}$"):
        planned(tiny, held)
    with pytest.raises(ValueError, match=rf"missing \(1\): {NAME}$"):
        planned(tiny, {**held, f"{NAME}s": moved})


def test_another_shape_is_named_with_both(tiny):
    held = dict(tiny[1].tensors)
    right = held[NAME].shape
    held[NAME] = tensor(right[::-1])
    with pytest.raises(ValueError) as caught:
        planned(tiny, held)
    words = f"of another shape (1): {NAME} has {right[::-1]}, wanted {right}"
    assert words in str(caught.value)


def test_an_unknown_array_is_told_as_such(tiny):
    held = {**tiny[1].tensors, "lora.up": tensor((1,)), "betas": tensor((1000,))}
    plan = planned(tiny, held)
    assert plan.unused == {"lora.up": None, "betas": "schedule"}
    said = []
    there = dataclasses.replace(tiny[1], tensors=held)
    found = detection.Found("original", "a test")
    opened = opening.Opened(PATH, {released.SINGLE: there}, found)
    opening.tell(opened, plan, said.append)
    assert said == [
        "there: a test (safetensors)",
        "not read, UNKNOWN to this model (1): lora.up",
        "not read, schedule (1): betas",
    ]


def test_a_long_list_is_counted(tiny):
    with pytest.raises(ValueError, match=r"missing \(\d+\): .*, and \d+ more"):
        planned(tiny, {})
