"""Generated pictures as files: what is wanted, its arrays, and the files it becomes."""

import collections
from concurrent import futures
import dataclasses
import hashlib
import json
import pathlib

import numpy as np
from PIL import Image
import tqdm

from ldm_jax import cli, generation, jobs, paths, pictures
from ldm_jax import prompts as prompts_lib
from ldm_jax.data import packed, shards
from ldm_jax.weights import own

HIGHEST = 2**31 - 1  # seed or index: beyond it two could be the same
SHEET, SHEETS = 64, 16  # pictures on a sheet; sheets of a job, at most
LOST = 10  # pictures that are not finite, after which a job gives up
WRITERS = 4  # threads: compressing a PNG takes as long as a small model's step


@dataclasses.dataclass(frozen=True)
class Wanted:
    """n pictures of each prompt; of a model without a condition, n without any."""

    prompts: tuple = ()
    n: int = 1
    seed: int = 0
    index: int = 0  # of the first picture: its noise comes from seed and index alone
    negative: str = ""  # the prompt that all are led away from
    given: dict = dataclasses.field(default_factory=dict)  # all are told {name: array}
    variation: tuple = ()  # (seed, share of the way to its noise), of all
    said: tuple = ()  # of each prompt, what stands for the above: dict of orders.KEYS

    def __len__(self):
        return max(len(self.prompts), 1) * self.n

    def picture(self, number):
        """What one picture is of. With a seed of its own a prompt counts anew."""
        own = self.said[number // self.n] if self.said else {}
        alone = "seed" in own
        row = {"prompt": self.prompts[number // self.n] if self.prompts else ""}
        row |= {"seed": own.get("seed", self.seed)}
        row |= {"index": self.index + (number % self.n if alone else number)}
        negative = own.get("negative_prompt", self.negative)
        row |= {"negative_prompt": negative} if negative else {}
        row |= {"scale": own["scale"]} if "scale" in own else {}
        seed, share = self.variation or (None, None)
        seed, share = own.get("variation_seed", seed), own.get("variation", share)
        if (seed, share) != (None, None):
            if seed is None or share is None or not 0 <= share <= 1:
                raise ValueError(
                    f"prompt {row['prompt']!r} leads to the noise of seed {seed} by "
                    f"{share}: a variation needs both, and a share in [0, 1]"
                )
            row |= {"variation_seed": seed, "variation": share}
        return row


def draw(
    model, wanted, batch_size, out, say=cli.say, overwrite=False, cut=False, **share
):
    """Draws what is missing of a job in the folder `out`; returns all its rows.

    share: host, hosts and shard as of jobs.Job. With several hosts the rows are () as
    long as any has to draw. overwrite: remove another job that `out` holds; cut: draw
    what fits of prompts that are too long. Raises ValueError for such a prompt,
    FileExistsError where `out` holds something else, and FloatingPointError at the end
    if pictures were not finite: the others are there.
    """
    about = _about(model, wanted, share)
    job = jobs.Job(pathlib.Path(out), about, len(wanted), **share)
    told = Told(model, wanted, say, cut)  # says what is wrong before a file is written
    with jobs.at_work(job, overwrite), jobs.writing(job) as write:
        numbers = job.missing()
        left = len(numbers)
        with tqdm.tqdm(total=left, unit="picture", disable=not left) as bar:
            save = _save_shards if job.shard else _save_pictures
            lost = save(job, told, numbers, batch_size, write, bar.update)
        rows = jobs.finish(job) if job.settled() else ()
        if not job.shard:
            _write_sheets(job.out, rows)
    if lost:
        raise FloatingPointError(
            f"pictures {', '.join(map(str, lost))} are not finite, nothing was written "
            f"for them; in {job.out} are the others"
        )
    return rows


def extend(model, wanted, batch_size, out, say=cli.say):
    """Draws beside the pictures in `out`: numbers and manifest go on.

    grid.png shows the new ones; returns their rows. Prompts that are not understood
    whole are told by `say`.
    """
    told, out = Told(model, wanted, say), pathlib.Path(out)
    out.mkdir(parents=True, exist_ok=True)
    jobs.check_folder(out, empty=True)
    first, rows, images = next_number(out), [], []
    for number, x in told.drawn(np.arange(len(wanted)), batch_size):
        row = {"file": f"{first + number:05}.png"} | told.row(number) | told.same
        row["number"] = first + number
        if not np.isfinite(x).all():
            raise FloatingPointError(
                f"picture {row['number']} is not finite, nothing was written: {row}"
            )
        image = np.asarray(pictures.to_uint8(x))
        write_picture(out, image, row)
        with (out / jobs.MANIFEST).open("a", encoding="utf-8") as manifest:
            manifest.write(json.dumps(row) + "\n")
        rows.append(row)
        images.append(image)
    pictures.save_png(out / "grid.png", pictures.grid(np.stack(images)))
    return rows


def next_number(out):
    """One more than the highest number of a picture in the folder."""
    stems = (path.stem for path in out.glob("*.png"))
    return max((int(stem) + 1 for stem in stems if stem.isdecimal()), default=0)


class Told:
    """What a model is told of each picture that is wanted, and what it draws of it."""

    def __init__(self, model, wanted, say, cut=True):
        self._model, self._wanted = model, wanted
        self.same = _same(model)  # for all pictures
        self._arrays = {}
        if wanted.prompts:
            asked = range(0, len(wanted), wanted.n)
            negatives = [wanted.picture(i).get("negative_prompt", "") for i in asked]
            if len(set(negatives)) == 1:
                negatives = negatives[0]
            self._arrays = prompts_lib.arrays(
                model, wanted.prompts, negatives, say, cut
            )

    def row(self, number):
        """What is kept of a picture, but for its file and what is the same for all."""
        return {"number": int(number)} | self._wanted.picture(number)

    def drawn(self, numbers, batch_size):
        """Yields (number, x [H, W, 3]) of these pictures, in their order."""
        parts = [
            numbers[at : at + batch_size] for at in range(0, len(numbers), batch_size)
        ]
        full = (np.resize(part, batch_size) for part in parts)  # one shape for all
        told = ((self.batch(part), self._keys(part)) for part in full)
        stream = generation.stream(self._model, told, batch_size)
        for part, x in zip(parts, stream, strict=True):
            yield from zip(part.tolist(), x, strict=False)

    def batch(self, numbers):
        """The arrays that the model reads of these pictures, {name: [n, ...]}."""
        wanted = self._wanted
        batch = {name: a[numbers // wanted.n] for name, a in self._arrays.items()}
        for name, array in wanted.given.items():
            batch[name] = np.broadcast_to(array, (len(numbers), *array.shape))
        rows = [wanted.picture(number) for number in numbers]
        if any("scale" in own for own in wanted.said):
            usual = self._model.config.sample.scale
            scales = [row.get("scale", usual) for row in rows]
            batch["scale"] = np.array(scales, np.float32)
        if wanted.variation or any("variation" in own for own in wanted.said):
            seeds = [row.get("variation_seed", row["seed"]) for row in rows]
            shares = [row.get("variation", 0.0) for row in rows]
            batch["toward"] = _keys_of(seeds, rows)
            batch["variation"] = np.array(shares, np.float32)
        return batch

    def _keys(self, numbers):
        rows = [self._wanted.picture(number) for number in numbers]
        return _keys_of([row["seed"] for row in rows], rows)


def _keys_of(seeds, rows):
    indices = np.array([row["index"] for row in rows], np.uint32)
    return generation.keys(np.array(seeds, np.uint32), indices)


def _same(model):
    """What the rows of all pictures have in common."""
    settings = model.config.sample.to_dict()
    settings.pop("decode_batch")  # it changes no picture
    settings |= {"image_size": model.config.data.image_size}
    settings |= {"words": [word for word, _ in model.words]} if model.words else {}
    same = {"settings": settings, "weights": model.weights}
    return json.loads(json.dumps(same))  # as it will be read back


def _about(model, wanted, share):
    """What makes a job the job it is: JSON, the same whenever its pictures are."""
    asked, given = hashlib.sha256(), hashlib.sha256()
    for first in range(0, len(wanted), wanted.n):
        asked.update(json.dumps(wanted.picture(first)).encode())
    for name, array in sorted(wanted.given.items()):
        given.update(f"{name} {array.dtype} {array.shape}".encode() + array.tobytes())
    about = {"pictures": len(wanted), "n": wanted.n, "seed": wanted.seed}
    about |= {"prompts": asked.hexdigest()[:12], "given": given.hexdigest()[:12]}
    about |= {"shard": share.get("shard", 0), "model": _hash(model)}
    return about | _same(model)


def _hash(model):
    """Of what besides its weights and settings makes a model draw what it draws."""
    sections = ("schedule", "first_stage", "cond_stage", "unet", "loss")
    told = {name: model.config[name].to_dict() for name in sections}
    if model.config.control.hints:
        shape = model.config.control.to_dict()  # without how it began
        unlike = ("init", "connections")
        told["control"] = {k: v for k, v in shape.items() if k not in unlike}
    files = [model.config.sample.guide, *model.config.sample.branches]
    files += [told["first_stage"].pop("weights"), told["cond_stage"].pop("vocabulary")]
    told["files"] = [own.digest(paths.resolve(name)) for name in files if name]
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:12]


def write_picture(out, image, row):
    """A PNG that holds its row."""
    pictures.save_png(out / row["file"], image, {"ldm_jax": json.dumps(row)})


def _finite(job, told, numbers, batch_size, write, lost):
    """Yields (row, uint8 picture) of what is drawn; (row, None) of what is not finite.

    Its number joins `lost`; raises FloatingPointError once there are LOST of them.
    """
    for number, x in told.drawn(numbers, batch_size):
        row = {"file": job.name(number)} | told.row(number)
        if np.isfinite(x).all():
            yield row, np.asarray(pictures.to_uint8(x))
            continue
        lost.append(number)
        if len(lost) == LOST:
            raise FloatingPointError(
                f"pictures {', '.join(map(str, lost))} are not finite: gave up"
            )
        write({"number": number, "lost": True})
        yield row, None


def _save_pictures(job, told, numbers, batch_size, write, tick):
    """A PNG of each number, and after it its row; returns those that are not finite."""
    lost, waiting = [], collections.deque()

    def written():
        row, future = waiting.popleft()
        try:
            future.result()
        except OSError as error:
            raise OSError(
                f"{job.out / row['file']} cannot be written: {error.strerror}. What "
                f"{job.manifest.name} has is there; the same command draws the others"
            ) from error
        write(row)
        tick()

    with futures.ThreadPoolExecutor(WRITERS) as pool:
        try:
            for row, image in _finite(job, told, numbers, batch_size, write, lost):
                if image is not None:
                    picture = job.out, image, row | told.same
                    waiting.append((row, pool.submit(write_picture, *picture)))
                if len(waiting) > 2 * batch_size:
                    written()
        finally:
            while waiting:
                written()
    return lost


def _save_shards(job, told, numbers, batch_size, write, tick):
    """A file of records for each shard, and after it its rows; returns as above."""
    lost, waiting = [], []

    def record(row, image):
        text = json.dumps(row | told.same)
        nothing = {"label": -1, "classes": [], "boxes": [], "flags": []}
        png = pictures.png(image, {"ldm_jax": text})
        return packed.pack(nothing | {"text": row["prompt"], "image": png})

    with futures.ThreadPoolExecutor(WRITERS) as pool:
        for row, image in _finite(job, told, numbers, batch_size, write, lost):
            if image is not None:
                waiting.append((row, pool.submit(record, row, image)))
            tick()
            last = row["number"] + 1
            if waiting and (last % job.shard == 0 or last == job.count):
                records = [future.result() for _, future in waiting]
                shards.write(job.out / row["file"], records, len(records))
                for own, _ in waiting:
                    write(own)
                waiting = []
    return lost


def _write_sheets(out, rows):
    """grid.png, and grid_1.png and so on of more than SHEET pictures."""
    for sheet in range(min(SHEETS, -(-len(rows) // SHEET))):
        images = []
        for row in rows[sheet * SHEET : (sheet + 1) * SHEET]:
            with Image.open(out / row["file"]) as image:
                images.append(np.asarray(image))
        name = f"grid_{sheet}.png" if sheet else "grid.png"
        pictures.save_png(out / name, pictures.grid(np.stack(images)))
