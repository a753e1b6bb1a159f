"""What frozen text encoders say of captions, kept: training's numbers stay the same."""

import re

import commands
import helpers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_stable_diffusion
import tqdm

from ldm_jax import config as config_lib
from ldm_jax import (
    config_saved,
    encoding,
    frozen,
    inputs,
    kept_texts,
    names,
    runs,
    system,
    train_step,
)
from ldm_jax.data import latents
from ldm_jax.weights import own

N, BATCH = 6, 4
VARIANTS = ("text", "v1", "xl-base", "xl-refiner")


def encode(c, folder, **changes):
    told = dict(n=N, split="train", shard=4, dtype="float32", batch_size=4)
    told |= {"progress": lambda total: tqdm.tqdm(total=total, disable=True)}
    return encoding.encode(c, folder, **(told | {"texts": True} | changes))


def config_of(variant):
    """A model whose text encoder is not trained, of half dropped captions."""
    if variant == "text":
        c = commands.config_on("").copy_and_resolve_references()
        c.cond_stage.pooled = True
    else:
        c = tiny_stable_diffusion.get_config(variant).copy_and_resolve_references()
        c.first_stage.mid_attention = False
    c.unet.update(mult=(1,), depths=(1,), mid_depth=0)
    c.data.batch_size = BATCH
    c.cond_stage.drop = 0.5
    c.train.trainable = ("unet",)
    return c


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """variant -> (a config on files of random weights, its folder in float32)."""
    made = {}

    def place(variant):
        if variant not in made:
            where = tmp_path_factory.mktemp(variant)
            c = config_of(variant)
            write(c, where)
            encode(config_lib.check(c), where / "kept")
            made[variant] = c, where / "kept"
        c, folder = made[variant]
        return c.copy_and_resolve_references(), folder

    return place


def write(c, where, seed=0):
    """Names files of random weights in a config, and writes them."""
    shapes = jax.eval_shape(system.build(c).init, jax.random.key(0))
    params = helpers.random_params(shapes, seed=seed)
    stage, rest = where / "stage.safetensors", where / f"start{seed}.safetensors"
    first = {"first_stage": params.pop("first_stage")}
    own.save_weights(stage, first, c.to_dict(), {"scale": c.first_stage.scale})
    own.save_weights(rest, params, c.to_dict(), {})
    c.first_stage.weights, c.train.init = str(stage), str(rest)


def reading(c, folder, texts=True):
    c = c.copy_and_resolve_references()
    c.data.update(latents=str(folder), texts=texts)
    return config_lib.check(c)


def first_batch(c):
    """The first four examples of a config's kept data, as its system is given them."""
    source = latents.open_kept(c.data.latents, inputs.made_from(c, "train"))
    made = [inputs.prepare(c)(source[i]) for i in range(BATCH)]
    batch = system.build(c).batch
    found = {key: jnp.stack([example[key] for example in made]) for key in batch}
    for key, shape in batch.items():
        assert (found[key].shape, found[key].dtype) == (shape.shape, shape.dtype)
    return found


def gradients(c):
    """A function from a batch to a config's training gradients and loss on it."""
    built, keys = system.build(c), jax.random.split(jax.random.key(3), BATCH)
    shapes = jax.eval_shape(built.init, jax.random.key(0))
    given, rest = frozen.start(c, built)
    params, rest = jax.tree.map(lambda x: jnp.asarray(x.read()), (given, rest))
    rest |= frozen.load(c)
    assert params.keys() | rest.keys() == shapes.keys() and params.keys() == {"unet"}

    @jax.jit
    def run(batch):
        grads, _, numbers = built.grads(params, rest, {}, jnp.int32(0), keys, batch)
        return grads, numbers["loss"]

    return run


@pytest.mark.parametrize("variant", VARIANTS)
def test_gradients_are_those_of_captions(places, variant):
    """Of the same keys, dropped captions among them; and the texts are heard."""
    c, folder = places(variant)
    told, spoken = reading(c, folder), reading(c, folder, False)
    batch, captions = first_batch(told), first_batch(spoken)
    ports = {"told_context"} | ({"told_vector"} if c.cond_stage.pooled else set())
    moments = {"latent_mean", "latent_logvar"}
    assert batch.keys() == moments | ports
    assert captions.keys() == moments | {"tokens"} | (
        {"micro"} if c.cond_stage.micro else set()
    )
    run = gradients(told)
    (found, loss), (wanted, wanted_loss) = run(batch), gradients(spoken)(captions)
    assert float(loss) == pytest.approx(float(wanted_loss), rel=1e-5)
    scale = max(float(jnp.abs(x).max()) for x in jax.tree.leaves(wanted))
    assert helpers.largest_difference(found, wanted) < 1e-4 * scale

    # Row 0 is dropped and row 1 is not: only what is told of row 1 counts.
    changed = {key: batch[key] for key in batch}
    losses = []
    for row in range(BATCH):
        for key in ports:
            changed[key] = batch[key].at[row].add(1.0)
        losses.append(float(run(changed)[1]))
    same = [value == float(loss) for value in losses]
    assert {True, False} == set(same), losses


def test_what_is_kept_is_what_the_encoder_says(places):
    c, folder = places("xl-base")
    built, kept = system.build(c), latents.open_kept(folder, {})
    drawn, give = inputs.drawn_source(c, "train"), inputs.prepare(c)
    _, rest = frozen.start(c, built)
    params = jax.tree.map(lambda x: jnp.asarray(x.read()), rest)
    say = jax.jit(built.condition)
    for i in (0, N - 1):
        told = give(drawn[i])
        one = {key: told[key][None] for key in ("tokens", "micro")}
        cond = say(params, one)
        np.testing.assert_allclose(kept[i]["told_context"], cond.context[0], atol=1e-5)
        np.testing.assert_allclose(kept[i]["told_vector"], cond.vector[0], atol=1e-5)
        assert kept[i]["caption"] == drawn[i]["caption"]
    assert helpers.largest_difference(kept[0]["told_context"], cond.context[0]) > 0.1


def test_float16_changes_them_a_little(places, tmp_path):
    c, folder = places("v1")
    encode(c, tmp_path, n=4, dtype="float16")
    half, whole = (latents.open_kept(path, {})[1] for path in (tmp_path, folder))
    assert half["told_context"].dtype == np.float32
    gap = helpers.largest_difference(half["told_context"], whole["told_context"])
    assert 0 < gap < 2e-3 * np.abs(whole["told_context"]).max()


def test_a_step_takes_them_and_validation_takes_captions(places, tmp_path):
    """Traced, not compiled; the encoder is frozen, and is there for the null."""
    c, folder = places("v1")
    c = reading(c, folder)
    run = runs.prepare(c, tmp_path)
    assert run.frozen.keys() == {"first_stage", "cond_stage"}
    assert run.system.heldout.keys() == {"image", "tokens"}
    with inputs.batches(c, tuple(run.system.batch)) as batches:
        batch = next(batches)
    tx, rate = runs.optimizer(c)
    step = train_step.make_train_step(
        run.system.grads, tx, rate, seed=0, ema_decay=0.9, accumulate=2
    )
    state, numbers = jax.eval_shape(step, run.state, run.frozen, batch)
    assert jax.tree.map(np.shape, state) == jax.tree.map(np.shape, run.state)
    assert numbers["loss"].shape == ()
    (example,) = inputs.held_out(c, 1, 0)
    assert example["image"].shape == (16, 16, 3) and example["tokens"].shape == (77,)
    assert system.condition_shapes(c).context.shape == (1, 77, 32)
    run.manager.close()


def test_a_shard_is_written_again_with_the_same_bytes(places, tmp_path):
    c, folder = places("v1")
    whole = {path.name: path.read_bytes() for path in folder.glob("*.array_record")}
    encode(c, tmp_path)
    (tmp_path / min(whole)).unlink()
    with pytest.raises(FileNotFoundError, match="--dtype=float32 --texts writes them"):
        inputs.check(reading(c, tmp_path))
    assert encode(c, tmp_path)["written"] == 4
    for name, data in whole.items():
        assert (tmp_path / name).read_bytes() == data


def refused(c, folder, words):
    for use in (
        lambda: inputs.check(reading(c, folder)),
        lambda: encode(c, folder),
    ):
        with pytest.raises(ValueError, match=words):
            use()


def test_another_encoder_is_refused(places, tmp_path):
    c, folder = places("v1")
    stage = c.first_stage.weights
    write(c, tmp_path, seed=1)
    c.first_stage.weights = stage
    refused(c, folder, "made with train.init '[0-9a-f]{12}', now it is '[0-9a-f]{12}'")
    inputs.check(reading(c, folder, False))  # the latents are still theirs


@pytest.mark.parametrize(
    ("key", "value"),
    [("skip", (1,)), ("length", 154), ("cleaning", "ftfy"), ("dtype", "bfloat16")],
)
def test_another_reading_of_captions_is_refused(places, key, value):
    c, folder = places("v1")
    c.cond_stage[key] = value
    value = list(value) if isinstance(value, tuple) else value
    refused(c, folder, f"with cond_stage.{key} .*, now it is {re.escape(repr(value))}")


def test_other_sizes_are_refused(places):
    """They are part of what is kept."""
    c, folder = places("xl-base")
    c.cond_stage.micro = ("target_size", "crop", "original_size")
    refused(c, folder, r"made with cond_stage.micro .*, now it is \['target_size', 'cr")


def test_another_vocabulary_is_refused_wherever_it_lies(places, tmp_path):
    c, folder = places("text")
    pieces = inputs.paths.resolve(c.cond_stage.vocabulary).read_text(encoding="utf-8")
    copy = tmp_path / "pieces.txt"
    c.cond_stage.vocabulary = str(copy)
    copy.write_text(pieces, encoding="utf-8")
    inputs.check(reading(c, folder))
    *rest, before, last = pieces.splitlines()
    copy.write_text("\n".join([*rest, last, before]) + "\n", encoding="utf-8")
    refused(c, folder, "made with cond_stage.vocabulary '[0-9a-f]{12}', now it is")


@pytest.mark.parametrize(("key", "value"), [("drop", 0.9), ("null_tokens", ())])
def test_what_does_not_change_a_text_may_differ(places, key, value):
    c, folder = places("v1")
    c.cond_stage[key] = value
    inputs.check(reading(c, folder))


def test_a_folder_has_them_or_not(places, tmp_path):
    c, folder = places("v1")
    encode(c, tmp_path, texts=False)
    about = latents.read_about(tmp_path)
    assert about["texts"] == {}
    assert not any(kept_texts.is_kept(field.name) for field in about["fields"])
    words = "keeps no texts, which data.texts reads: .*--texts keeps them"
    refused(c, tmp_path, words)
    with pytest.raises(ValueError, match="made with --texts True, now it is False"):
        encode(c, folder, texts=False)
    # A config that reads them keeps them, flag or not.
    assert encode(reading(c, folder), folder, texts=False)["written"] == 0


RULES = {
    "train.trainable has ['cond_stage'], which reach into": dict(
        train=dict(trainable=("unet", "cond_stage"))
    ),
    "train.trainable has ['*norm*'], which reach into": dict(
        train=dict(trainable=("*norm*", "unet/up_*"))
    ),
    "train.redrawn has ['cond_stage/clip_tiny/tokens'], which": dict(
        train=dict(redrawn=("cond_stage/clip_tiny/tokens",))
    ),
    "train.init is '', it must name the file": dict(train=dict(init="")),
    "cond_stage.kind is 'none', and only": dict(
        cond_stage=dict(
            **dict(kind="none", drop=0.0, encoders=(), skip=(), final_norm=())
        ),
        sample=dict(scale=1.0),
    ),
}


@pytest.mark.parametrize("words", RULES)
def test_what_cannot_be_kept_is_refused(words, tmp_path):
    c = config_of("v1")
    c.train.init = "start.safetensors"
    reading(c, "kept")
    for section, changes in RULES[words].items():
        c[section].update(changes)
    config_lib.check(c)
    words = re.escape(f"data.texts (encode --texts) must be False: {words}")
    with pytest.raises(ValueError, match=words):
        reading(c, "kept")
    with pytest.raises(ValueError, match=words):
        encode(c, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("task", config_lib.BASES)
def test_they_lie_with_the_latents(task):
    c = config_lib.BASES[task]()
    c.data.texts = True
    with pytest.raises(ValueError, match="data.texts True reads what .*: name it"):
        config_lib.check(c)


@pytest.mark.parametrize(
    ("pattern", "reaches"),
    [
        ("cond_stage", True),
        ("cond_stage/text/block_11/*", True),
        ("*", True),
        ("*/kernel", True),
        ("*norm*", True),
        ("co[mn]d_stag?", True),
        ("unet", False),
        ("unet/*cond_stage/x", False),
        ("cond_stages", False),
        ("cond", False),
    ],
)
def test_a_pattern_reaches_what_it_can_cover(pattern, reaches):
    assert names.reaches(pattern, "cond_stage") == reaches
    paths = ("cond_stage/text/block_11/norm_out/kernel", "cond_stage/x")
    assert any(names.covers(pattern, path) for path in paths) == reaches


def test_a_model_that_was_trained_on_them_needs_them_no_more():
    """Its config names a folder and a file; building and older files do not look."""
    c = config_of("v1")
    c.train.init = "no/such.safetensors"
    built = system.build(reading(c, "no/such/folder"))
    shapes = jax.eval_shape(built.init, jax.random.key(0))
    assert set(shapes) == {"first_stage", "cond_stage", "unet"}
    older = c.to_dict()
    del older["data"]["texts"]
    assert config_saved.from_dict(older).data.texts is False


def test_the_commands(tmp_path):
    """Kept by a flag, read by a knob: a run of two steps."""
    c = config_of("text")
    write(c, tmp_path)
    flags = [
        f"--config={commands.CONFIG}",
        f"--config.first_stage.weights={c.first_stage.weights}",
        f"--config.train.init={c.train.init}",
        *("--config.train.trainable=('unet',)", "--config.cond_stage.pooled=True"),
    ]
    kept = tmp_path / "kept"
    told = ("--texts", f"--n={N}", "--shard=4", "--dtype=float32", f"--out={kept}")
    code, printed = commands.run("ldm_jax.encode", *flags, *told)
    assert code == 0, printed
    assert f"{N} pictures in" in printed
    from_it = (f"--config.data.latents={kept}", "--config.data.texts=True")
    steps = ("--config.train.steps=2", f"--workdir={tmp_path / 'run'}")
    code, printed = commands.run("ldm_jax.train", *flags, *from_it, *steps)
    assert code == 0, printed
    losses = [row["loss"] for row in commands.rows(tmp_path / "run") if "loss" in row]
    assert len(losses) == 2 and np.all(np.isfinite(losses))
