"""metrics.jsonl: exact, valid, consistent after a resume; speed and progress."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax import metrics


def rows(folder):
    return metrics.read(folder / "metrics.jsonl")


def write(folder, steps, restored=None, loss=0.5):
    writer = metrics.Writer(folder, restored)
    for step in steps:
        writer.write(step, "train", {"loss": loss}, {"step_s": 0.1})
    writer.close()


def test_floats_come_back_bit_for_bit(tmp_path):
    values = [np.float32(0.1), np.float64(1) / 3, np.float32(1e-45), -0.0]
    writer = metrics.Writer(tmp_path)
    writer.write(jnp.int32(3), "train", {f"v{i}": v for i, v in enumerate(values)})
    writer.write(4, "train", {"loss": jnp.float32(0.1), "half": jnp.bfloat16(0.1)})
    writer.close()
    first, second = rows(tmp_path)
    assert first["step"] == 3
    assert [first[f"v{i}"] for i in range(4)] == [float(v) for v in values]
    assert np.signbit(first["v3"])
    assert second["loss"] == float(np.float32(0.1))
    assert second["half"] == float(jnp.bfloat16(0.1))


def test_timing_is_apart_from_what_is_deterministic(tmp_path):
    write(tmp_path, [1])
    row = {"step": 1, "kind": "train", "loss": 0.5, "timing": {"step_s": 0.1}}
    assert rows(tmp_path) == [row]
    with pytest.raises(ValueError, match="timing"):
        metrics.Writer(tmp_path).write(1, "train", {"timing": 3})


def test_what_is_not_finite_stays_valid_json(tmp_path):
    writer = metrics.Writer(tmp_path)
    fields = {"a": float("nan"), "b": jnp.float32(-jnp.inf), "c": np.array([1, np.inf])}
    writer.write(1, "train", {**fields, "flag": np.bool_(True), "count": np.int64(2)})
    writer.close()

    def refuse(token):
        raise AssertionError(token)

    text = (tmp_path / "metrics.jsonl").read_text()
    row = json.loads(text, parse_constant=refuse)
    assert (row["a"], row["b"], row["c"]) == ("nan", "-inf", [1.0, "inf"])
    assert row["flag"] is True and row["count"] == 2


def test_rows_are_there_before_the_writer_is_closed(tmp_path):
    writer = metrics.Writer(tmp_path)
    writer.write(1, "train", {"loss": 1.0})
    assert len(rows(tmp_path)) == 1
    writer.close()


@pytest.mark.parametrize(("restored", "kept"), [(3, [1, 2, 3]), (0, []), (None, [])])
def test_a_resume_drops_what_came_after_the_checkpoint(tmp_path, restored, kept):
    write(tmp_path, [1, 2, 3, 4, 5])
    write(tmp_path, [9], restored=restored, loss=0.25)
    assert [row["step"] for row in rows(tmp_path)] == [*kept, 9]
    names = {p.name for p in tmp_path.iterdir()}
    assert names == {"metrics.jsonl", "tensorboard"}


def test_kept_rows_are_unchanged(tmp_path):
    write(tmp_path, [1, 2], loss=float(np.float32(0.1)))
    before = (tmp_path / "metrics.jsonl").read_bytes()
    write(tmp_path, [], restored=2)
    assert (tmp_path / "metrics.jsonl").read_bytes() == before


@pytest.mark.parametrize(
    "torn", ['{"step": 3, "ki', '{"step": 3, "note": "\udcc3', "{"]
)
def test_a_torn_last_line_is_dropped(tmp_path, torn):
    write(tmp_path, [1, 2])
    with (tmp_path / "metrics.jsonl").open("ab") as file:
        file.write(torn.encode("utf-8", "surrogateescape"))
    write(tmp_path, [3], restored=5)
    assert [row["step"] for row in rows(tmp_path)] == [1, 2, 3]


def test_a_damaged_line_in_the_middle_is_an_error(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\nnonsense\n{"step": 2}\n')
    with pytest.raises(ValueError, match="metrics.jsonl, line 2"):
        metrics.Writer(tmp_path, 5)
    assert path.read_text().count("\n") == 3


def test_tensorboard_gets_scalars_and_images(tmp_path):
    writer = metrics.Writer(tmp_path)
    writer.write(1, "train", {"loss": 1.0, "note": "words are left out"})
    writer.images(1, "samples", np.zeros((4, 6, 3), np.uint8))
    writer.close()
    (events,) = (tmp_path / "tensorboard").iterdir()
    data = events.read_bytes()
    assert b"train/loss" in data and b"samples" in data and b"PNG" in data
    assert b"train/note" not in data
    assert (tmp_path / "samples" / "0000001.png").is_file()


def test_only_process_0_writes(tmp_path, monkeypatch):
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    writer = metrics.Writer(tmp_path)
    writer.write(1, "train", {"loss": 1.0})
    writer.images(1, "samples", np.zeros((4, 6, 3), np.uint8))
    writer.close()
    assert not list(tmp_path.iterdir())


def test_due():
    assert [step for step in range(7) if metrics.due(step, 3)] == [0, 3, 6]


def test_the_meter_reads_rates_and_starts_anew():
    times = iter([0.0, 4.0, 4.0, 5.0, 5.0])
    meter = metrics.Meter(batch_size=8, clock=lambda: next(times))
    meter.add(0.5)
    meter.add(0.5)
    assert meter.read() == {"images_per_s": 4.0, "step_s": 2.0, "data_wait": 0.25}
    meter.add(0.0)
    assert meter.read() == {"images_per_s": 8.0, "step_s": 1.0, "data_wait": 0.0}


def test_progress_is_quiet_where_nobody_watches(capfd):
    progress = metrics.Progress(total=1000, initial=500, batch_size=8)
    for _ in range(500):
        progress.update(0.0, "loss 0.1")
    progress.close()
    text = capfd.readouterr().err
    assert "1000/1000" in text
    assert text.count("\r") <= 3
