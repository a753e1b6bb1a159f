"""A folder of kept latents: what is written is read, and nothing else."""

import contextlib
import dataclasses
import itertools
import json
import re

import numpy as np
import pytest

from ldm_jax.data import latents, pipeline, shards

N = 11
TOLD = dict(n=N, shard=4, dtype="float16", split="train", seed=0)
TOLD |= {"data.name": "pets", "data.image_size": 8}
TOLD |= {"first_stage.kind": "kl", "first_stage.weights": "0123456789ab"}
TOLD |= {"first_stage.dtype": "float32", "content": "ba9876543210"}
TOLD |= {"data.crop": "random", "data.resize": "area", "data.flip": True, "texts": {}}


def example(i):
    gen = np.random.default_rng(i)
    return {
        "latent_mean": gen.standard_normal((2, 2, 3)).astype(np.float16),
        "caption": f"a fox, no. {i} – ünusual",
        "label": np.int32(i),
        "boxes": gen.random((2, 4), np.float32),
        "seen": np.array([True, False]),
    }


FIELDS = tuple(latents.field_of(name, x) for name, x in example(0).items())


def filled(folder):
    """A whole folder of three shards: of 4, 4 and 3 records."""
    about = latents.begin(folder, TOLD, FIELDS)
    for i in range(latents.shard_count(about)):
        rows = latents.rows(about, i)
        records = (latents.pack(FIELDS, example(row)) for row in rows)
        shards.write(latents.shard_path(folder, about, i), records, len(rows))
    return folder


@pytest.fixture
def folder(tmp_path):
    return filled(tmp_path / "kept")


def shard(folder, i=1):
    return folder / f"train-{i:05}-of-00003.array_record"


def test_a_record_is_read_as_it_was_written():
    for name, value in latents.unpack(FIELDS, latents.pack(FIELDS, example(3))).items():
        wanted = example(3)[name]
        np.testing.assert_array_equal(value, wanted)
        if name == "caption":
            assert type(value) is str
        else:
            dtype = "float32" if name == "latent_mean" else wanted.dtype
            assert value.dtype == dtype and value.flags.writeable


def test_every_cut_of_a_record_is_refused():
    record = latents.pack(FIELDS, example(0))
    for end in range(len(record)):
        with pytest.raises(ValueError, match="it ends within '"):
            latents.unpack(FIELDS, record[:end])
    with pytest.raises(ValueError, match="goes on for 2 bytes after its fields"):
        latents.unpack(FIELDS, record + b"ab")


def test_a_hostile_text_is_refused():
    text = (latents.Field("caption", "text"),)
    with pytest.raises(ValueError, match="ends within 'caption'"):
        latents.unpack(text, b"\xff\xff\xff\xffabc")
    with pytest.raises(ValueError, match="utf-8"):
        latents.unpack(text, b"\x02\x00\x00\x00\xff\xfe")


def test_garbage_never_raises_anything_else():
    gen = np.random.default_rng(0)
    for _ in range(300):
        with contextlib.suppress(ValueError):
            latents.unpack(FIELDS, gen.bytes(gen.integers(0, 120)))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("boxes", np.zeros((3, 4), np.float32)),
        ("boxes", np.zeros((2, 4), np.float64)),
        ("caption", 3),
        ("label", "a fox"),
    ],
)
def test_examples_must_be_alike(name, value):
    with pytest.raises(ValueError, match=f"{name!r}.* differs from that of the first"):
        latents.pack(FIELDS, {**example(0), name: value})


def test_what_is_no_number_is_not_kept():
    with pytest.raises(ValueError, match="'when' is object"):
        latents.field_of("when", np.array([None]))


def test_a_folder_gives_the_examples_in_order(folder):
    kept = latents.open_kept(folder, {"n": N, "data.name": "pets"})
    assert len(kept) == N
    for i in range(N):
        assert kept[i]["caption"] == example(i)["caption"]
        np.testing.assert_array_equal(kept[i]["boxes"], example(i)["boxes"])
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["latents.json", *(shard(folder, i).name for i in range(3))]


@pytest.mark.parametrize("key", sorted(TOLD.keys() - {"texts"}))
def test_another_setting_is_refused_by_its_key(folder, key):
    other = {"split": "heldout", "data.flip": False}.get(key, type(TOLD[key])(77))
    other = {**TOLD, key: other}
    words = f"made with {re.escape(key)} {TOLD[key]!r}, now it is {other[key]!r}"
    with pytest.raises(ValueError, match=words):
        latents.begin(folder, other, FIELDS)
    with pytest.raises(ValueError, match=words):
        latents.open_kept(folder, {key: other[key]})
    assert latents.begin(folder, TOLD, FIELDS)["n"] == N


def test_other_fields_are_refused(folder):
    with pytest.raises(ValueError, match="latents.json keeps .*'boxes'.* has changed"):
        latents.begin(folder, TOLD, FIELDS[:2])


BROKEN = {
    "must have the keys": lambda about: about.pop("seed"),
    "n is '11', it must be int": lambda about: about.update(n="11"),
    "seed is True, it must be int": lambda about: about.update(seed=True),
    "its format is 1, known is 2: encode": lambda about: about.update(format=1),
    "no 1 to 1048576 shards of 4": lambda about: about.update(n=10**18),
    "no 1 to 1048576 shards of 0": lambda about: about.update(shard=0),
    "split is '../x'": lambda about: about.update(split="../x"),
    r"\['a', 'object', \[\]\] is no field": lambda about: about.update(
        fields=[["a", "object", []]]
    ),
    "None is no field": lambda about: about.update(fields=3),
    r"field 'a' has the shape \[2, -1\]": lambda about: about.update(
        fields=[["a", "int8", [2, -1]]]
    ),
    "two fields have one name": lambda about: about.update(
        fields=[["a", "int8", []], ["a", "text", []]]
    ),
}


@pytest.mark.parametrize("words", BROKEN)
def test_a_broken_description_is_refused(folder, words):
    path = folder / "latents.json"
    about = json.loads(path.read_text())
    BROKEN[words](about)
    path.write_text(json.dumps(about))
    with pytest.raises(ValueError, match=f"latents.json is not one .*{words}"):
        latents.open_kept(folder, {})


@pytest.mark.parametrize("text", [b"", b"[]", b"{", b"\xff", b"[" * 100_000])
def test_a_description_that_is_no_json_is_refused(folder, text):
    (folder / "latents.json").write_bytes(text)
    with pytest.raises(ValueError, match="latents.json is not one of ldm_jax.encode"):
        latents.open_kept(folder, {})


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(
        FileNotFoundError, match="nowhere/latents.json .*ldm_jax.encode"
    ):
        latents.open_kept(tmp_path / "nowhere", {})


def test_missing_shards_are_named_with_the_command(folder):
    shard(folder, 1).unlink()
    shard(folder, 2).unlink()
    words = (
        f"2 of 3 shards are missing in {folder}, the first is {shard(folder, 1).name}: "
        f"python -m ldm_jax.encode --config=... --out={folder} --n=11 --split=train "
        "--shard=4 --dtype=float16 writes them"
    )
    with pytest.raises(FileNotFoundError, match=re.escape(words)):
        latents.open_kept(folder, {})


@pytest.mark.parametrize("damage", ["cut", "empty", "foreign", "longer"])
def test_a_damaged_shard_is_named(folder, damage):
    path = shard(folder)
    data = path.read_bytes()
    others = {"empty": b"", "foreign": b"PK\x03\x04" * 999, "longer": data + b"more"}
    path.write_bytes({"cut": data[:-1], **others}[damage])
    with pytest.raises(ValueError, match=f"{path.name} is cut off or damaged.*delete"):
        latents.open_kept(folder, {})


def test_a_shard_of_another_length_is_named(folder):
    shard(folder).write_bytes(shard(folder, 2).read_bytes())
    with pytest.raises(ValueError, match=r"00001-of-00003\S+ has 3 records, .* have 4"):
        latents.open_kept(folder, {})


def test_a_flipped_byte_is_found_when_it_is_read(folder):
    data = shard(folder).read_bytes()
    place = data.index(example(5)["caption"].encode())
    shard(folder).write_bytes(data[:place] + b"X" + data[place + 1 :])
    kept = latents.open_kept(folder, {})
    with pytest.raises(ValueError, match=r"00001-of-00003\S+, record 1 is damaged"):
        kept[5]
    assert kept[4]["label"] == 4


def test_a_record_of_garbage_is_named(folder):
    good = latents.pack(FIELDS, example(0))
    shards.write(shard(folder), iter([good, good[:-1], b"", good * 2]), 4)
    kept = latents.open_kept(folder, {})
    for i, words in ((5, "ends within 'seen'"), (6, "ends within"), (7, "goes on for")):
        with pytest.raises(ValueError, match=rf"record {i - 4} is damaged: it {words}"):
            kept[i]


def test_only_whole_shards_are_left(folder, tmp_path):
    """Of a write that fails nothing; of one that was killed until the next one."""
    path = tmp_path / "train-00000-of-00001.array_record"

    def ends():
        yield b"one"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        shards.write(path, ends(), 2)
    with pytest.raises(OSError, match="1 records of 2 were written"):
        shards.write(path, [b"one"], 2)
    assert [p.name for p in tmp_path.iterdir()] == [folder.name]
    left = path.with_name(f".{path.name}.123")
    left.write_bytes(b"half")
    shards.write(path, [b"one"], 1)
    assert path.exists() and not left.exists()


def test_a_shard_that_cannot_be_written_is_named(tmp_path):
    path = tmp_path / "none" / "train-00000-of-00001.array_record"
    with pytest.raises(OSError, match="none/train-00000.* cannot be written"):
        shards.write(path, [b"one"], 1)


def test_a_data_set_that_has_changed_is_refused(folder):
    kept = latents.open_kept(folder, {})
    drawn = [example(i) for i in range(N)]
    latents.check_examples(kept, drawn)
    drawn[2]["boxes"] = drawn[2]["boxes"] + np.float32(1e-6)  # another machine's
    latents.check_examples(kept, drawn)
    drawn[2]["label"] = np.int32(9)
    with pytest.raises(ValueError, match="example 2 of .* label .* encode it again"):
        latents.check_examples(kept, drawn)
    drawn[1]["caption"] = "a dog"
    with pytest.raises(ValueError, match="example 1 of .* caption .* 'a dog' now"):
        latents.check_examples(kept, drawn)


def labels(folder, seed, count, start=0, workers=0):
    source = pipeline.shuffled(latents.open_kept(folder, {}), seed)
    batches = pipeline.batches(source, ("label",), None, 4, start, 0, 1, workers)
    with contextlib.closing(batches):
        taken = itertools.islice(batches, count)
        return np.concatenate([batch["label"] for batch in taken])


def test_epochs_have_all_in_another_order_each_and_resume(folder):
    seen = labels(folder, 0, N)
    epochs = seen.reshape(4, N)
    assert all(sorted(epoch) == list(range(N)) for epoch in epochs.tolist())
    assert len({tuple(epoch) for epoch in epochs.tolist()}) == 4
    np.testing.assert_array_equal(labels(folder, 0, 5, start=6), seen[24:])
    np.testing.assert_array_equal(labels(folder, 0, 5, start=6, workers=1), seen[24:])
    assert labels(folder, 1, N).tolist() != seen.tolist()


def test_fields_are_compared_by_all_they_are():
    a = latents.Field("a", "int8", (2,))
    changed = {"name": "b", "dtype": "int16", "shape": (3,)}
    others = {dataclasses.replace(a, **{key: x}) for key, x in changed.items()}
    assert len(others | {a}) == 4
