"""Latents of pictures that are read: each is cut once, and its layout knows how."""

import contextlib
import json

import commands
import jax
import numpy as np
from PIL import Image
import pytest
import tqdm

from ldm_jax import config as config_lib
from ldm_jax import encoding, frozen, inputs, packing, pictures, system
from ldm_jax.data import datasets, latents, layout, packed, pipeline, shards, transforms
from ldm_jax.data import folder as folders

PICTURES, N, SIZE = 16, 12, 16  # of N the latents, the others are held out
BOX = [0.25, 0.0, 0.6, 1.0]
OPTIONS = packing.Options(heldout=0.3, least=1, broken=0.0, shard=5)
LAYOUT = dict(kind="layout", classes=3, vocab=201, length=11)


def progress(total):
    return tqdm.tqdm(total=total, disable=True)


def encode(c, folder, **changes):
    told = dict(n=None, split="train", shard=5, dtype="float32", batch_size=4)
    return encoding.encode(c, folder, **(told | {"progress": progress} | changes))


def picture(i, shift=0):
    """Red grows to the right, as far as green says that it goes; wider than high."""
    columns = np.linspace(0, 255, 30 + i).astype(np.uint8)
    image = np.zeros((20, 30 + i, 3), np.uint8)
    image[..., 0], image[..., 2] = columns, 10 * i + shift
    return image


def packed_folder(where, shift=0):
    """Pictures of none to two objects each."""
    source, rows = where / "in", []
    source.mkdir(parents=True)
    for i in range(PICTURES):
        Image.fromarray(picture(i, shift)).save(source / f"{i}.bmp")
        boxes = [{"class": k, "box": BOX, "group": i == 4} for k in range(i % 3)]
        rows.append({"file_name": f"{i}.bmp", "text": f"a fox {i}", "boxes": boxes})
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (source / folders.METADATA).write_text(lines)
    packing.pack(source, where / "out", OPTIONS, lambda total: progress(total))
    return where / "out"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A packed folder, and the weights of a first stage."""
    where = tmp_path_factory.mktemp("reads")
    return packed_folder(where), commands.first_stage(where / "stage.safetensors")


def config_of(place, cond=(), **data):
    c = commands.config_on(place[1])
    c.data.update(name="packed", path=str(place[0]), crop="random", flip=True)
    c.data.update(data)
    c.cond_stage.update(dict(cond))
    return config_lib.check(c)


@pytest.fixture
def c(place):
    return config_of(place)


@pytest.fixture(scope="module")
def folder(place, tmp_path_factory):
    """All latents in float32, in shards of 5, 5 and 2."""
    folder = tmp_path_factory.mktemp("kept")
    assert encode(config_of(place), folder)["pictures"] == N
    return folder


def from_latents(c, folder):
    c = c.copy_and_resolve_references()
    c.data.latents = str(folder)
    return config_lib.check(c)


def files(folder):
    return {path.name: path.read_bytes() for path in folder.glob("*.array_record")}


def test_the_latents_are_those_of_the_pictures_once_cut(c, place, folder):
    built, params = system.build(c), frozen.load(c)
    posterior = jax.jit(lambda x: built.posterior(params, pictures.to_float(x)))
    kept, read = latents.open_kept(folder, {}), packed.opened(place[0], "train")
    geometry = transforms.Geometry(SIZE, "random", "bicubic", True)
    lefts, flips = set(), set()
    for i in range(N):
        wanted = geometry(read[i], np.random.default_rng((c.seed, i)))
        found = kept[i]
        moments = posterior(wanted["image"][None])
        np.testing.assert_allclose(found["latent_mean"], moments.mean[0], atol=1e-5)
        np.testing.assert_allclose(found["latent_logvar"], moments.logvar[0], atol=1e-5)
        beside = {"caption", "label", "classes", "boxes", "flags", "crop", "flip"}
        assert found.keys() == beside | {"latent_mean", "latent_logvar"}
        for key in beside:
            np.testing.assert_array_equal(found[key], wanted[key])
        number = int(found["caption"].removeprefix("a fox "))
        assert len(found["boxes"]) == number % 3
        red = wanted["image"][SIZE // 2, :, 0].astype(int)
        assert (red[0] > red[-1]) == found["flip"]
        lefts.add(float(found["crop"][0]))
        flips.add(bool(found["flip"]))
    assert len(lefts) > 5 and flips == {True, False}


def taken(c, count, keys, **told):
    with inputs.batches(c, keys, **told) as batches:
        found = [next(batches) for _ in range(count)]
    return {key: np.concatenate([batch[key] for batch in found]) for key in keys}


def test_layouts_know_the_crop_and_the_flip_of_every_walk(place, folder):
    c = from_latents(config_of(place, LAYOUT), folder)
    inputs.check(c)
    assert set(system.build(c).batch) == {"latent_mean", "latent_logvar", "tokens"}
    keys = ("tokens", "crop", "flip", "latent_mean")
    found = taken(c, 3 * N, keys)  # twelve walks
    again = taken(c, N, keys, start=2 * N)
    for key in keys:
        np.testing.assert_array_equal(again[key], found[key][8 * N :])
    corner = lambda x: np.rint(np.array(x, np.float64) * 13) / 13
    seen = {}
    for tokens, part, flip, mean in zip(*found.values(), strict=True):
        _, boxes, _, crop = layout.objects_of(tokens, 201, 3)
        sides = (lambda a, b: (1 - b, 1 - a)) if flip else (lambda a, b: (a, b))
        np.testing.assert_allclose(crop[[0, 2]], corner(sides(part[0], part[2])))
        wanted = np.tile(corner(sides(BOX[0], BOX[2])), (len(boxes), 1))
        np.testing.assert_allclose(boxes[:, [0, 2]], wanted, atol=1e-6)
        told = seen.setdefault(mean.tobytes(), {(*part.tolist(), bool(flip))})
        assert told == {(*part.tolist(), bool(flip))}  # its latent's, every time
    assert len(seen) == N


def test_validation_reads_pictures(c, folder):
    c = from_latents(c, folder)
    for example in inputs.held_out(c, 2, 0):
        assert example["image"].shape == (SIZE, SIZE, 3) and not example["flip"]
        assert example["tokens"].shape == (24,)
    assert set(system.build(c).heldout) == {"image", "tokens"}


def test_a_shard_is_written_again_with_the_same_bytes(c, folder, tmp_path):
    """From its rows alone, and by worker processes."""
    whole = files(folder)
    encode(c, tmp_path)
    assert files(tmp_path) == whole
    (tmp_path / sorted(whole)[1]).unlink()
    c.data.workers = 1
    assert encode(c, tmp_path)["written"] == 5
    assert files(tmp_path) == whole


@pytest.mark.parametrize(
    ("key", "value"),
    [("crop", "center"), ("resize", "area"), ("flip", False)],
)
def test_another_geometry_is_refused_by_its_key(place, folder, key, value):
    c = config_of(place, **{key: value})
    words = f"made with data.{key} .*, now it is {value!r}.* the same data.{key}"
    with pytest.raises(ValueError, match=words):
        inputs.check(from_latents(c, folder))
    with pytest.raises(ValueError, match=words):
        encode(c, folder)


def test_a_pack_of_other_pictures_of_one_size_is_refused(place, folder, tmp_path):
    """The sizes of all files are the same, and of pack.json all but the content."""
    other = packed_folder(tmp_path, shift=1)
    for path in place[0].iterdir():
        assert (other / path.name).stat().st_size == path.stat().st_size
    with pytest.raises(ValueError, match="made with content '[0-9a-f]+', now it"):
        inputs.check(from_latents(config_of((other, place[1])), folder))
    same = packed_folder(tmp_path / "again")
    assert packed.read_about(same) == packed.read_about(place[0])
    latents.open_kept(folder, inputs.made_from(config_of((same, place[1])), "train"))


def test_the_content_of_a_pack_changes_with_every_byte(tmp_path):
    """A label of one digit for another, in the middle of many."""
    found = []
    for label in (5, 3):
        source = tmp_path / f"pictures{label}"
        source.mkdir()
        rows = [{"file_name": f"{i:03}.png", "label": 5} for i in range(64)]
        rows[30]["label"] = label
        for row in rows:
            Image.new("RGB", (16, 16)).save(source / row["file_name"])
        lines = "".join(f"{json.dumps(row)}\n" for row in rows)
        (source / "metadata.jsonl").write_text(lines)
        options = packing.Options(heldout=0.1, least=8, broken=0.0, shard=64)
        out = tmp_path / f"packed{label}"
        about, _ = packing.pack(source, out, options, progress)
        assert datasets.content("packed", out) == about["content"]
        found.append(about)
    assert found[0]["content"] != found[1]["content"]
    assert datasets.content("emoji_scenes", "") == ""


def test_a_digest_is_of_shards_and_json(tmp_path):
    """Of every part of a shard that is seen, of names and of nothing else."""
    shard, about = tmp_path / "x-train.array_record-00000-of-00001", tmp_path / "a.json"
    data = bytearray(range(256)) * 1024
    seen = set()
    for i in (None, 0, len(data) - 1, 140_000):
        changed = bytearray(data)
        if i is not None:
            changed[i] ^= 1
        shard.write_bytes(changed)
        about.write_text("{}")
        seen.add(shards.digest(tmp_path))
    about.write_text("{ }")
    seen.add(shards.digest(tmp_path))
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / ".x.array_record").write_text("left over")
    seen.add(shards.digest(tmp_path))
    shard.rename(tmp_path / "y-train.array_record-00000-of-00001")
    seen.add(shards.digest(tmp_path))
    assert len(seen) == 6
    shard.write_bytes(b"")
    assert shards.digest(tmp_path) not in seen


def test_how_many_there_are(c, tmp_path):
    with pytest.raises(ValueError, match="--n=13 is more than the 12 examples of tra"):
        encode(c, tmp_path, n=13)
    c.data.update(name="emoji_singles", path="", crop="center", flip=False)
    with pytest.raises(ValueError, match="data.name 'emoji_singles' has no end: say"):
        encode(c, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "cond",
    [
        dict(inpaint="sd"),
        dict(kind="segmentation", classes=14, stages=1, drop=0.0),
        dict(kind="low_res", stages=1, drop=0.0),
    ],
)
def test_what_needs_pictures_still_refuses_latents(place, tmp_path, cond):
    c = config_of(place)
    c.cond_stage.update(cond)
    c.sample.scale = 2.0 if "inpaint" in cond else 1.0
    config_lib.check(c)
    with pytest.raises(ValueError, match="data.latents '.*' must be '': cond_stage"):
        encode(c, tmp_path)


def row(count, width=4):
    gen = np.random.default_rng(count)
    return {
        "boxes": gen.random((count, width), np.float32),
        "caption": "é" * count,
        "classes": np.arange(count, dtype=np.int32),
        "label": np.int32(7),
    }


FIELDS = tuple(
    latents.field_of(name, value, name in ("boxes", "classes", "label"))
    for name, value in row(2).items()
)


@pytest.mark.parametrize("count", [0, 1, 300])
def test_rows_may_be_more_or_fewer(count):
    assert [field.shape for field in FIELDS] == [(-1, 4), (), (-1,), ()]
    found = latents.unpack(FIELDS, latents.pack(FIELDS, row(count)))
    for name, value in row(count).items():
        np.testing.assert_array_equal(found[name], value)
        if name != "caption":
            assert found[name].shape == value.shape and found[name].flags.writeable


@pytest.mark.parametrize("classes", [np.int32(1), np.zeros((2, 1), np.int32)])
def test_only_their_number_may_differ(classes):
    for example in (row(3, width=5), row(3) | {"classes": classes}):
        with pytest.raises(ValueError, match="differs from that of the first one"):
            latents.pack(FIELDS, example)


def test_a_damaged_count_is_refused():
    record = latents.pack(FIELDS, row(2))
    for end in range(len(record)):
        with pytest.raises(ValueError, match="it ends within '"):
            latents.unpack(FIELDS, record[:end])
    for count in (b"\xff\xff\xff\xff", b"\x00\x00\x00\x80", b"\x09\x00\x00\x00"):
        with pytest.raises(ValueError, match="it ends within 'boxes'"):
            latents.unpack(FIELDS[:1], count + record[4:])
    with pytest.raises(ValueError, match="goes on for 16 bytes after its fields"):
        latents.unpack(FIELDS[:1], b"\x01" + record[1:36])
    gen = np.random.default_rng(0)
    for _ in range(300):
        with contextlib.suppress(ValueError):
            latents.unpack(FIELDS, gen.bytes(gen.integers(0, 120)))


@pytest.mark.parametrize(
    "shape", [[-2], [-1, 0], [3, -1], [-1, -1], [-1.0], [True], [-1, 10**30], [2**31]]
)
def test_a_shape_that_cannot_be_is_refused(folder, tmp_path, shape):
    about = json.loads((folder / latents.ABOUT).read_text())
    about["fields"].append(["odd", "int8", shape])
    (tmp_path / latents.ABOUT).write_text(json.dumps(about))
    with pytest.raises(ValueError, match="field 'odd' has the shape"):
        latents.read_about(tmp_path)


def test_a_damaged_record_of_many_rows_is_named(folder, tmp_path):
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    about = latents.read_about(folder)
    path = latents.shard_path(tmp_path, about, 0)
    whole = latents.open_kept(folder, {})
    good = [whole.records[i] for i in range(5)]
    shards.write(path, [good[0], good[1][:-9], good[2] + b"1", *good[3:]], 5)
    kept = latents.open_kept(tmp_path, {})
    for i, words in ((1, "it ends within '"), (2, "it goes on for 1 bytes")):
        with pytest.raises(ValueError, match=f"record {i} is damaged: {words}"):
            kept[i]
    assert kept[3]["caption"] == whole[3]["caption"]


def test_what_tensorflow_datasets_prepared_is_kept_too(place, tmp_path):
    test_tfds = pytest.importorskip("test_tfds")
    builder = test_tfds.Scenes(data_dir=tmp_path / "in", file_format="array_record")
    builder.download_and_prepare()
    c = config_of(place, LAYOUT | {"classes": 8}, name="tfds", path=builder.data_dir)
    told = encode(c, tmp_path / "kept")
    assert told["pictures"] == test_tfds.N
    kept, square = latents.open_kept(tmp_path / "kept", {}), inputs.square_source
    square = square(c, "train")
    for i in range(test_tfds.N):
        for key in ("classes", "boxes", "flags", "crop", "flip", "caption"):
            np.testing.assert_array_equal(kept[i][key], square[i][key])
    c = from_latents(c, tmp_path / "kept")
    inputs.check(c)
    assert taken(c, 2, ("tokens",))["tokens"].shape == (8, 11)
    (shard,) = builder.data_path.glob("*train.array_record*")
    data = shard.read_bytes()
    shard.write_bytes(data[:40] + bytes([data[40] ^ 1]) + data[41:])
    with pytest.raises(ValueError, match="made with content '[0-9a-f]+', now it"):
        latents.open_kept(tmp_path / "kept", inputs.made_from(c, "train"))


def test_batches_take_records_of_any_length():
    """As they go through the pipeline, also where numpy would cut zeros off."""
    fields = (latents.Field("caption", "text"),)
    source = [{"caption": text, "image": np.zeros(1)} for text in ("a\0", "", "long")]
    parts = encoding.Parts(inputs.Prepare(None), fields)
    batches = pipeline.batches(source, ("image", "rest"), parts, 3, 0, 0, 1, 0)
    with contextlib.closing(batches):
        rest = next(batches)["rest"]
    found = [latents.unpack(fields, record)["caption"] for record in rest]
    assert found == ["a\0", "", "long"]


def test_a_pack_that_lacks_what_is_told_is_refused_before_it_is_encoded(
    place, tmp_path
):
    source = tmp_path / "in"
    source.mkdir()
    for i in range(4):
        Image.fromarray(picture(i)).save(source / f"{i}.png")
    packing.pack(source, tmp_path / "out", OPTIONS, progress)
    c = config_of((tmp_path / "out", place[1]))
    with pytest.raises(ValueError, match="has no captions, which this model is told"):
        encode(c, tmp_path / "kept")
    assert not (tmp_path / "kept").exists()
