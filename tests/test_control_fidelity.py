"""How well hints are obeyed: figures of hand-made cases, and what a run watches."""

import contextlib
import types

import helpers
import jax
import numpy as np
import pytest

from ldm_jax import (
    config,
    control_fidelity,
    generation,
    inputs,
    sharding,
    system,
    tokenizers,
)
from ldm_jax.data import hints, labels

SIDE = 64


def square(at, size=24, ground=30):
    """A bright square on a dark ground: uint8 [64, 64, 3]."""
    picture = np.full((SIDE, SIDE, 3), ground, np.uint8)
    picture[at : at + size, at : at + size] = 230
    return picture


SHOWN = np.stack([square(6), square(30), square(18, 12)])
BLANK = np.full((1, SIDE, SIDE, 3), 90, np.uint8)


def figures(name, examples, seen):
    """(the main figure, all of them)."""
    told = control_fidelity.MEASURES[name].figures(examples, seen)
    return next(iter(told.values())), told


def told_of(name, shown=SHOWN):
    """Examples whose hints are what is found in these pictures."""
    find = {"canny": hints.canny, "hough": hints.hough, "scribble": hints.canny}[name]
    return [{f"hint_{name}": find(picture)} for picture in shown]


@pytest.mark.parametrize("name", ["canny", "hough", "scribble"])
def test_lines_that_are_there_score_one_and_the_neighbours_less(name):
    examples = told_of(name)
    assert all(example[f"hint_{name}"].any() for example in examples)
    assert figures(name, examples, SHOWN)[1] == {"f1": 1, "chamfer": 0}
    f1, told = figures(name, examples, SHOWN[[1, 2, 0]])
    assert f1 < 0.5 and told["chamfer"] > 1
    some, _ = figures(name, examples, SHOWN[[0, 1, 0]])
    assert f1 < some < 1


@pytest.mark.parametrize(("name", "reach"), [("canny", 1), ("scribble", 2)])
def test_lines_may_be_off_by_a_measures_reach(name, reach):
    for off in (1, 2, 3):
        moved = np.roll(SHOWN, off, axis=(1, 2))
        f1, told = figures(name, told_of(name), moved)
        assert (f1 == 1) == (off <= reach), off
        assert 0.3 < told["chamfer"] < 1.5 * off


@pytest.mark.parametrize("name", ["canny", "hough", "scribble"])
def test_no_lines_are_right_where_none_are_told(name):
    nothing, some = told_of(name, BLANK), told_of(name, SHOWN[:1])
    assert figures(name, nothing, BLANK)[1] == {"f1": 1, "chamfer": 0}
    for examples, seen in ((nothing, SHOWN[:1]), (some, BLANK)):
        told = figures(name, examples, seen)[1]
        assert told == {"f1": 0, "chamfer": pytest.approx(SIDE * np.sqrt(2))}


def test_maps_are_judged_by_their_overlap():
    """The judge's segments lie on places of some pixels."""
    maps = np.zeros((2, SIDE, SIDE), np.uint8)
    maps[0, :, 32:] = maps[1, 32:] = labels.SKY
    examples = [{"segmentation": x} for x in maps]
    seen = maps[:, ::4, ::4].astype(np.int32)
    assert figures("segments", examples, seen)[0] == 1
    assert figures("segments", examples, seen[::-1])[0] == pytest.approx(1 / 3)


def depths(count=6):
    """Near below and far above, as nearly all scenes are, and a little of their own."""
    gen = np.random.default_rng(0)
    own = gen.normal(0, 0.1, (count, 4, 4)).repeat(16, axis=1).repeat(16, axis=2)
    return (np.linspace(1, 0, SIDE)[:, None] + own).astype(np.float32)


@pytest.mark.parametrize("name", ["depth", "normal"])
def test_depth_is_judged_by_what_is_a_pictures_own(name):
    told = depths()
    examples = [{"depth": x} for x in told]
    assert figures(name, examples, told)[0] == pytest.approx(1, abs=1e-5)
    # The reader's unit does not matter where it is the same everywhere.
    assert figures(name, examples, told + 3)[0] == pytest.approx(1, abs=1e-5)
    noisy = told + np.random.default_rng(1).normal(0, 0.1, told.shape)
    assert 0.6 < figures(name, examples, noisy)[0] < 0.8
    # By itself it correlates with its neighbours', as all are near below.
    others = told[[1, 2, 3, 4, 5, 0]]
    plain = [
        np.corrcoef(*map(np.ravel, pair))[0, 1]
        for pair in zip(told, others, strict=True)
    ]
    assert np.mean(plain) > 0.8
    assert figures(name, examples, others)[0] < 0.2
    against = 2 * told.mean(0) - told
    assert figures(name, examples, against)[0] == pytest.approx(-1, abs=1e-5)


def test_pictures_whose_depth_is_the_usual_one_are_left_out():
    """They have nothing of their own that could be right or wrong."""
    usual, own = np.round(8 * depths(2)) / 8  # so that the mean is exact
    told = np.stack([usual + own, usual - own, usual])
    examples = [{"depth": x} for x in told]
    seen = np.stack([*told[:2], own])
    assert figures("depth", examples, seen)[0] == pytest.approx(1, abs=1e-5)
    with pytest.raises(ValueError, match="depth.* nothing to judge"):
        figures("depth", examples[:1], told[:1])


def people(*joints):
    """Examples of joints (number, x, y, visible); the others are not visible."""
    found = []
    for rows in joints:
        told = np.zeros((labels.JOINTS, 3), np.float32)
        for number, *row in rows:
            told[number] = row
        found.append({"joints": told})
    return found


def test_joints_are_right_where_they_are_near():
    """Those that are not visible do not count."""
    examples = people([(0, 0.5, 0.5, 1), (1, 0.2, 0.8, 1), (2, 0.1, 0.1, 0)], [])
    seen = np.zeros((2, labels.JOINTS, 2), np.float32)
    seen[0, 0], seen[0, 1], seen[0, 2] = (0.5, 0.5), (0.2, 0.8), (0.9, 0.9)
    assert figures("pose", examples, seen)[1] == {"joints_right": 1, "joints": 2}
    reach = control_fidelity.REACH
    assert reach * 64 == 6
    for far, right in ((reach - 1e-3, 1), (reach + 1e-3, 0.5)):
        seen[0, 1] = 0.2, 0.8 - far
        assert figures("pose", examples, seen)[0] == right
    assert figures("pose", examples, seen[::-1])[0] == 0
    with pytest.raises(ValueError, match="none of the pictures has a joint"):
        figures("pose", people([], []), seen)


def test_beside_the_drawn_ones_stands_what_they_are_compared_with():
    examples = told_of("canny")
    seen = {"drawn": SHOWN, "without": np.repeat(BLANK, 3, axis=0)}
    seen |= {"real": SHOWN, "ceiling": SHOWN[[0, 1, 0]]}
    told = control_fidelity.measured("canny", examples, seen)
    assert list(told) == ["f1", "chamfer", "shuffled", "without", "real", "ceiling"]
    assert told["f1"] == told["real"]["f1"] == 1 and told["without"]["f1"] == 0
    assert told["shuffled"]["f1"] < 0.5 < told["ceiling"]["f1"] < 1


def test_drift_is_of_each_channel_in_numbers_of_a_byte():
    drawn, real = np.zeros((2, 2, 4, 4, 3), np.uint8)
    drawn[0, ..., 0], drawn[..., 1], real[..., 1], real[..., 2] = 250, 7, 9, 255
    assert control_fidelity.drift(drawn, real) == [125, -2, -255]
    assert control_fidelity.drift(real, real) == [0, 0, 0]


def test_captions_are_their_own_none_or_their_neighbours():
    c = helpers.tiny_config()
    words = tokenizers.load(c.cond_stage)
    said = ["a fox", "an owl", "a castle"]
    examples = [
        {"tokens": tokens, "hint_canny": i} for i, tokens in enumerate(words(said))
    ]
    before = [dict(example) for example in examples]
    found = {
        name: control_fidelity.prompted(c, examples, name)
        for name in control_fidelity.PROMPTS
    }
    wanted = {"full": said, "empty": [""] * 3, "conflicting": [*said[1:], said[0]]}
    for name, rows in found.items():
        tokens = np.stack([row["tokens"] for row in rows])
        np.testing.assert_array_equal(tokens, words(wanted[name]))
        assert [row["hint_canny"] for row in rows] == [0, 1, 2]
    assert all(
        a["tokens"] is b["tokens"] for a, b in zip(examples, before, strict=True)
    )


def test_other_captions_are_of_models_that_take_any():
    c = helpers.tiny_config().copy_and_resolve_references()
    c.cond_stage.kind = "segmentation"
    assert control_fidelity.prompted(c, [], "full") == []
    for name in ("empty", "conflicting"):
        with pytest.raises(ValueError, match=f"--prompts={name} is of models that tak"):
            control_fidelity.prompted(c, [{"segmentation": SHOWN[0, ..., 0]}], name)


def test_a_judge_is_read_only_for_what_it_sees():
    assert control_fidelity.judges(("canny", "hough", "scribble")) == {}
    found = control_fidelity.judges(("canny", "depth"))
    assert found.keys() == {"depth"}
    assert "depth" in found["depth"].config.judge.reads
    assert control_fidelity.see(None, SHOWN, "picture") is SHOWN


def test_pictures_that_no_judge_knows_are_refused():
    c = helpers.tiny_config().copy_and_resolve_references()
    c.data.name = "paired"
    with pytest.raises(ValueError, match="data.name is 'paired', and the judges know"):
        control_fidelity.evaluate(
            types.SimpleNamespace(config=c), 2, 0, 2, "full", contextlib.nullcontext
        )


def model_of():
    """A model of random weights that draws 32x32 pictures by edges and strokes."""
    c = config.latent_diffusion()
    c.data.update(name="emoji_singles", image_size=32, batch_size=4)
    c.first_stage.update(kind="identity", mult=(1,), attention=(0,))
    c.unet.update(channels=4, mult=(1,), blocks=1, depths=(0,), mid_depth=0)
    c.unet.update(head_channels=4, groups=4)
    c.control.update(hints=("canny", "scribble"), channels=(4,), lite=True)
    c.train.update(pictures=2)
    c.sample.update(grid="trailing", steps=2)
    c = config.check(c)
    built = system.build(c)
    params = helpers.random_params(jax.eval_shape(built.init, jax.random.key(0)))
    return generation.Model(c, built, params, "", sharding.make_mesh())


def test_a_model_is_judged_with_and_without_its_hints():
    """By held-out scenes, whatever it was trained on."""
    bars, model = [], model_of()

    def progress(total):
        bars.append(types.SimpleNamespace(total=total, n=0))
        bars[0].update = lambda n: setattr(bars[0], "n", bars[0].n + n)
        return contextlib.nullcontext(bars[0])

    told, rows = control_fidelity.evaluate(model, 6, 0, 4, "full", progress)
    assert told["n"] == 6 and told["dataset"] == "emoji_scenes"
    assert bars[0].n == bars[0].total == 18
    for name in ("canny", "scribble"):
        assert 0 <= told[name]["f1"] < 0.9 and 0 <= told[name]["without"]["f1"] < 0.9
        assert told[name]["shuffled"]["f1"] < 0.9
    # Pixels have no first stage; a scribble is not just what Canny finds.
    assert told["canny"]["real"] == told["canny"]["ceiling"] == {"f1": 1, "chamfer": 0}
    assert 0.3 < told["scribble"]["real"]["f1"] < 1
    assert len(told["drift"]) == len(told["drift_without"]) == 3
    assert rows.shape == (6, 5, 32, 32, 3) and rows.dtype == np.uint8
    drawn, without, real = rows[:, 2], rows[:, 3], rows[:, 4]
    assert (drawn != without).any()
    np.testing.assert_array_equal(rows[0, 0], hints.canny(real[0]))
    wanted = control_fidelity.drift(drawn, real)
    np.testing.assert_allclose(told["drift"], wanted, atol=1e-9)


# What a run watches


def watching(names, data="emoji_scenes", size=64):
    c = helpers.tiny_config().copy_and_resolve_references()
    c.data.update(name=data, image_size=size)
    c.cond_stage.length = 80  # all of a scene's caption
    c.control.hints = tuple(names)
    return c


def batch_of(c, needs, count=4):
    examples = inputs.held_out(c, count, 0)
    keys = {"image", *needs}
    return {key: np.stack([example[key] for example in examples]) for key in keys}


def test_a_run_watches_the_pictures_that_it_draws():
    """Real pictures obey their hints; those of others do not."""
    c = watching(("canny", "depth"))
    watch = control_fidelity.Watch(c)
    assert set(watch.needs) == {"hint_canny", "depth"}
    batch = batch_of(c, watch.needs)
    real = watch.numbers(batch["image"], batch)
    drifts = {"drift_red", "drift_green", "drift_blue"}
    assert real.keys() == {"adherence_canny", "adherence_depth", *drifts}
    assert real["adherence_canny"] == 1 and real["adherence_depth"] > 0.6
    assert all(real[name] == 0 for name in drifts)
    wrong = watch.numbers(batch["image"][::-1], batch)
    for name in ("adherence_canny", "adherence_depth"):
        assert wrong[name] < 0.6 * real[name]
    darker = watch.numbers(batch["image"] // 2, batch)
    assert all(darker[name] < -20 for name in drifts)
    # The first ones of a batch are enough.
    few = watch.numbers(batch["image"][:2], batch)
    assert few["adherence_canny"] == 1 and few["drift_red"] == 0


def test_what_no_measure_knows_is_left_out():
    """A hint that is given, and what a judge would have to see in read pictures."""
    watch = control_fidelity.Watch(watching(("given", "canny", "ade20k")))
    assert watch.needs == ("hint_canny",)
    watch = control_fidelity.Watch(watching(("depth", "scribble", "pose"), "paired"))
    assert watch.needs == ("hint_scribble",)
    watch = control_fidelity.Watch(watching(("given",)))
    told = watch.numbers(SHOWN, {"image": SHOWN})
    assert set(told) == {"drift_red", "drift_green", "drift_blue"}


def test_a_run_on_pictures_of_another_size_leaves_the_judges_out():
    """They know one size alone."""
    c = watching(("canny", "depth"), size=32)
    watch = control_fidelity.Watch(c)
    assert watch.needs == ("hint_canny",)
    batch = batch_of(c, watch.needs)
    assert watch.numbers(batch["image"], batch)["adherence_canny"] == 1


def test_a_run_goes_on_where_there_is_nothing_to_judge(monkeypatch):
    """A batch without a person has no joints, one picture no depth of its own."""
    seen = {"depth": depths(1), "joints": np.zeros((1, labels.JOINTS, 2))}
    judge = types.SimpleNamespace(config=watching(()))
    monkeypatch.setattr(
        control_fidelity, "judges", lambda names: {"depth": judge, "joints": judge}
    )
    monkeypatch.setattr(
        control_fidelity, "see", lambda judge, images, sees, *more: seen.get(sees)
    )
    watch = control_fidelity.Watch(watching(("pose", "depth")))
    batch = {
        "image": BLANK,
        "depth": depths(1),
        "joints": people([])[0]["joints"][None],
    }
    told = watch.numbers(BLANK, batch)
    assert set(told) == {"drift_red", "drift_green", "drift_blue"}


def test_the_judges_see_what_was_drawn_as_the_measures_want_it():
    """By the reader and the judge that ship: truth well above the neighbours'."""
    c = watching(("depth", "segments"))
    asked = control_fidelity.judges(c.control.hints)
    examples = inputs.held_out(c, 8, 0)
    images = np.stack([example["image"] for example in examples])
    for name in c.control.hints:
        sees = control_fidelity.MEASURES[name].sees
        seen = control_fidelity.see(asked[sees], images, sees)
        real, _ = figures(name, examples, seen)
        chance, _ = figures(name, [*examples[-1:], *examples[:-1]], seen)
        assert real > 0.5 and chance < 0.6 * real, name
