"""The rules of the section `control`: each is told in words."""

from controlled import (
    ALL_ALIKE,
    config_of,
)
import helpers
import numpy as np
import pytest

from ldm_jax import (
    config,
    inputs,
    knobs,
)

WITH = {  # of a config with hints: what is changed, and words of what is said
    "control.hints ('canny', 'canny') must differ": dict(
        control=dict(hints=("canny", "canny"))
    ),
    "control.hints ('unet',) must differ from each other and from": dict(
        control=dict(hints=("unet",))
    ),
    "control.hints (1,) must hold nothing but texts": dict(control=dict(hints=(1,))),
    "sample.branches (3, 4) must hold nothing but texts": dict(
        sample=dict(branches=(3, 4))
    ),
    "sample.hint_strengths ('a', 'b') must hold nothing but numbers": dict(
        sample=dict(hint_strengths=("a", "b"))
    ),
    "sample.hint_strengths (1.0,) must be empty or have one entry for each of control.h"
    "ints ('canny', 'depth')": dict(sample=dict(hint_strengths=(1.0,))),
    "sample.branches ('a', 'b', 'c') must be empty or have one": dict(
        sample=dict(branches=("a", "b", "c"))
    ),
    "data.latents 'kept' must be '': control.hints ('canny', 'depth') are of": dict(
        data=dict(latents="kept"),
        first_stage=dict(
            kind="kl", mult=(1, 2), attention=(0, 0), z_channels=3, embed_channels=3
        ),
    ),
    "control.channels () must be widths of as many levels": dict(
        control=dict(channels=())
    ),
    "control.channels (4, 0) must be widths": dict(control=dict(channels=(4, 0))),
    "control.channels (4, 8) must be widths of as many levels as make a hint the first "
    "stage's factor 4 smaller": dict(
        first_stage=dict(kind="kl", mult=(1, 2, 4), attention=(0, 0, 0)),
    ),
    "control.connections 'one' must be 'zero' or 'gaussian'": dict(
        control=dict(connections="one")
    ),
    "sample.hint_weighting 'odd' must be 'even', 'guess' or": dict(
        sample=dict(hint_weighting="odd")
    ),
    "sample.guide 'weak.safetensors' leads away from no null": dict(
        sample=dict(hint_weighting="guess", guide="weak.safetensors")
    ),
    "control.channels is (1.5,) (tuple), it must be of type tuple, like": dict(
        control=dict(channels=(1.5,))
    ),
    "train.frozen_dtype 'bfloat16' must be 'float32', or 'bfloat16' for what train.init"
    " brings": dict(train=dict(frozen_dtype="bfloat16")),
    "train.frozen_dtype 'float16' must be": dict(
        train=dict(frozen_dtype="float16", init="base.safetensors")
    ),
}
WITH |= {
    "control.init ('a',) must be empty or have one entry for each of control.hints": (
        dict(control=dict(init=("a",)), train=dict(init="base.safetensors"))
    ),
    "control.init ('a', 'b') begins branches over the model of train.init, which": dict(
        control=dict(init=("a", "b"))
    ),
    "control.init (1, 2) must hold nothing but texts": dict(
        control=dict(init=(1, 2)), train=dict(init="base.safetensors")
    ),
}
ALONE = {  # of one without, which has nobody who hears
    "control.channels": (4, 8),
    "control.init": ("a",),
    "control.connections": "gaussian",
    "control.lite": True,
    "control.only_mid": True,
    "sample.branches": ("a",),
    "sample.hint_strengths": (1.0,),
    "sample.hint_weighting": "guess",
}


@pytest.mark.parametrize("words", WITH)
def test_what_cannot_work_is_refused(words):
    with pytest.raises((ValueError, TypeError)) as caught:
        config_of(**WITH[words])
    assert words in str(caught.value)


@pytest.mark.parametrize("key", ALONE)
def test_what_does_nothing_without_hints_is_refused(key):
    c = helpers.tiny_config()
    section, name = key.split(".")
    c[section][name] = ALONE[key]
    with pytest.raises(ValueError) as caught:
        config.check(c)
    assert str(caught.value).startswith(f"{key} {ALONE[key]!r} does nothing where cont")


def test_what_may_be_is_taken():
    held = dict(frozen_dtype="bfloat16", init="base.safetensors")
    c = config_of(
        train=held,
        control=dict(channels=(4,), connections="gaussian", lite=True, only_mid=True),
        sample=dict(branches=("a", "b"), hint_strengths=(1, 0.5)),
    )
    halves = knobs.of(c)["hints"]
    assert list(halves) == ["canny", "depth"]
    np.testing.assert_array_equal(halves["depth"]["told"], [0, 0, 0, 0, 0.5])


def test_an_unknown_hint_and_one_that_no_example_has_are_named():
    with pytest.raises(ValueError, match="'cany' is not one of .* did you mean 'canny"):
        inputs.check(config_of(("cany",)))
    c = config_of(("pose",), **ALL_ALIKE)
    prepare = inputs.prepare(c)
    words = "control.hints 'pose' is made of joints, image, and an example has no joint"
    with pytest.raises(ValueError, match=words):
        prepare({"image": np.zeros((8, 8, 3), np.uint8)})
