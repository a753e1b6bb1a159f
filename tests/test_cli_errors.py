"""Mistakes of a user: told in words, before anything is allocated, exit code 2."""

import json
import re

import commands
import jax
import numpy as np
import pytest
import tiny_autoencoder

from ldm_jax import checkpoint, generation, reconstruction, runs, system
from ldm_jax import config as config_lib
from ldm_jax.weights import own

SMALL = 10_000  # bytes: keys and the numbers of a schedule, but no parameters


@pytest.fixture(scope="module")
def stage(tmp_path_factory):
    return commands.first_stage(tmp_path_factory.mktemp("stage") / "stage.safetensors")


@pytest.fixture
def c(stage):
    return commands.config_on(stage)


def allocated():
    return sum(x.nbytes for x in jax.live_arrays())


WRONG = {
    "'emoji_single' is not one of .* did you mean 'emoji_singles'": {
        "data": dict(name="emoji_single"),
    },
    "data.batch_size 6 must be a multiple of the number of devices, 4": {
        "data": dict(batch_size=6),
    },
    "data.batch_size 4 .* devices, 4 times 2 micro-batches": {
        "train": dict(accumulate=2),
    },
    "parallel.fsdp 3 must divide the number of devices, 4": {"parallel": dict(fsdp=3)},
    r"cond_stage.vocab is 999, but .*vocab.txt has \d+ word pieces": {
        "cond_stage": dict(vocab=999),
    },
    "'tekst' is not one of .* did you mean 'text'": {"cond_stage": dict(kind="tekst")},
    "'epsilon'": {"loss": dict(predicts="epsilon")},
    "'l3' is not one of l1, l2": {"loss": dict(norm="l3")},
    "'dimm' is not one of .* did you mean 'ddim'": {"sample": dict(sampler="dimm")},
    "'trialing' is not one of .* did you mean 'trailing'": {
        "sample": dict(grid="trialing"),
    },
    "no 300 steps of 1000: the nearest are": {"sample": dict(grid="ldm", steps=300)},
    "'cosine' is not one of .*warmup_cosine": {"optim": dict(schedule="cosine")},
    "'adamx' is not one of .* did you mean 'adam": {"optim": dict(optimizer="adamx")},
    "train.trainable 'unte' matches no parameter; the top level has": {
        "train": dict(trainable=("unte",)),
    },
    "neither in train.trainable .*'unet',.* nor loaded: .'cond_stage/": {
        "train": dict(trainable=("unet",)),
    },
    "train.trainable .*'first_stage'.* covers .* loaded from a file: .'first_stage/": {
        "train": dict(trainable=("unet", "cond_stage", "first_stage")),
    },
    r"cond_stage.null_tokens is .101, 102., but the empty caption begins with .2, 3.": {
        "cond_stage": dict(null_tokens=(101, 102)),
    },
    "first_stage.scale is 2.0, but .*stage.safetensors was measured to need 1": {
        "first_stage": dict(scale=2.0),
    },
    r"(?s)stage.safetensors does not fit .*shape .*saved \(.*wanted \(": {
        "first_stage": dict(channels=16),
    },
}


@pytest.mark.parametrize("words", WRONG)
def test_what_does_not_fit_is_refused_before_anything_is_allocated(c, tmp_path, words):
    for section, changes in WRONG[words].items():
        c[section].update(changes)
    before = allocated()
    with pytest.raises(ValueError, match=words):
        runs.prepare(config_lib.check(c), tmp_path)
    assert allocated() - before < SMALL
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("section", "key", "name", "words"),
    [
        ("first_stage", "weights", "", "first_stage.weights is empty"),
        ("first_stage", "weights", "no.safetensors", "which does not exist: train"),
        ("cond_stage", "vocabulary", "no.txt", "cond_stage.vocabulary names no.txt"),
    ],
)
def test_a_missing_file_is_named_with_its_key(c, tmp_path, section, key, name, words):
    c[section][key] = name
    with pytest.raises(FileNotFoundError, match=words):
        runs.prepare(c, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_file_without_a_first_stage_is_refused(c, tmp_path):
    path = tmp_path / "unet.safetensors"
    c.first_stage.weights = str(path)
    own.save_weights(path, {"unet": {"bias": np.zeros(1)}}, {}, {"scale": 1.0})
    with pytest.raises(ValueError, match=r"holds no first stage: it has \['unet'\]"):
        runs.prepare(c, tmp_path)


def test_a_first_stage_that_was_not_measured_is_refused(c, tmp_path):
    path = tmp_path / "stage.safetensors"
    params, config, _ = own.load_weights(c.first_stage.weights)
    own.save_weights(path, params, config, {})
    c.first_stage.weights = str(path)
    with pytest.raises(ValueError, match="has no scale: write it with"):
        runs.prepare(c, tmp_path)


def test_a_checkpoint_of_another_shape_is_refused_with_both_trees(c, tmp_path):
    shapes = jax.eval_shape(runs.initial_state(c, system.build(c)), jax.random.key(0))
    state = jax.device_put(jax.tree.map(lambda s: np.zeros(s.shape, s.dtype), shapes))
    manager = checkpoint.open(tmp_path / "checkpoints")
    checkpoint.save(manager, 1, state, runs.about(c, 1))
    manager.close()
    c.unet.update(depths=(0,), channels=16)
    c.cond_stage.depth = 2
    for load in (runs.prepare, runs.latest_params):
        before = allocated()
        with pytest.raises(ValueError) as caught:
            load(c, tmp_path)
        assert allocated() - before < SMALL
        words = str(caught.value)
        assert "does not fit this config" in words
        assert "only in the checkpoint (" in words
        assert "only in the config's model (" in words and "cond_stage/attn_1" in words
        assert "saved (3, 3, 4, 8) wanted (3, 3, 4, 16)" in words


def test_parameters_outlive_a_change_of_the_optimizer(c, tmp_path):
    """What lies beside them in the checkpoint need not fit the config of today."""
    shapes = jax.eval_shape(runs.initial_state(c, system.build(c)), jax.random.key(0))
    state = jax.device_put(jax.tree.map(lambda s: np.ones(s.shape, s.dtype), shapes))
    manager = checkpoint.open(tmp_path / "checkpoints")
    checkpoint.save(manager, 1, state, runs.about(c, 1))
    manager.close()
    c.optim.optimizer = "muon"
    params, step = runs.latest_params(c, tmp_path)
    assert step == 1 and set(params) == {"unet", "cond_stage"}
    with pytest.raises(ValueError, match="does not fit this config"):
        runs.prepare(c, tmp_path)


def test_reconstruction_wants_a_first_stage(c, tmp_path):
    path = tmp_path / "unet.safetensors"
    own.save_weights(path, {"unet": {"bias": np.zeros(1)}}, {}, {})
    with pytest.raises(ValueError, match="holds no first stage: name one"):
        reconstruction.model(tiny_autoencoder.get_config(), weights=path)
    with pytest.raises(ValueError, match="trains no first stage: leave --workdir out"):
        reconstruction.model(c, workdir=tmp_path)


def test_a_run_without_checkpoints_is_named(c, tmp_path):
    with pytest.raises(FileNotFoundError, match="no checkpoints folder .*checkpoints"):
        runs.latest_params(c, tmp_path)


def test_what_cannot_be_sampled_from_is_refused(c, stage, tmp_path):
    with pytest.raises(ValueError, match="--workdir needs the --config"):
        generation.load(workdir=tmp_path)
    with pytest.raises(ValueError, match="--workdir and --weights exclude"):
        generation.load(c, tmp_path, stage)
    with pytest.raises(ValueError, match="'autoencoder' does not sample"):
        generation.load(tiny_autoencoder.get_config(), tmp_path)
    with pytest.raises(ValueError, match="holds no diffusion model of ldm_jax"):
        generation.load(c, weights=stage)
    with pytest.raises(ValueError, match="'dimm' is not one of"):
        generation.load(c, tmp_path, overrides={"sampler": "dimm"})
    with pytest.raises(FileNotFoundError, match="no weights file .*none.safetensors"):
        generation.load(weights=tmp_path / "none.safetensors")


def test_a_diffusion_model_wants_its_own_first_stage(c, tmp_path):
    path = tmp_path / "model.safetensors"
    meta = {"first_stage": "0123456789ab"}
    own.save_weights(path, {"unet": {"bias": np.zeros(1)}}, c.to_dict(), meta)
    with pytest.raises(ValueError, match="latents of first stage 0123456789ab, but"):
        generation.load(weights=path)


CONFIG_FILE = """
import tiny_text_to_image

def get_config():
    c = tiny_text_to_image.get_config()
    {line}
    return c
"""
IN_A_FILE = {
    "c.unet.chanels = 3": 'Did you mean "channels" instead of "chanels"',
    "c.unet.update(chanels=3)": 'Did you mean "channels" instead of "chanels"',
    "c.unet.channels = 'many'": "channels",
    "c.unet = dict(chanels=3)": "unet.chanels (did you mean unet.channels?)",
    "c.unet = None": "unet.channels",
    "c.unet.update(mult=(1, 2), depths=(0, 1, 1, 1))": "unet.depths (0, 1, 1, 1) must",
}
ON_THE_COMMAND_LINE = {
    "--config.unet.chanels=3": 'Did you mean "channels" instead of "chanels"',
    "--config.unet.channels=many": "unet.channels",
    "--config.unet.depths=(0,1,1,1)": "unet.depths (0, 1, 1, 1) must have one entry",
    "--config.data.batch_size=0": "data.batch_size is 0, it must be at least 1",
    "--wokdir=elsewhere": "Did you mean: workdir",
    "--process=1": "need --distributed",
}


def test_mistakes_in_files_and_flags_are_told(tmp_path):
    workdir = f"--workdir={tmp_path / 'run'}"
    missing = f"--config={tmp_path / 'none.py'}"
    cases = {(missing, workdir): str(tmp_path / "none.py"), (workdir,): "--config"}
    for i, (line, words) in enumerate(IN_A_FILE.items()):
        path = tmp_path / f"config_{i}.py"
        path.write_text(CONFIG_FILE.format(line=line))
        cases[f"--config={path}", workdir] = words
    for flag, words in ON_THE_COMMAND_LINE.items():
        cases[f"--config={commands.CONFIG}", flag, workdir] = words
    code, printed = commands.run("mistakes", "ldm_jax.train", json.dumps([*cases]))
    assert code == 0, printed
    told = json.loads(printed.splitlines()[-1])
    for (arguments, words), (code, printed) in zip(cases.items(), told, strict=True):
        assert code == 2, (arguments, printed)
        assert words in printed, arguments
        assert "Traceback" not in printed, arguments
    assert not (tmp_path / "run").exists()


def test_a_truncated_weights_file_is_told(stage, tmp_path):
    short = tmp_path / "short.safetensors"
    short.write_bytes(stage.read_bytes()[:5000])
    flags = [f"--weights={short}", "--prompt=a fox"]
    code, printed = commands.run("ldm_jax.sample", *flags)
    assert code == 2, printed
    assert "Traceback" not in printed
    assert f"{short} is not a whole safetensors file" in printed


@pytest.mark.parametrize(
    ("command", "names"),
    [
        ("train", ("config", "workdir", "distributed", "debug")),
        ("inspect_data", ("config", "out", "debug")),
        ("convert", ("config", "from", "debug")),
        ("fetch", ("archive", "debug")),
    ],
)
def test_help_shows_the_flags_that_commands_share(command, names):
    _, printed = commands.run(f"ldm_jax.{command}", "--help")
    for name in names:
        assert re.search(rf"^  --(\[no\])?{name}:", printed, re.MULTILINE), name


def test_debug_shows_where(tmp_path):
    flags = [f"--config={commands.CONFIG}", f"--workdir={tmp_path}", "--debug"]
    code, printed = commands.run("ldm_jax.train", *flags)
    assert code == 1
    assert "Traceback" in printed and "first_stage.weights is empty" in printed
