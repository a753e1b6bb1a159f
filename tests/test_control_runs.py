"""Runs of control branches: begun with a base, exported, joined to it, resumed."""

import re
import types

import commands
import helpers
import jax
import numpy as np
from PIL import Image
import pytest
import tiny_text_to_image

from ldm_jax import (
    album,
    config,
    control,
    exporting,
    frozen,
    generation,
    inputs,
    joining,
    metrics,
    runs,
    sharding,
    system,
    train,
    validation,
)
from ldm_jax import prompts as prompts_lib
from ldm_jax.weights import own

PROMPTS = ("a fox", "an owl", "a castle", "a red apple")
STEPS = 3


def config_of(base, names=("canny",), **changes):
    c = tiny_text_to_image.get_config()
    c.first_stage.weights = str(base.stage)
    c.cond_stage.drop = 0.5
    c.control.update(hints=names, channels=(4, 8))
    c.train.update(steps=STEPS, checkpoint_every=100, validate_every=100)
    c.train.update(picture_every=100, trainable=names[:1], init=str(base.file))
    c.train.update(changes)
    return config.check(c)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A model of random weights in a file, and its first stage in another."""
    folder = tmp_path_factory.mktemp("base")
    stage = commands.first_stage(folder / "stage.safetensors")
    c = commands.config_on(stage)
    shapes = jax.eval_shape(system.build(c).init, jax.random.key(0))
    del shapes["first_stage"]
    params = helpers.random_params(shapes, seed=3)
    file = folder / "base.safetensors"
    own.save_weights(file, params, c.to_dict(), {"first_stage": frozen.digest(c)})
    return types.SimpleNamespace(folder=folder, stage=stage, file=file, params=params)


def gap(a, b):
    return helpers.largest_difference(a, b)


def steps(c, workdir, count, step=None):
    """Goes on with a run for so many steps: its last state, the losses, the step."""
    run, losses = runs.prepare(c, workdir), []
    step = step or train.compile_step(run)
    with inputs.batches(c, tuple(run.system.batch), start=run.start) as batches:
        for _ in range(count):
            batch = sharding.put_batch(next(batches), run.mesh)
            run.state, told = step(run.state, run.frozen, batch)
            losses.append(float(told["loss"]))
    runs.save(run, int(run.state.step))
    run.manager.wait_until_finished()
    run.manager.close()
    return jax.device_get(run.state), losses, step


@pytest.fixture(scope="module")
def trained(base):
    """A whole run of the command's, validated and drawn from at its end."""
    c, workdir = config_of(base), base.folder / "run"
    assert train.train(c, workdir) == 0
    file = base.folder / "canny.safetensors"
    meta = exporting.export(c, workdir, file, "float32", 0)
    params, step = jax.device_get(runs.latest_params(c, workdir))
    told = dict(config=c, workdir=workdir, file=file, meta=meta, params=params)
    return types.SimpleNamespace(**told, step=step)


@pytest.fixture(scope="module")
def depth(base):
    """A branch of random weights for another hint, as `export` writes it."""
    c = config_of(base, ("depth",))
    params = helpers.random_params(
        jax.eval_shape(system.init_control(c), jax.random.key(0)), seed=5
    )
    file = base.folder / "depth.safetensors"
    meta = {"hint": "depth", "first_stage": frozen.digest(c)}
    own.save_weights(file, {frozen.BRANCH: params}, c.to_dict(), meta)
    return file


def joined(base, *named):
    told = joining.with_branches(list(map(str, named)))
    return generation.load(weights=base.file, overrides=told)


def hinted(model):
    """What a model is told: prompts, and hints of noise."""
    gen, size = np.random.default_rng(0), model.config.data.image_size
    batch = prompts_lib.arrays(model, PROMPTS)
    for name in ("canny", "depth"):
        batch[control.key(name)] = gen.integers(0, 256, (4, size, size, 3), np.uint8)
    known = set(model.system.heldout) | {"negative_tokens"}
    return {name: batch[name] for name in batch if name in known}


def draw(model, leave=()):
    batch = {k: v for k, v in hinted(model).items() if k not in leave}
    keys = generation.keys(0, np.arange(4))
    return np.concatenate([*generation.generate(model, batch, keys, 4)])


@pytest.fixture(scope="module")
def drawn(base, trained):
    return draw(joined(base, trained.file))


# A run


@pytest.fixture(scope="module")
def begun(base):
    """A Run before its first step."""
    run = runs.prepare(config_of(base), base.folder / "begun")
    run.manager.close()
    return run


def test_a_run_begins_as_the_base_is(base, begun):
    """The branch has its trunk, and says nothing; the rest is as in the file."""
    run = begun
    branch = jax.device_get(run.state.params["canny"])
    assert run.state.params.keys() == {"canny"}
    assert gap(branch["trunk"], base.params["unet"]["trunk"]) == 0
    for name, layer in branch.items():
        if name.startswith(("zero_", "hint_out")):
            assert not any(x.any() for x in layer.values()), name
        elif name.startswith("hint_"):
            assert layer["kernel"].any(), name
    assert set(run.frozen) == {"first_stage", "unet", "cond_stage"}
    for role, held in base.params.items():
        assert gap(jax.device_get(run.frozen[role]), held) == 0, role


def test_a_run_leaves_the_base_alone_and_says_how_it_goes(base, trained):
    assert trained.step == STEPS
    for role, held in base.params.items():
        assert gap(trained.params[role], held) == 0, role
    branch = trained.params["canny"]
    moved = gap(branch["trunk"], base.params["unet"]["trunk"])
    assert 0 < moved < 0.1 and np.any(branch["zero_mid"]["kernel"])
    rows = {row["kind"]: row for row in metrics.read(trained.workdir / "metrics.jsonl")}
    said = rows["validation"]
    assert all(said[f"residual_canny_{i:02}"] > 0 for i in range(3))
    assert "residual_canny_03" not in said and np.isfinite(said["loss_simple"])
    watched = rows["control"]
    drifts = {f"drift_{colour}" for colour in ("red", "green", "blue")}
    assert {"adherence_canny", *drifts} < watched.keys()
    assert 0 <= watched["adherence_canny"] <= 1
    with Image.open(trained.workdir / "pictures" / "0000003.png") as sheet:
        assert sheet.width == 2 + 2 * 18 and sheet.height == 2 + 2 * 18


def test_a_run_that_was_cut_off_goes_on_to_the_same_numbers(base, trained, tmp_path):
    """By this loop in two parts as by the command's in one."""
    c = config_of(base)
    _, first, step = steps(c, tmp_path, 1)
    state, rest, _ = steps(c, tmp_path, STEPS - 1, step)
    rows = metrics.read(trained.workdir / "metrics.jsonl")
    losses = [row["loss"] for row in rows if row["kind"] == "train"]
    assert len(set(losses)) == STEPS
    np.testing.assert_allclose(first + rest, losses, rtol=1e-6)
    assert int(state.step) == STEPS and gap(state.ema, state.params) > 0
    assert gap(state.ema["canny"], trained.params["canny"]) == 0


def test_another_base_under_a_run_is_refused(base, trained, tmp_path):
    other = tmp_path / "other.safetensors"
    params, saved, meta = own.load_weights(base.file)
    params["unet"]["conv_out"]["bias"] += 1
    own.save_weights(other, params, saved, meta)
    c = trained.config.copy_and_resolve_references()
    c.train.init = str(other)
    with pytest.raises(ValueError, match="began with train.init .* is .* as it was"):
        runs.prepare(c, trained.workdir)


def test_a_locked_base_may_be_held_in_bfloat16(base, begun, tmp_path):
    """Half the memory; the loss is nearly the same. The branch is float32."""
    narrow = runs.prepare(config_of(base, frozen_dtype="bfloat16"), tmp_path)
    narrow.manager.close()
    losses = []
    for run, dtype in ((begun, "float32"), (narrow, "bfloat16")):
        dtypes = {role: dtypes_of(held) for role, held in run.frozen.items()}
        wanted = {"unet": {dtype}, "cond_stage": {dtype}, "first_stage": {"float32"}}
        assert dtypes == wanted
        assert dtypes_of(run.state.params) == {"float32"}
        told = run.config, run.system, run.mesh, run.frozen
        found = validation.Validator(*told).numbers(run.state)
        assert not any(found[f"residual_canny_{i:02}"] for i in range(3))
        losses.append(found["loss_simple"])
    assert 0 < abs(losses[0] - losses[1]) < 0.05 * losses[0]


def test_what_is_all_trained_has_nothing_to_hold_in_bfloat16(base, tmp_path):
    c = config_of(base, frozen_dtype="bfloat16")
    c.train.trainable = ("canny", "unet", "cond_stage")
    with pytest.raises(ValueError, match="frozen_dtype 'bfloat16' does nothing: all"):
        runs.prepare(c, tmp_path)


def dtypes_of(tree):
    return {x.dtype.name for x in jax.tree.leaves(tree)}


def test_what_a_run_begins_with_must_have_its_base(base, depth, tmp_path):
    c = config_of(base)
    c.train.init = str(depth)
    with pytest.raises(ValueError) as caught:
        runs.prepare(c, tmp_path)
    assert f"train.init {depth} is a control branch alone" in str(caught.value)
    c.train.init = ""
    with pytest.raises(
        ValueError, match="neither in train.trainable .'canny',. nor lo"
    ):
        runs.prepare(c, tmp_path)
    c.train.init = str(base.folder / "none.safetensors")
    with pytest.raises(FileNotFoundError, match="none.safetensors"):
        runs.prepare(c, tmp_path)


def test_a_branch_in_the_file_is_taken_as_it_is(base, tmp_path):
    """A whole model with a branch begins another run: that trunk stays, too."""
    c = config_of(base, ("canny", "depth"))
    shapes = jax.eval_shape(system.build(c).init, jax.random.key(0))
    branch = helpers.random_params(shapes["canny"], seed=9)
    file, meta = tmp_path / "both.safetensors", {"first_stage": frozen.digest(c)}
    own.save_weights(file, base.params | {"canny": branch}, c.to_dict(), meta)
    c.train.update(init=str(file), trainable=("depth",))
    given, rest = frozen.start(c, system.build(c))
    assert given.keys() == {"depth"} and given["depth"].keys() == {"trunk"}
    read = lambda tree: jax.tree.map(lambda leaf: leaf.read(), tree)
    assert gap(read(given["depth"]["trunk"]), base.params["unet"]["trunk"]) == 0
    assert rest.keys() == {"unet", "cond_stage", "canny"}
    assert gap(read(rest["canny"]), branch) == 0
    c.train.redrawn = ("depth",)
    assert frozen.start(c, system.build(c))[0] == {}


def test_a_branch_goes_on_from_its_file(base, trained, tmp_path, capfd):
    c = config_of(base)
    c.control.init = (str(tmp_path / "canny.safetensors"),)
    params, saved, meta = own.load_weights(trained.file)

    def write(**changes):
        own.save_weights(c.control.init[0], params, saved | changes, meta)

    write()
    run = runs.prepare(config.check(c), tmp_path / "run")
    assert gap(run.state.params["canny"], trained.params["canny"]) == 0
    assert run.state.params.keys() == {"canny"}
    assert "was trained over" not in "".join(capfd.readouterr())
    runs.save(run, 0)
    run.manager.wait_until_finished()
    run.manager.close()
    c.control.update(hints=("canny", "depth"), init=(*c.control.init, ""))
    given, rest = frozen.start(c, system.build(c))
    assert "zero_0" in given["canny"] and rest["depth"].keys() == {"trunk"}
    c.control.update(hints=("canny",), init=c.control.init[:1])
    meta["base"] = "0123456789ab"
    write()
    runs.prepare(c, tmp_path / "other").manager.close()
    assert "was trained over 0123456789ab" in "".join(capfd.readouterr())
    # Another file under the run, and what is none for it.
    params["control"]["zero_0"]["bias"] += 1
    write()
    with pytest.raises(ValueError, match="with branches of .*; control.init .* is now"):
        runs.prepare(c, tmp_path / "run")
    meta["hint"] = "depth"
    write()
    with pytest.raises(ValueError, match="hears 'depth', and it is to begin .* 'canny"):
        runs.prepare(c, tmp_path / "new")
    meta["hint"] = "canny"
    write(loss=saved["loss"] | {"predicts": "v"})
    with pytest.raises(ValueError, match="control.init .* its loss is v, not eps"):
        runs.prepare(c, tmp_path / "new")
    params["control"]["zero_0"]["bias"] = np.zeros(3)
    write()
    with pytest.raises(ValueError, match="control.init .* does not fit"):
        runs.prepare(c, tmp_path / "new")
    c.control.init = (str(base.file),)
    with pytest.raises(ValueError, match="base.safetensors holds no control branch"):
        runs.prepare(c, tmp_path / "new")


def test_a_model_with_a_branch_needs_no_other_file_of_it(base, trained, tmp_path):
    c = config_of(base)
    whole, meta = tmp_path / "whole.safetensors", {"first_stage": frozen.digest(c)}
    held = base.params | {"canny": trained.params["canny"]}
    own.save_weights(whole, held, c.to_dict(), meta)
    c.train.init, c.control.init = str(whole), (str(trained.file),)
    with pytest.raises(ValueError, match="holds a branch 'canny' itself"):
        runs.prepare(c, tmp_path / "run")


# Its file


def test_an_export_holds_the_branch_alone_and_says_of_what_it_is(base, trained):
    params, saved, meta = own.load_weights(trained.file)
    assert params.keys() == {"control"}
    assert gap(params["control"], trained.params["canny"]) == 0
    assert meta["hint"] == "canny" and meta["base"] == own.digest(base.file)
    assert meta["first_stage"] == own.digest(base.stage)
    assert meta["step"] == STEPS and saved["control"]["channels"] == [4, 8]
    assert trained.meta["parameters"] == helpers.count(params)


def test_an_unlocked_run_is_exported_whole(base, tmp_path):
    """What also trains the base is no branch that joins any other."""
    for patterns in (("canny", "unet/up_*"), ("unet",), ("canny", "depth")):
        c = config_of(base, ("canny", "depth"), trainable=patterns)
        assert exporting._branch_alone(c) is None
    assert exporting._branch_alone(config_of(base, ("canny", "depth"))) == "canny"


def test_the_branch_and_its_base_draw_what_the_run_draws(trained, drawn):
    model = generation.load(trained.config, trained.workdir)
    assert np.isfinite(drawn).all() and drawn.shape == (4, 16, 16, 3)
    np.testing.assert_allclose(draw(model), drawn, atol=1e-5)


def test_a_branch_that_hears_nothing_draws_what_the_base_draws(base, trained, drawn):
    model = joined(base, trained.file)
    np.testing.assert_allclose(
        draw(model, leave=("hint_canny",)),
        draw(generation.load(weights=base.file)),
        atol=1e-5,
    )
    assert np.abs(draw(model, leave=("hint_canny",)) - drawn).max() > 1e-3


def test_two_branches_are_heard_together(base, trained, depth, drawn):
    """In the order in which they are named; each may be silenced."""
    model = joined(base, trained.file, depth)
    assert model.config.control.hints == ("canny", "depth")
    assert model.params.keys() == {*base.params, "first_stage", "canny", "depth"}
    both = draw(model)
    assert np.isfinite(both).all() and np.abs(both - drawn).max() > 1e-2
    model.config.sample.hint_strengths = (1.0, 0.0)
    np.testing.assert_allclose(draw(model), drawn, atol=1e-5)


def test_a_job_is_another_one_when_its_branch_is(base, trained, tmp_path):
    """Written again to the same place, it would finish the pictures of the old one."""
    file = tmp_path / "canny.safetensors"
    params, saved, meta = own.load_weights(trained.file)
    hashes = []
    for only_mid in (False, False, True):
        saved["control"]["only_mid"] = only_mid
        own.save_weights(file, params, saved, meta)
        hashes.append(album._hash(joined(base, file)))
        params["control"]["zero_0"]["bias"] += not hashes[1:]
    assert len(set(hashes)) == 3


def test_a_run_with_a_branch_is_joined_by_no_other(trained, depth):
    told = joining.with_branches([str(depth)])
    with pytest.raises(ValueError, match="hears canny by itself, and --control names"):
        generation.load(trained.config, trained.workdir, overrides=told)


def test_branches_that_began_otherwise_are_joined(base, trained, depth, tmp_path):
    """Only what they are has to be alike."""
    path = tmp_path / "gaussian.safetensors"
    params, saved, meta = own.load_weights(depth)
    saved["control"]["connections"] = "gaussian"
    own.save_weights(path, params, saved, meta)
    assert joined(base, trained.file, path).config.control.hints == ("canny", "depth")


def test_a_branch_joins_a_released_model_whose_latents_nobody_knows(
    base, trained, capfd
):
    """It has no first stage in a file of its own, as with --checkpoint."""
    config = joined(base, trained.file).config.copy_and_resolve_references()
    shapes = jax.eval_shape(system.build(config).init, jax.random.key(0))
    capfd.readouterr()
    told = {
        "": "",
        own.digest(base.file): "",
        "0123456789ab": "was trained over .*, this model is 0123456789ab",
    }
    for digest, words in told.items():
        assert joining.branches(config, shapes, digest).keys() == {"canny"}
        assert re.search(words, said := "".join(capfd.readouterr()), re.DOTALL)
        assert bool(said) == bool(words)
    config.first_stage.weights = ""
    assert joining.branches(config, shapes, "").keys() == {"canny"}
    assert "whether that is this model's is not known" in "".join(capfd.readouterr())


REFUSED = {
    "base": "base.safetensors holds no control branch, only ['cond_stage', 'unet']",
    "unsaid": "does not say which hint it hears: name it, as canny=",
    "unknown": "did you mean 'canny'? What hears no kind among them is named given=",
    "twice": "two branches hear 'canny': ",
    "unlike": "differ in their section control",
    "schedule": "cannot join this model: its schedule is {",
    "predicts": "cannot join this model: its loss is v, not eps",
    "stage": "is of the latents of another first stage, 0123456789ab",
    "wider": "branch.safetensors does not fit this config:\n"
    "shape (1): hint_0/kernel saved (3, 3, 3, 6) wanted (3, 3, 3, 4)",
    "no_file": "no weights file",
    "no_weights": "is not a whole safetensors file",
    "first_stage": "holds no control branch",
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_wrong_file_is_refused(base, trained, depth, tmp_path, case):
    params, saved, meta = own.load_weights(trained.file)
    path, named = tmp_path / "branch.safetensors", None
    if case == "schedule":
        saved["schedule"]["beta_end"] = 0.5
    elif case == "predicts":
        saved["loss"]["predicts"] = "v"
    elif case == "stage":
        meta["first_stage"] = "0123456789ab"
    elif case == "unsaid":
        del meta["hint"]
    elif case in ("wider", "unlike"):
        params["control"]["hint_0"]["kernel"] = np.zeros((3, 3, 3, 6))
        if case == "unlike":
            saved["control"]["channels"] = [6, 8]
            named = [path, depth]
    own.save_weights(path, params, saved, meta)
    if case == "no_weights":
        path.write_text("no weights")
    named = named or {
        "base": [f"canny={base.file}"],
        "unknown": [f"cany={path}"],
        "twice": [trained.file, f"canny={depth}"],
        "no_file": [tmp_path / "none.safetensors"],
        "first_stage": [f"canny={base.stage}"],
    }.get(case, [path])
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        joined(base, *named)
    assert REFUSED[case] in str(caught.value)


def test_a_first_stage_model_is_told_to_be_no_branch(base, tmp_path):
    """A file of another task has no section control."""
    path = tmp_path / "stage.safetensors"
    c = helpers.tiny_autoencoder_config()
    own.save_weights(path, {"first_stage": {"a": np.zeros(1)}}, c.to_dict(), {})
    with pytest.raises(ValueError, match="stage.safetensors"):
        joining.with_branches([f"canny={path}"])


def test_no_branch_changes_nothing():
    assert joining.with_branches([]) == {}
