"""Files of records: ArrayRecord shards, written whole and read in any order.

Reading them executes nothing. What a record holds is the matter of those who write it.
"""

from concurrent import futures
import hashlib
import os
import pathlib
import uuid

# A record can be read alone; what we keep does not get smaller by compression.
WRITTEN = "group_size:1,uncompressed"
SAMPLES, BLOCK = 16, 4096  # of a shard: how many parts its digest is of, bytes of each


def path(folder, split, shard, shards):
    """The file of a shard, of `shards` of a split."""
    name = f"{split}-{shard:05}-of-{shards:05}.array_record"
    return pathlib.Path(folder) / name


def write(path, records, count):
    """Writes `count` records of bytes; the file appears whole or not at all.

    What a process left that was killed while it wrote this file goes.
    """
    for old in path.parent.glob(f".{path.name}.*"):
        old.unlink(missing_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        writer = _told(path, _array_record().ArrayRecordWriter, str(temporary), WRITTEN)
        for record in records:
            _told(path, writer.write, record)
        _told(path, writer.close)
        found = _count(temporary)
        if found != count:  # a full disk is not always told
            raise OSError(
                f"of {path} {found or 0} records of {count} were written: is the disk "
                "full?"
            )
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _told(path, call, *arguments):
    """call(*arguments) of a writer, whose errors are those of the file."""
    try:
        return call(*arguments)
    except RuntimeError as error:
        raise OSError(f"{path} cannot be written: {error}") from error


def _array_record():
    # Not at the top: grain brings it, but not to Windows, where the rest works.
    from array_record.python import array_record_module

    return array_record_module


def _count(path):
    """How many records a shard has, None if it is damaged."""
    reader = _array_record().ArrayRecordReader(str(path))
    if not reader.ok():
        return None
    found = reader.num_records()
    reader.close()  # of a damaged file it raises
    return found


def check(path, count):
    """Raises ValueError naming the file unless it is a whole shard of count records."""
    found = _count(path)
    if found != count:
        what = "is cut off or damaged" if found is None else f"has {found} records"
        raise ValueError(
            f"{path} {what}, it should have {count}: delete it, and the command that "
            "wrote it writes it anew"
        )


def opened(paths, counts, command):
    """Random access to the bytes of all shards' records; picklable.

    command: what writes them. Raises FileNotFoundError saying which are missing,
    ValueError for one that is not whole.
    """
    from array_record.python import array_record_data_source

    missing = [path for path in paths if not path.is_file()]
    if missing:
        raise FileNotFoundError(
            f"{len(missing)} of {len(paths)} shards are missing in {paths[0].parent}, "
            f"the first is {missing[0].name}: {command} writes them"
        )
    with futures.ThreadPoolExecutor(16) as pool:
        list(pool.map(check, paths, counts))
    spans = [f"{path}[0:{count}]" for path, count in zip(paths, counts, strict=True)]
    return array_record_data_source.ArrayRecordDataSource(spans)


def digest(folder):
    """What tells a folder of shards that others wrote from another: a hash.

    Of its JSON files, and of each shard the name, the size and parts from all over it:
    shards are filled up to multiples of 64 KiB, so other pictures may be of one size. A
    change that leaves all of these as they are is not seen.
    """
    found = hashlib.sha256()
    for path in sorted(pathlib.Path(folder).iterdir()):
        if path.suffix == ".json":
            found.update(path.name.encode() + path.read_bytes())
        elif ".array_record" in path.name and not path.name.startswith("."):
            size = path.stat().st_size
            found.update(f"{path.name} {size} ".encode())
            with open(path, "rb") as file:
                for i in range(SAMPLES):
                    file.seek(max(size - BLOCK, 0) * i // (SAMPLES - 1))
                    found.update(file.read(BLOCK))
    return found.hexdigest()[:12]
