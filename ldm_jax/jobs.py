"""A job: all pictures of one command, whoever draws them and however often it begins.

A folder of a job has

    job.json         what its pictures are of, with all settings: another job is refused
    00000.png, ...   or, of a job in shards, train-00000.array_record, ...
    manifest.jsonl   a row for each picture that is there, written after it: its prompt,
                     seed and index
    pack.json        of a job in shards that is whole: training reads such a folder

Hosts share a job by the pictures' numbers alone and never wait for each other: each has
a manifest of its own, and whoever finds that nothing is missing any more merges them.
So a host that is lost stops no other, and the same command, by as many hosts or by
fewer, draws what is missing and nothing else.
"""

import contextlib
import dataclasses
import hashlib
import importlib
import json
import os
import pathlib

import numpy as np

from ldm_jax.data import packed

JOB, MANIFEST = "job.json", "manifest.jsonl"


@dataclasses.dataclass(frozen=True)
class Job:
    """`count` pictures in a folder; this process is `host` of `hosts`."""

    out: pathlib.Path
    about: dict  # what they are of, as job.json has it
    count: int
    host: int = 0
    hosts: int = 1
    shard: int = 0  # pictures in a file of records; 0: each is a PNG

    @property
    def manifest(self):
        """This host's."""
        own = f"manifest.{self.host}-of-{self.hosts}.jsonl"
        return self.out / (MANIFEST if self.hosts == 1 else own)

    def name(self, number):
        """The file of a picture."""
        if self.shard:
            return packed.shard_path("", "train", number // self.shard).name
        return f"{number:0{max(5, len(str(self.count - 1)))}}.png"

    def whole(self):
        """Whether no picture is missing."""
        return not len(self._missing())

    def missing(self):
        """Numbers that this host is to draw, rising: int64 [n]."""
        numbers = self._missing()
        return numbers[numbers // max(self.shard, 1) % self.hosts == self.host]

    def _missing(self):
        there, files = np.zeros(self.count, bool), {}
        for row in written(self.out):
            path = self.out / row["file"]
            if path not in files:
                files[path] = path.exists()
            there[row["number"]] = files[path]
        if self.shard:  # one that lacks a row is drawn as a whole
            starts = np.arange(0, self.count, self.shard)
            sizes = np.diff(np.append(starts, self.count))
            there = np.repeat(np.logical_and.reduceat(there, starts), sizes)
        return np.flatnonzero(~there)


def check_folder(out):
    """Raises OSError where no folder `out` can be written to, before any work."""
    there = pathlib.Path(out).absolute()
    while not there.exists():
        there = there.parent
    if not there.is_dir():
        raise NotADirectoryError(f"--out={out}: {there} is a file, not a folder")
    if not os.access(there, os.W_OK | os.X_OK):
        raise PermissionError(f"--out={out}: {there} may not be written to")


def begin(job, overwrite=False):
    """Makes the folder the job's.

    Raises FileExistsError where it holds another job, or pictures of none, and nothing
    is changed; overwrite removes those of another job first.
    """
    job.out.mkdir(parents=True, exist_ok=True)
    path = job.out / JOB
    if path.exists() and _read(path) != job.about:
        if not overwrite:
            raise FileExistsError(_difference(job, _read(path)))
        remove(job.out)
    if not path.exists():
        taken = sorted(p.name for p in job.out.iterdir() if _is_ours(p))
        if taken:
            raise FileExistsError(
                f"{job.out} has {taken[0]} already, which is of no job: name another "
                "folder by --out"
            )
        _write_text(path, json.dumps(job.about, indent=1))


def _is_ours(path):
    """Whether a file has a name that a job might give."""
    numbered = path.stem.isdecimal() and path.suffix == ".png"
    return numbered or path.name in (MANIFEST, packed.ABOUT, "grid.png")


def _read(path):
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}") from error


def _difference(job, there):
    """Says in what another job is another."""
    keys = [key for key in job.about if there.get(key) != job.about[key]]
    told = [f"{key} {there.get(key)!r}, not {job.about[key]!r}" for key in keys]
    return (
        f"{job.out} holds the pictures of another job: {', '.join(told)}. Name another "
        "folder by --out, or --overwrite that job"
    )


def remove(out):
    """Removes a job's files, its name last."""
    for row in rows(out).values():
        (out / row["file"]).unlink(missing_ok=True)
    sheets = [*out.glob("grid*.png"), out / packed.ABOUT]
    for path in [*sheets, *out.glob("manifest*.jsonl"), out / JOB]:
        path.unlink(missing_ok=True)


def rows(out):
    """{number: row} of all manifests."""
    return {row["number"]: row for row in written(out)}


def written(out):
    """Yields the rows of all manifests, some of them twice.

    A last line that was cut off, by a host that was killed or is just writing it, is of
    no picture.
    """
    for path in sorted(out.glob("manifest*.jsonl")):
        with path.open("rb") as file:
            for line in file:
                if line.endswith(b"\n"):
                    yield json.loads(line)


@contextlib.contextmanager
def writing(job):
    """This host's manifest, to append to: yields write(row).

    Raises OSError where another process has it open.
    """
    with job.manifest.open("ab+") as file:
        _lock(file, job)
        file.seek(0)
        whole = file.read().rfind(b"\n") + 1  # what was cut off goes
        file.truncate(whole)

        def write(row):
            file.write(json.dumps(row).encode() + b"\n")
            file.flush()

        yield write


def _lock(file, job):
    """Until the file is closed, or the process ends, however it does."""
    with contextlib.suppress(ImportError):  # on Windows there is none
        fcntl = importlib.import_module("fcntl")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise OSError(
                f"another process is drawing into {job.out} as host {job.host} of "
                f"{job.hosts}"
            ) from error


def finish(job):
    """Of a whole job: one manifest, in the order of numbers, and pack.json.

    Hosts that end together write the same files, each of them whole.
    """
    found = rows(job.out)
    ordered = [found[number] for number in sorted(found)]
    text = "".join(f"{json.dumps(row)}\n" for row in ordered)
    _write_text(job.out / MANIFEST, text)
    if job.shard:
        _write_text(job.out / packed.ABOUT, packed.about_text(_about_pack(job)))
    return ordered


def _about_pack(job):
    sizes = [min(job.shard, job.count - i) for i in range(0, job.count, job.shard)]
    content = hashlib.sha256()
    for shard in range(len(sizes)):
        with packed.shard_path(job.out, "train", shard).open("rb") as file:
            content.update(hashlib.file_digest(file, "sha256").digest())
    about = {"splits": {"train": sizes}, "labels": [], "classes": [], "maps": []}
    about |= {"captions": True, "skipped": 0, "content": content.hexdigest()[:16]}
    return about


def _write_text(path, text):
    """The file appears whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
