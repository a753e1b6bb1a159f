import numpy as np
import pytest

from ldm_jax import trees


@pytest.fixture
def params():
    return {
        "unet": {
            "trunk": {"conv_in": {"kernel": 0, "bias": 1}},
            "up_0_res_0": {"kernel": 2},
            "up_1_res_0": {"kernel": 3},
            "conv_out": {"kernel": 4},
        },
        "unet_2": {"kernel": 5},
        "first_stage": {"kernel": 6},
    }


@pytest.mark.parametrize(
    ("patterns", "wanted"),
    [
        (("unet",), {0, 1, 2, 3, 4}),
        (("unet", "first_stage"), {0, 1, 2, 3, 4, 6}),
        (("unet/up_*",), {2, 3}),
        (("unet/up_*", "unet/conv_out"), {2, 3, 4}),
        (("unet/trunk/conv_in/bias",), {1}),
        (("*/kernel",), {0, 2, 3, 4, 5, 6}),
        (("unet*",), {0, 1, 2, 3, 4, 5}),
        (("*",), {0, 1, 2, 3, 4, 5, 6}),
    ],
    ids=lambda value: "-".join(map(str, value)).replace("/", "."),
)
def test_patterns_cover_what_they_match_and_all_below(params, patterns, wanted):
    trained, frozen = trees.split(params, patterns)
    values = lambda tree: set(trees.flatten(tree).values())
    assert values(trained) == wanted
    assert values(frozen) == set(range(7)) - wanted
    assert trees.merge(trained, frozen) == params
    assert trees.merge(frozen, trained) == params


@pytest.mark.parametrize("pattern", ["une", "unet/up", "first_stage/bias", "canny"])
def test_a_pattern_that_matches_nothing_is_named(params, pattern):
    with pytest.raises(ValueError) as caught:
        trees.check_patterns(params, ("unet", pattern), "train.trainable")
    words = str(caught.value)
    assert f"train.trainable '{pattern}' matches no parameter" in words
    assert "['first_stage', 'unet', 'unet_2']" in words


def test_nothing_is_trained_without_patterns(params):
    assert trees.split(params, ()) == ({}, params)


def test_paths_of_dicts_and_lists_are_written_alike():
    tree = {"a": {"b": [np.zeros(1), np.ones(1)]}, "c": np.zeros(2)}
    assert list(trees.flatten(tree)) == ["a/b/0", "a/b/1", "c"]
