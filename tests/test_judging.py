"""The judge from a file, and what it says of pictures."""

import helpers
import jax
import numpy as np
import pytest
import tiny_judge

from ldm_jax import (
    checkpoint,
    exporting,
    frozen,
    judge_loss,
    judging,
    paths,
    runs,
    sharding,
    system,
    trees,
)
from ldm_jax.data import datasets, labels
from ldm_jax.weights import own


def random_params(c):
    init = system.build(c).init
    return helpers.random_params(jax.eval_shape(init, jax.random.key(0)), scale=2.0)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("judge") / "judge.safetensors"
    own.save_weights(
        path,
        random_params(tiny_judge.get_config()),
        tiny_judge.get_config().to_dict(),
        {},
        "float16",
    )
    return path


@pytest.fixture(scope="module")
def judge(file):
    return judging.load(file)


def pictures_of(count):
    gen = np.random.default_rng(0)
    return gen.integers(0, 256, (count, 16, 16, 3), np.uint8)


def test_it_is_what_the_file_holds(judge, file):
    assert judge.config == tiny_judge.get_config()
    assert judge.weights == own.digest(file)
    held, _, _ = own.load_weights(file)
    assert helpers.largest_difference(judge.params, held) == 0


def test_a_missing_file_says_how_to_make_one(tmp_path):
    with pytest.raises(FileNotFoundError, match="no judge in .*nothing.safetensors"):
        judging.load(tmp_path / "nothing.safetensors")


def test_a_file_of_another_task_is_refused(tmp_path):
    path = tmp_path / "stage.safetensors"
    c = helpers.tiny_autoencoder_config()
    own.save_weights(path, {"first_stage": {"x": np.zeros(1)}}, c.to_dict(), {})
    with pytest.raises(ValueError, match="no judge: its config is of task 'autoenc"):
        judging.load(path)


def test_other_shapes_than_the_configs_are_refused(tmp_path):
    path = tmp_path / "judge.safetensors"
    wider = tiny_judge.get_config()
    wider.unet.channels = 16
    own.save_weights(path, random_params(tiny_judge.get_config()), wider.to_dict(), {})
    with pytest.raises(ValueError, match=r"judge.safetensors does not fit .*\n.*shape"):
        judging.load(path)


def test_a_config_that_is_none_is_refused(tmp_path):
    path = tmp_path / "judge.safetensors"
    broken = tiny_judge.get_config().to_dict()
    broken["judge"]["path"] = 2
    own.save_weights(path, random_params(tiny_judge.get_config()), broken, {})
    with pytest.raises(ValueError, match="has a config that is none: .*judge.path"):
        judging.load(path)


def test_an_export_is_a_judge(tmp_path):
    """It has no scale and no first stage; a run may begin with it."""
    c, out = tiny_judge.get_config(), tmp_path / "judge.safetensors"
    made, mesh = system.build(c), sharding.make_mesh()
    state = runs.state_of(c, made, random_params(c))
    state = jax.device_put(state, sharding.replicated(mesh))
    manager = checkpoint.open(tmp_path / "run" / "checkpoints")
    runs.save(runs.Run(c, made, mesh, state, {}, manager, 0), 1)
    manager.wait_until_finished()
    manager.close()
    told = exporting.export(c, tmp_path / "run", out, "float16", 1)
    assert told == {
        "step": 1,
        "data": "emoji_mixed",
        "parameters": helpers.count(state.params),
    }
    loaded = judging.load(out)
    assert loaded.config == c
    assert helpers.largest_difference(loaded.params, state.ema) < 1e-3
    c.train.init = str(out)
    trained, rest = frozen.start(c, made)
    assert trees.flatten(trained).keys() == trees.flatten(state.params).keys()
    assert rest == {}


class Bar:
    """What a tqdm bar is to `see`."""

    done = 0

    def update(self, count):
        self.done += count


def test_what_is_seen_does_not_depend_on_the_batches(judge):
    """The last batch is padded, and what fills it is not told of."""
    images, bar = pictures_of(6), Bar()
    found = judging.see(judge, images, bar, batch_size=4)
    whole = judging.see(judge, images[:4], batch_size=4)
    assert bar.done == 6
    assert (found.shape, found.dtype) == ((6, 4, 4), np.int32)
    np.testing.assert_array_equal(found[:4], whole)
    assert len(np.unique(found)) > 2


def test_a_mirrored_picture_shows_the_same(judge):
    images = pictures_of(4)
    found = judging.see(judge, images, batch_size=4)
    other = judging.see(judge, images[:, :, ::-1], batch_size=4)
    assert np.mean(other[:, :, ::-1] == found) > 0.95  # ties in the last bit aside


def test_the_likeliest_is_what_the_logits_say(judge):
    images = pictures_of(4)
    x = images / np.float32(127.5) - 1
    said = jax.jit(judge.system.judge)
    plain, mirrored = (
        jax.nn.log_softmax(said(judge.params, view)["things"])
        for view in (x, x[:, :, ::-1])
    )
    likely = np.argmax(plain + mirrored[:, :, ::-1], axis=-1)
    found = judging.see(judge, images, batch_size=4)
    assert np.mean(likely == found) > 0.95  # ties in the last bit aside


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    path = tmp_path_factory.mktemp("reader") / "reader.safetensors"
    c = tiny_judge.get_config("reader")
    own.save_weights(path, random_params(c), c.to_dict(), {}, "float16")
    return judging.load(path, ("depth", "joints"))


def test_a_judge_that_reads_something_else_is_refused(file):
    with pytest.raises(ValueError, match="reads things and segments, .* for depth"):
        judging.load(file, ("depth",))


def test_depth_and_joints_are_read(reader):
    """In one go, or each for itself; the last batch is padded here too."""
    images, bar = pictures_of(6), Bar()
    found = judging.read(reader, images, bar, batch_size=4)
    assert bar.done == 6 and set(found) == {"depth", "joints"}
    assert (found["depth"].shape, found["depth"].dtype) == ((6, 16, 16), np.float32)
    assert found["joints"].shape == (6, labels.JOINTS, 2)
    middles = (np.arange(4) + 0.5) / 4
    assert np.isin(found["joints"], middles.astype(np.float32)).all()
    alone = judging.read(reader, images[:4], None, 4, ("joints",))
    np.testing.assert_array_equal(alone["joints"], found["joints"][:4])
    logits = jax.jit(reader.system.judge)(reader.params, images / np.float32(127.5) - 1)
    likely = np.asarray(logits["joints"]).reshape(6, 16, -1).argmax(1)
    there = np.stack([middles[likely % 4], middles[likely // 4]], axis=-1)
    assert np.mean(there == found["joints"]) > 0.95  # ties in the last bit aside


def test_a_mirrored_picture_is_as_deep(reader):
    images = pictures_of(4)
    plain, other = (
        judging.read(reader, x, None, 4, ("depth",))["depth"]
        for x in (images, images[:, :, ::-1])
    )
    np.testing.assert_allclose(other[:, :, ::-1], plain, atol=1e-4)


def test_pictures_of_another_size_are_refused(judge):
    with pytest.raises(ValueError, match="pictures of 16x16, not of 8x8"):
        judging.see(judge, np.zeros((2, 8, 8, 3), np.uint8), batch_size=4)


def test_batches_must_divide_over_devices(judge):
    assert sharding.make_mesh().size == 4
    with pytest.raises(ValueError, match="batch_size 6 must be a multiple of .* 4"):
        judging.see(judge, pictures_of(2), batch_size=6)


def test_the_judge_that_ships_names_what_is_there():
    """In scenes with pairs of objects that its training never showed."""
    judge = judging.load()
    assert paths.resolve(judging.EMBEDDED).stat().st_size < 1e6
    size = judge.config.data.image_size
    scenes = datasets.DRAWN["emoji_scenes"]("heldout", 1, size)
    examples = [scenes[i] for i in range(16)]
    images = np.stack([example["image"] for example in examples])
    found = judging.see(judge, images, batch_size=16)
    named = [
        (found[i] == thing).any()
        for i, example in enumerate(examples)
        for thing in example["sprites"][example["sprites"] >= 0]
    ]
    assert len(named) > 40 and np.mean(named) > 0.7


def test_the_reader_that_ships_sees_depth_and_people():
    """In scenes with pairs of objects that its training never showed."""
    reader = judging.load(judging.READER, ("depth", "joints"))
    assert paths.resolve(judging.READER).stat().st_size < 1e6
    scenes = datasets.DRAWN["emoji_scenes"]("heldout", 1, reader.config.data.image_size)
    examples = [scenes[i] for i in range(32)]
    truth = {key: np.stack([x[key] for x in examples]) for key in examples[0]}
    found = judging.read(reader, truth["image"])
    even = np.mean(truth["depth"], axis=0, keepdims=True)  # what is so in most scenes
    seen, usual = (
        judge_loss.correlation(x, truth["depth"]).mean() for x in (found["depth"], even)
    )
    assert seen > 0.97 and usual < 0.95
    right = judge_loss.near(found["joints"], truth["joints"], 16)
    visible = truth["joints"][..., 2].sum()
    assert visible > 36 and right.sum() / visible > 0.9
