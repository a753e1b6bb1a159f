"""train.redrawn: what is drawn anew though train.init holds it, or holds it not."""

import commands
import jax
import numpy as np
import pytest
import tiny_text_to_image

from ldm_jax import config as config_lib
from ldm_jax import runs, system, trees
from ldm_jax.weights import own


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The paths of a first stage, and of a model that is nowhere as it is drawn."""
    folder = tmp_path_factory.mktemp("redrawn")
    commands.first_stage(folder / "stage.safetensors")
    c = config_of(folder)
    drawn = system.build(c).init(jax.random.key(c.seed + 1))
    drawn = {k: v for k, v in drawn.items() if k != "first_stage"}
    saved = jax.tree.map(lambda x: np.asarray(x) + 1, drawn)
    own.save_weights(folder / "start.safetensors", saved, c.to_dict(), {}, "float32")
    return folder


def config_of(folder, **train):
    c = tiny_text_to_image.get_config().copy_and_resolve_references()
    c.first_stage.weights = str(folder / "stage.safetensors")
    c.train.update(train)
    return config_lib.check(c)


def begun(c, workdir):
    """All parameters before the first step, flat."""
    run = runs.prepare(c, workdir)
    run.manager.close()
    return trees.flatten(jax.device_get(trees.merge(run.state.params, run.frozen)))


def test_what_is_redrawn_is_as_without_the_file_and_the_rest_as_in_it(files, tmp_path):
    drawn = begun(config_of(files), tmp_path / "none")
    start = str(files / "start.safetensors")
    held = trees.flatten(own.load_weights(start)[0])
    given = dict(init=start, redrawn=("unet",), trainable=("unet",))
    found = begun(config_of(files, **given), tmp_path / "redrawn")
    for path, value in found.items():
        source = held if path.startswith("cond_stage/") else drawn
        np.testing.assert_array_equal(value, source[path], path)
    assert any(np.any(held[p] != drawn[p]) for p in held if p.startswith("unet/"))


def test_a_deeper_unet_begins_with_the_arrays_that_the_file_has(files, tmp_path):
    start = str(files / "start.safetensors")
    held = trees.flatten(own.load_weights(start)[0])
    c = config_of(files, init=start)
    c.unet.depths = (2,)
    with pytest.raises(ValueError, match="only in the config's model"):
        begun(c, tmp_path / "refused")
    c.train.redrawn = ("unet/*/block_1",)
    found = begun(c, tmp_path / "deeper")
    new = found.keys() - held.keys()
    assert new and all("/block_1/" in p for p in new if p.startswith("unet/"))
    for path in held:
        np.testing.assert_array_equal(found[path], held[path], path)


def test_weights_that_are_not_taken_may_predict_something_else(files, tmp_path):
    c = config_of(files, init=str(files / "start.safetensors"))
    c.loss.predicts = "v"
    with pytest.raises(ValueError, match="predicts 'eps', loss.predicts is 'v'"):
        begun(c, tmp_path / "refused")
    c.train.redrawn = ("unet",)
    assert begun(c, tmp_path / "taken")


@pytest.mark.parametrize(
    ("train", "words"),
    [
        (dict(redrawn=("unte",)), "train.redrawn 'unte' matches no parameter"),
        (
            dict(redrawn=("cond_stage",), trainable=("unet",)),
            "neither in train.trainable .* nor loaded: .'cond_stage/",
        ),
    ],
)
def test_what_cannot_be_redrawn_is_named(files, tmp_path, train, words):
    c = config_of(files, init=str(files / "start.safetensors"), **train)
    with pytest.raises(ValueError, match=words):
        begun(c, tmp_path / "refused")


def test_without_a_file_there_is_nothing_to_redraw(files):
    with pytest.raises(ValueError, match="train.redrawn .* without train.init"):
        config_of(files, redrawn=("unet",))
