"""A job: all pictures of one command, whoever draws them and however often it begins.

A folder of a job has

    job.json         what its pictures are of, with all settings: another job is refused
    00000.png, ...   or, of a job in shards, train-00000.array_record, ...
    manifest.jsonl   a row for each picture that is there, written after it: its prompt,
                     seed and index
    pack.json        of a job in shards that is whole: training reads such a folder, and
                     validates on its last file, heldout-00000.array_record

Hosts share a job by the pictures' numbers alone and never wait for each other: each has
a manifest of its own, and whoever finds that nothing is missing any more merges them.
So a host that is lost stops no other, and the same command, by as many hosts or by
fewer, draws what is missing and nothing else.

A picture that was not finite has a row that says so, {"number": 7, "lost": true}. It is
not waited for, and the same command tries it again.
"""

import contextlib
import dataclasses
import errno
import hashlib
import importlib
import json
import os
import pathlib
import re
import time
import uuid

import numpy as np

from ldm_jax.data import packed

JOB, MANIFEST, LOCK = "job.json", "manifest.jsonl", ".lock"
# What a job may have made in its folder, finished or not.
PICTURE = re.compile(r"\d+\.png|(train|heldout)-\d+\.array_record")
NAMES = rf"{PICTURE.pattern}|grid(_\d+)?\.png|manifest.*\.jsonl"
OURS = re.compile(rf"(\.({NAMES}|[a-z]+\.jsonl?)\..*|{NAMES}|pack\.json)")
TORN = re.compile(r"\.\d+\.png\..*")  # pictures that were never whole
PATIENCE = 60.0  # seconds for another host to remove what is overwritten
# What a file system says that has no locks: then there are none.
WITHOUT_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


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
            return self.file(number // self.shard).name
        return f"{number:0{max(5, len(str(self.count - 1)))}}.png"

    def file(self, shard):
        """The path of a file of records: the last one is held out, if it is not all."""
        last = (self.count - 1) // self.shard
        split = ("heldout", 0) if shard == last > 0 else ("train", shard)
        return packed.shard_path(self.out, *split)

    def settled(self):
        """Whether each picture is there, or was drawn and lost."""
        return self._there(lost=True).all()

    def missing(self):
        """Numbers that this host is to draw, rising: int64 [n]."""
        numbers = np.flatnonzero(~self._there(lost=False))
        return numbers[numbers // max(self.shard, 1) % self.hosts == self.host]

    def _there(self, lost):
        """Whether each picture is there: bool [count]. lost: what a lost one counts."""
        there, files = np.zeros(self.count, bool), {}
        for row in written(self.out):
            if not 0 <= row["number"] < self.count:
                raise ValueError(
                    f"the manifests in {self.out} have a picture {row['number']}, of "
                    f"{self.count}: they are of no job of this command"
                )
            if "lost" in row:
                there[row["number"]] |= lost
                continue
            path = self.out / row["file"]
            if path not in files:
                files[path] = path.exists()
            there[row["number"]] |= files[path]
        if self.shard:  # one that lacks a row is drawn as a whole
            starts = np.arange(0, self.count, self.shard)
            sizes = np.diff(np.append(starts, self.count))
            there = np.repeat(np.logical_and.reduceat(there, starts), sizes)
        return there


def check_folder(out, empty=False):
    """Raises OSError where no folder `out` can be written to, before any work.

    empty: or where it holds a job.
    """
    there = pathlib.Path(out).absolute()
    if empty and (there / JOB).exists():
        raise FileExistsError(f"{out} holds the pictures of a job: name another --out")
    while not there.exists():
        there = there.parent
    if not there.is_dir():
        raise NotADirectoryError(f"--out={out}: {there} is a file, not a folder")
    if not os.access(there, os.W_OK | os.X_OK):
        raise PermissionError(f"--out={out}: {there} may not be written to")


@contextlib.contextmanager
def at_work(job, overwrite=False):
    """Makes the folder the job's, as long as this process draws into it.

    Raises FileExistsError where it holds another job, or pictures of none, and nothing
    is changed. overwrite: removes those of another job first, unless a process is at
    work on it.
    """
    job.out.mkdir(parents=True, exist_ok=True)
    with (job.out / LOCK).open("ab") as lock:
        until = time.monotonic() + PATIENCE
        while not _begun(job, lock, overwrite):
            if time.monotonic() > until:
                raise FileExistsError(
                    f"another process is drawing another job into {job.out}"
                )
            time.sleep(0.2)  # it may be another host of ours that is removing it
        yield


def _begun(job, lock, overwrite):
    """Whether the folder is the job's now; then this process shares its lock."""
    _locked(lock, "LOCK_SH")
    there = _about(job.out)
    if there == job.about:
        return True
    if there is None:
        _check_free(job.out)
        _write_text(job.out / JOB, json.dumps(job.about, indent=1), new=True)
        return _about(job.out) == job.about
    if not overwrite:
        raise FileExistsError(_difference(job, there))
    if not _locked(lock, "LOCK_EX"):
        return False
    if _about(job.out) == there:
        _remove(Job(job.out, there, there["pictures"], shard=there["shard"]))
    return False


def _remove(job):
    """Removes a job's files, its name last; nothing if others might be among them."""
    made = {job.name(number) for number in range(job.count)}
    found = [path for path in job.out.iterdir() if OURS.fullmatch(path.name)]
    for path in found:
        if PICTURE.fullmatch(path.name) and path.name not in made:
            raise FileExistsError(f"{path} is of no job, move it before --overwrite")
    for path in found:
        path.unlink(missing_ok=True)
    (job.out / JOB).unlink()


def _locked(file, how):
    """Whether it is: LOCK_EX is not waited for. Closing the file ends a lock."""
    with contextlib.suppress(ImportError):  # on Windows there are none
        fcntl = importlib.import_module("fcntl")
        flags = {"LOCK_SH": fcntl.LOCK_SH, "LOCK_EX": fcntl.LOCK_EX | fcntl.LOCK_NB}
        try:
            fcntl.flock(file, flags[how])
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno not in WITHOUT_LOCKS:
                raise
    return True


def _about(out):
    """What job.json says, or None."""
    try:
        return json.loads((out / JOB).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise ValueError(f"{out / JOB} is damaged: {error}") from error


def _check_free(out):
    taken = sorted(path.name for path in out.iterdir() if OURS.fullmatch(path.name))
    if taken:
        raise FileExistsError(
            f"{out} has {taken[0]} already, which is of no job: name another folder by "
            "--out"
        )


def _difference(job, there):
    """Says in what another job is another."""
    keys = [key for key in job.about if there.get(key) != job.about[key]]
    told = [f"{key} {there.get(key)!r}, not {job.about[key]!r}" for key in keys]
    return (
        f"{job.out} holds the pictures of another job: {', '.join(told)}. Name another "
        "folder by --out, or --overwrite that job"
    )


def rows(out):
    """{number: row} of the pictures of all manifests that are not lost."""
    return {row["number"]: row for row in written(out) if "lost" not in row}


def written(out):
    """Yields the rows of all manifests, some of them twice.

    A last line that was cut off, by a host that was killed or is just writing it, is of
    no picture. Raises ValueError naming the file of another that is none.
    """
    for path in sorted(out.glob("manifest*.jsonl")):
        with path.open("rb") as file:
            for line in file:
                if line.endswith(b"\n"):
                    try:
                        yield json.loads(line)
                    except ValueError as error:
                        raise ValueError(f"{path} is damaged: {error}") from error


@contextlib.contextmanager
def writing(job):
    """This host's manifest, to append to: yields write(row).

    Raises OSError where another process has it open.
    """
    with job.manifest.open("ab+") as file:
        if not _locked(file, "LOCK_EX"):
            raise OSError(
                f"another process is drawing into {job.out} as host {job.host} of "
                f"{job.hosts}"
            )
        file.seek(0)
        whole = file.read().rfind(b"\n") + 1  # what was cut off goes
        file.truncate(whole)

        def write(row):
            file.write(json.dumps(row).encode() + b"\n")
            file.flush()

        yield write


def finish(job):
    """Of a settled job: one manifest, in the order of numbers, and pack.json.

    Hosts that end together write the same files, each of them whole. Returns the rows.
    """
    found, lost = rows(job.out), {}
    for row in written(job.out):
        if row["number"] not in found:
            lost[row["number"]] = row
    both = found | lost
    text = "".join(f"{json.dumps(both[number])}\n" for number in sorted(both))
    _write_text(job.out / MANIFEST, text)
    ordered = [found[number] for number in sorted(found)]
    if job.shard:
        _write_text(job.out / packed.ABOUT, packed.about_text(_pack(job, ordered)))
    for path in job.out.glob(".*.png.*"):  # of processes that were killed
        if TORN.fullmatch(path.name):
            path.unlink(missing_ok=True)
    return ordered


def _pack(job, ordered):
    """What pack.json says: the prompts are captions."""
    places = [row["number"] // job.shard for row in ordered]
    sizes = np.bincount(places, minlength=-(-job.count // job.shard)).tolist()
    if 0 in sizes:
        raise ValueError(f"all pictures of {job.out}'s shard {sizes.index(0)} are lost")
    content = hashlib.sha256()
    for shard in range(len(sizes)):
        with job.file(shard).open("rb") as file:
            content.update(hashlib.file_digest(file, "sha256").digest())
    splits = {"train": sizes[:-1], "heldout": sizes[-1:]}
    about = {"splits": splits if len(sizes) > 1 else {"train": sizes}}
    about |= {"labels": [], "classes": []}
    about |= {"maps": [], "captions": True, "skipped": job.count - len(ordered)}
    return about | {"content": content.hexdigest()[:16]}


def _linked(temporary, path):
    """Gives the file its name, unless another process was faster."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        pass
    except OSError:  # a file system without links
        os.replace(temporary, path)


def _write_text(path, text, new=False):
    """The file appears whole or not at all; new: unless there is one."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        temporary.write_text(text, encoding="utf-8")
        if not new:
            os.replace(temporary, path)
        elif not path.exists():
            _linked(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
