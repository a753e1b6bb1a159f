"""Many pictures in a folder: begun again, shared by hosts, cut off, in shards."""

from concurrent import futures
import dataclasses
import errno
import json
import pathlib

import helpers
import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
import pytest
import tiny_text_to_image

from ldm_jax import album, generation, inputs, jobs, pictures, sharding, system
from ldm_jax.data import packed

PROMPTS = ("a fox", "a red apple", "an owl")
WANTED = album.Wanted(PROMPTS, n=3, seed=5)
BATCH = 2


@pytest.fixture(scope="module")
def model():
    """Random weights on one device."""
    config = tiny_text_to_image.get_config()
    config.sample.update(steps=2)
    built = system.build(config)
    params = helpers.random_params(jax.eval_shape(built.init, jax.random.key(0)))
    mesh = sharding.make_mesh(devices=jax.devices()[:1])
    return generation.Model(
        config, built, jax.device_put(params, jax.devices()[0]), "random", mesh
    )


def draw(model, out, wanted=WANTED, **ways):
    return album.draw(model, wanted, BATCH, out, **ways)


def files(out):
    """{name: bytes} of a folder."""
    paths = [path for path in out.iterdir() if path.name != jobs.LOCK]
    return {path.name: path.read_bytes() for path in paths}


def opened(out, row):
    """A picture as numbers that may be subtracted."""
    return np.asarray(Image.open(out / row["file"]), int)


@pytest.fixture(scope="module")
def whole(model, tmp_path_factory):
    """The job by one process that nobody stops."""
    out = tmp_path_factory.mktemp("jobs") / "whole"
    draw(model, out)
    return files(out)


class Stop(Exception):
    """In place of a signal, which cannot come at a place that a test chooses."""


def stopping(monkeypatch, after):
    """Writing a picture stops the process once `after` of them are there."""
    write, done = album.write_picture, []
    monkeypatch.setattr(album, "WRITERS", 1)

    def cut_off(*picture):
        if len(done) == after:
            raise Stop
        done.append(picture)
        return write(*picture)

    monkeypatch.setattr(album, "write_picture", cut_off)


def test_there_is_a_picture_a_row_and_a_name_for_each(whole):
    names = [f"{i:05}.png" for i in range(9)]
    assert sorted(whole) == [*names, "grid.png", "job.json", "manifest.jsonl"]
    rows = [json.loads(line) for line in whole["manifest.jsonl"].splitlines()]
    assert [row["number"] for row in rows] == list(range(9))
    assert [row["prompt"] for row in rows] == [p for p in PROMPTS for _ in range(3)]
    assert len({whole[name] for name in names}) == 9


def test_the_same_command_again_does_nothing(model, whole, tmp_path, monkeypatch):
    draw(model, tmp_path / "out")
    monkeypatch.setattr(album, "write_picture", lambda *_: pytest.fail("drawn again"))
    rows = draw(model, tmp_path / "out")
    assert len(rows) == 9 and files(tmp_path / "out") == whole


@pytest.mark.parametrize("after", [0, 1, 4, 8])
def test_what_was_cut_off_goes_on(model, whole, tmp_path, monkeypatch, after):
    with monkeypatch.context() as patch:
        stopping(patch, after)
        with pytest.raises(Stop):
            draw(model, tmp_path / "out")
    rows = jobs.rows(tmp_path / "out")
    assert all((tmp_path / "out" / row["file"]).exists() for row in rows.values())
    draw(model, tmp_path / "out")
    assert files(tmp_path / "out") == whole


def test_a_row_that_was_cut_off_and_a_lost_file_are_drawn_again(model, whole, tmp_path):
    draw(model, tmp_path / "out")
    manifest = tmp_path / "out" / jobs.MANIFEST
    manifest.write_bytes(manifest.read_bytes()[:-20])
    (tmp_path / "out" / "00003.png").unlink()
    assert len(jobs.rows(tmp_path / "out")) == 8
    draw(model, tmp_path / "out")
    assert files(tmp_path / "out") == whole


def test_hosts_share_a_job_and_one_that_is_lost_is_made_up_for(
    model, whole, tmp_path, monkeypatch
):
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        stopping(patch, 1)
        with pytest.raises(Stop):
            draw(model, out, host=0, hosts=3)
    assert draw(model, out, host=1, hosts=3) == ()
    assert draw(model, out, host=2, hosts=3) == ()
    assert len(jobs.rows(out)) == 7
    assert len(draw(model, out, host=0, hosts=3)) == 9
    own = {f"manifest.{i}-of-3.jsonl" for i in range(3)}
    found = files(out)
    assert {name: found[name] for name in found if name not in own} == whole
    assert own < set(found)


def test_fewer_hosts_may_finish_what_more_began(model, whole, tmp_path):
    draw(model, tmp_path / "out", host=1, hosts=2)
    draw(model, tmp_path / "out")
    found = files(tmp_path / "out")
    assert found.pop("manifest.1-of-2.jsonl")
    assert found == whole


def test_two_processes_of_one_number_are_told(model, tmp_path):
    job = jobs.Job(tmp_path, {"pictures": 9, "shard": 0}, 9)
    again = pytest.raises(OSError, match="another process is drawing")
    with jobs.writing(job), again, jobs.writing(job):
        pass


def test_another_job_is_refused_and_may_be_overwritten(model, whole, tmp_path):
    out = tmp_path / "out"
    draw(model, out)
    other = dataclasses.replace(WANTED, seed=6)
    with pytest.raises(FileExistsError, match=r"another job: .*seed 5, not 6.*--over"):
        draw(model, out, other)
    assert files(out) == whole
    draw(model, out, dataclasses.replace(other, n=1), overwrite=True)
    assert sorted(files(out)) == sorted(
        {*(f"{i:05}.png" for i in range(3)), "grid.png", "job.json", "manifest.jsonl"}
    )


def test_an_interrupted_job_is_overwritten_as_a_whole(model, tmp_path, monkeypatch):
    """Its pictures without a row, and what was half-written, too."""
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        stopping(patch, 4)
        with pytest.raises(Stop):
            draw(model, out)
    (out / jobs.MANIFEST).write_bytes(b"")
    (out / ".00007.png.abc").write_bytes(b"half")
    (out / "notes.txt").write_text("mine")
    (out / "00009.png").write_bytes(b"mine: the job has 0 to 8")
    before, other = files(out), dataclasses.replace(WANTED, n=1, seed=6)
    with pytest.raises(FileExistsError, match="00009.png is of no job, move it"):
        draw(model, out, other, overwrite=True)
    assert files(out) == before
    (out / "00009.png").unlink()
    draw(model, out, dataclasses.replace(WANTED, n=1, seed=6), overwrite=True)
    names = {*(f"{i:05}.png" for i in range(3)), "grid.png", "notes.txt"}
    assert set(files(out)) == names | {"job.json", "manifest.jsonl"}


def test_a_job_that_is_being_drawn_is_not_overwritten(model, tmp_path, monkeypatch):
    monkeypatch.setattr(jobs, "PATIENCE", 0.3)
    job = jobs.Job(tmp_path, {"pictures": 9, "shard": 0}, 9)
    with jobs.at_work(job), jobs.at_work(job):
        with pytest.raises(FileExistsError, match="is drawing another job into"):
            draw(model, tmp_path, overwrite=True)
        assert set(files(tmp_path)) == {"job.json"}
    assert len(draw(model, tmp_path, overwrite=True)) == 9


def test_hosts_that_overwrite_together_remove_once(model, tmp_path):
    """The second one waits for the first, and finds the job its own."""
    draw(model, tmp_path)
    other = dataclasses.replace(WANTED, seed=6)
    with futures.ThreadPoolExecutor(2) as pool:
        ended = [
            pool.submit(
                draw, model, tmp_path, other, overwrite=True, host=host, hosts=2
            )
            for host in range(2)
        ]
        assert max(len(future.result()) for future in ended) == 9
    assert {row["seed"] for row in jobs.rows(tmp_path).values()} == {6}


def test_a_job_is_what_makes_its_pictures(model, tmp_path):
    """However the prompts are said; not by what changes no picture."""
    about = album._about(model, WANTED, {})
    said = tuple({"prompt": prompt} for prompt in PROMPTS)
    assert album._about(model, dataclasses.replace(WANTED, said=said), {}) == about
    for key, value, same in (
        ("sample.decode_batch", 2, True),
        ("parallel.fsdp", 2, True),
        ("sample.scale", 7.0, False),
        ("loss.predicts", "z_0", False),
        ("schedule.beta_end", 0.02, False),
        ("cond_stage.length", 22, False),
    ):
        config = model.config.copy_and_resolve_references()
        config.update_from_flattened_dict({key: value})
        other = dataclasses.replace(model, config=config)
        assert (album._about(other, WANTED, {}) == about) == same, key


def test_pictures_of_no_job_are_left_alone(model, tmp_path):
    for name in ("00001.png", "train-00000.array_record", "manifest.1-of-2.jsonl"):
        (tmp_path / name).write_bytes(b"mine")
        with pytest.raises(FileExistsError, match=f"{name} already"):
            draw(model, tmp_path, overwrite=True)
        assert files(tmp_path) == {name: b"mine"}
        (tmp_path / name).unlink()
    (tmp_path / "notes.txt").write_text("mine")
    assert len(draw(model, tmp_path)) == 9


def test_a_full_disk_leaves_nothing_half_written(model, whole, tmp_path, monkeypatch):
    write, done = pathlib.Path.write_bytes, []
    monkeypatch.setattr(album, "WRITERS", 1)

    def full(path, data):
        if path.suffix != ".jsonl" and len(done) == 4:
            write(path, data[:10])
            raise OSError(errno.ENOSPC, "No space left on device")
        done.append(path)
        return write(path, data)

    with monkeypatch.context() as patch:
        patch.setattr(pathlib.Path, "write_bytes", full)
        with pytest.raises(OSError, match="No space left on device. What manifest"):
            draw(model, tmp_path / "out")
    found = files(tmp_path / "out")
    assert sorted(found) == [
        *(f"{i:05}.png" for i in range(4)),
        "job.json",
        "manifest.jsonl",
    ]
    assert len(jobs.rows(tmp_path / "out")) == 4
    draw(model, tmp_path / "out")
    assert files(tmp_path / "out") == whole


def test_one_picture_that_is_not_finite_stops_no_other(
    model, whole, tmp_path, monkeypatch
):
    stream = generation.stream

    def broken(*args):
        for number, x in enumerate(stream(*args)):
            yield (
                x * np.where(np.arange(BATCH) == 1, np.nan, 1)[:, None, None, None]
                if (number == 1)
                else x
            )

    with monkeypatch.context() as patch:
        patch.setattr(generation, "stream", broken)
        with pytest.raises(FloatingPointError, match="pictures 3 are not finite"):
            draw(model, tmp_path / "out")
    found = files(tmp_path / "out")
    assert len(jobs.rows(tmp_path / "out")) == 8 and "00003.png" not in found
    lines = [json.loads(line) for line in found["manifest.jsonl"].splitlines()]
    assert [line["number"] for line in lines] == list(range(9)) and "grid.png" in found
    assert lines[3] == {"number": 3, "lost": True}
    draw(model, tmp_path / "out")
    assert files(tmp_path / "out") == whole

    with monkeypatch.context() as patch:
        patch.setattr(generation, "stream", broken)
        with pytest.raises(FloatingPointError, match="pictures 3 are not finite"):
            draw(model, tmp_path / "shards", shard=4)
    assert packed.read_about(tmp_path / "shards")["splits"] == {
        "train": [3, 4],
        "heldout": [1],
    }
    draw(model, tmp_path / "shards", shard=4)
    assert packed.read_about(tmp_path / "shards")["splits"]["train"] == [4, 4]


def test_a_model_that_draws_nothing_finite_gives_up(model, tmp_path):
    params = jax.tree.map(lambda x: x * jnp.nan, model.params)
    broken, many = dataclasses.replace(model, params=params), album.Wanted(n=40)
    with pytest.raises(FloatingPointError, match="9 are not finite: gave up"):
        album.draw(broken, dataclasses.replace(many, prompts=("a",)), 2, tmp_path / "o")
    assert sorted(files(tmp_path / "o")) == ["job.json", "manifest.jsonl"]
    assert not jobs.rows(tmp_path / "o")


def test_shards_hold_the_same_pictures_and_training_reads_them(model, whole, tmp_path):
    out = tmp_path / "out"
    assert draw(model, out, shard=4, host=0, hosts=2) == ()
    rows = draw(model, out, shard=4, host=1, hosts=2)
    assert [row["file"] for row in rows[3:5]] == [
        "train-00000.array_record",
        "train-00001.array_record",
    ]
    train, heldout = (packed.opened(out, split) for split in packed.SPLITS)
    assert (len(train), len(heldout)) == (8, 1)
    for number in range(9):
        example = train[number] if number < 8 else heldout[0]
        path = tmp_path / "one.png"
        path.write_bytes(whole[f"{number:05}.png"])
        np.testing.assert_array_equal(example["image"], np.asarray(Image.open(path)))
        assert example["caption"] == PROMPTS[number // 3]
    config = tiny_text_to_image.get_config()
    config.data.update(name="packed", path=str(out), batch_size=4)
    inputs.check(config)
    with inputs.batches(config, ("image", "caption")) as batches:
        assert next(batches)["image"].shape == (4, 16, 16, 3)


def test_a_shard_that_was_cut_off_is_drawn_as_a_whole(model, tmp_path):
    out = tmp_path / "out"
    draw(model, out, shard=4)
    before = files(out)
    manifest = out / jobs.MANIFEST
    lines = manifest.read_bytes().splitlines(keepends=True)
    manifest.write_bytes(b"".join(lines[:5]))  # of the second shard one row of four
    (out / "heldout-00000.array_record").unlink()
    draw(model, out, shard=4)
    assert files(out) == before


def test_prompts_may_have_their_own_seed_scale_and_negative(model, tmp_path):
    said = (
        {"prompt": "a fox", "seed": 7},
        {"prompt": "a fox", "seed": 7, "scale": 6.0},
        {"prompt": "a fox", "seed": 7, "negative_prompt": "an owl"},
        {"prompt": "a fox", "seed": 8, "variation_seed": 7, "variation": 1.0},
        {"prompt": "a fox"},
    )
    prompts = tuple(row["prompt"] for row in said)
    rows = draw(model, tmp_path / "all", album.Wanted(prompts, said=said))
    images = [
        np.asarray(Image.open(tmp_path / "all" / row["file"]), int) for row in rows
    ]
    assert [row["index"] for row in rows] == [0, 0, 0, 0, 4]
    assert [row["seed"] for row in rows] == [7, 7, 7, 8, 0]
    for other in (1, 2, 4):
        assert np.abs(images[0] - images[other]).max() > 1
    assert np.abs(images[0] - images[3]).max() <= 1  # the whole way to seed 7's noise
    alone = album.Wanted(("a fox",), seed=7)
    (row,) = draw(model, tmp_path / "one", alone)
    found = opened(tmp_path / "one", row)
    assert np.abs(images[0] - found).max() <= 1
    half = dataclasses.replace(alone, said=({"prompt": "a fox", "variation": 0.5},))
    toward = dataclasses.replace(half, variation=(8, 0.1)).picture(0)
    assert (toward["variation_seed"], toward["variation"]) == (8, 0.5)
    with pytest.raises(ValueError, match="a variation needs both"):
        draw(model, tmp_path / "half", half)
    assert not (tmp_path / "half").exists()


def test_a_prompt_that_is_too_long_is_an_error_or_cut(model, tmp_path):
    long = dataclasses.replace(WANTED, prompts=("a fox " * 20 + "owl",))
    with pytest.raises(
        ValueError, match="41 pieces, 22 fit; cut: .*owl'.*--cut_prompts"
    ):
        draw(model, tmp_path / "out", long)
    assert not (tmp_path / "out").exists()
    said = []
    assert len(draw(model, tmp_path / "out", long, cut=True, say=said.append)) == 3
    assert "41 pieces" in said[0]


def test_sheets_have_64_pictures(tmp_path, monkeypatch):
    monkeypatch.setattr(album, "SHEET", 4)
    rows = []
    for i in range(6):
        image = np.full((4, 4, 3), 40 * i, np.uint8)
        rows.append({"file": f"{i}.png"})
        pictures.save_png(tmp_path / f"{i}.png", image)
    album._write_sheets(tmp_path, rows)
    first, second = (Image.open(tmp_path / f"grid{x}.png") for x in ("", "_1"))
    assert first.size == (14, 14) and second.size == (14, 8)


def test_a_folder_that_cannot_be_written_is_told_first(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError, match="is a file, not a folder"):
        jobs.check_folder(tmp_path / "file" / "out")
    jobs.check_folder(tmp_path / "new" / "out")
    assert not (tmp_path / "new").exists()
