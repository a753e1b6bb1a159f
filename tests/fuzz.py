"""Opens mutated weight files: python tests/fuzz.py --seconds=600 [--seed=0].

Only Refused and OSError may come out; no program, import or other process may start;
memory stays within LIMIT. An input that breaks this is kept beside its traceback.
"""

import argparse
import codecs
import collections
import concurrent.futures
import pathlib
import random
import resource
import struct
import sys
import tempfile
import time
import traceback

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

import forge
import hostile
import hostile_msgpack
import hostile_pickles
import msgpack

from ldm_jax.weights import reading, tensors

LIMIT = 300 * 2**20  # bytes of address space beyond what the modules take
SLOW = 10.0  # seconds for one input
# Of Python's audit events, what no reader of data has to do.
FORBIDDEN = (
    *("exec", "compile", "import", "os.system", "os.exec", "os.fork", "os.spawn"),
    *("os.posix_spawn", "subprocess.Popen", "pickle.find_class", "socket.connect"),
    *("os.remove", "os.rename", "os.mkdir", "shutil.rmtree", "ctypes.dlopen"),
)
EDGES = [0, 1, 2, 127, 128, 255, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1]
EDGES += [2**40, 2**62, 2**63 - 1, 2**63, 2**64 - 1]


def lightning():
    callback = "pytorch_lightning.callbacks.model_checkpoint"
    return {
        "epoch": 3,
        "state_dict": {"a": forge.tensor(), "b": forge.tensor(None, 1, (2, 2), (1, 3))},
        "callbacks": forge.call(callback, "ModelCheckpoint", 1),
        "numbers": hostile_pickles.PLAIN,
    }


def as_header(data):
    return forge.safetensors(data, forge.SIX)


def as_it_is(data):
    return data


def seeds():
    """Format -> (whole inputs to mutate, how such an input becomes a file)."""
    flax = {
        "net": {"a": forge.extension((2, 3)), "s": forge.extension((), data=b"abcd")}
    }
    chunks = {"__msgpack_chunked_array__": True, "shape": {"0": 6}}
    flax["big"] = chunks | {"chunks": {"0": forge.extension((6,))}}
    header = b'{"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[2,3],'
    header += b'"data_offsets":[0,24]}}'
    pickles = [forge.pickled(item) for item, _ in hostile_pickles.ALL.values()]
    pickles = [data for data in pickles if len(data) < 5000]
    words = {"a": forge.tensor(), "b": forge.parameters({"*": forge.tensor()})}
    whole = [forge.pickled(lightning()), forge.pickled(words)]
    pickles += whole * len(pickles)
    zips = [forge.zipped(), forge.zipped(lightning())] * 10 + _small(hostile.ZIPS)
    return {
        "zip": (zips, as_it_is),
        "pickle in a zip": (pickles, forge.zipped),
        "legacy": ([forge.legacy()] * 10 + _small(hostile.LEGACY), as_it_is),
        "pickle in a legacy file": (pickles, forge.legacy),
        "safetensors": (
            [as_header(header)] * 10 + _small(hostile.SAFETENSORS),
            as_it_is,
        ),
        "header of safetensors": ([header], as_header),
        "msgpack": ([msgpack.packb(flax)] * 20 + _small(hostile_msgpack.ALL), as_it_is),
        "others": (_small(hostile.OTHERS), as_it_is),
    }


def _small(table):
    return [data for data, _ in table.values() if len(data) < 5000]


def mutated(rng, data, others):
    """A few changes of the kinds below, one after the other."""
    data = bytearray(data)
    for _ in range(rng.choice((0, 1, 1, 1, 2, 3, 5, 10))):
        rng.choice(MUTATIONS)(rng, data, others)
    return bytes(data)


def _place(rng, data):
    return rng.randrange(len(data) + 1)


def _flip(rng, data, others):
    if data:
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def _byte(rng, data, others):
    if data:
        data[rng.randrange(len(data))] = rng.randrange(256)


def _number(rng, data, others):
    """An edge, or one off, over what may be a length or an offset."""
    form = rng.choice(("<B", "<H", ">H", "<I", ">I", "<Q", ">Q"))
    size = struct.calcsize(form)
    number = (rng.choice(EDGES) + rng.choice((-1, 0, 1))) % 256**size
    at = _place(rng, data)
    data[at : at + size] = struct.pack(form, number)


def _cut(rng, data, others):
    del data[_place(rng, data) :]


def _remove(rng, data, others):
    at = _place(rng, data)
    del data[at : at + rng.choice((1, 2, 4, 8, 30))]


def _repeat(rng, data, others):
    at, size = _place(rng, data), rng.choice((1, 2, 4, 16, 64))
    data[at:at] = data[at : at + size] * rng.choice((1, 2, 100))


def _splice(rng, data, others):
    other = rng.choice(others)
    at = rng.randrange(len(other) + 1)
    data[_place(rng, data) :] = other[at:]


def _insert(rng, data, others):
    other = rng.choice(others)
    at, here = rng.randrange(len(other) + 1), _place(rng, data)
    data[here:here] = other[at : at + rng.choice((1, 3, 10, 50))]


def _text(rng, data, others):
    """A number of the JSON or of a textual opcode, replaced."""
    digits = [i for i, byte in enumerate(data) if 48 <= byte <= 57]
    if digits:
        at = rng.choice(digits)
        data[at : at + 1] = str(rng.choice(EDGES)).encode()


MUTATIONS = (_flip, _byte, _number, _cut, _remove, _repeat, _splice, _insert, _text)


class Watch:
    """Records the forbidden audit events while it is on."""

    def __init__(self):
        self.on, self.seen = False, []
        sys.addaudithook(self.hook)

    def hook(self, event, args):
        if self.on and event in FORBIDDEN:
            self.seen.append((event, str(args)[:100]))


def read_all(path):
    """'read' or 'refused'; anything else is raised."""
    try:
        for tensor in reading.open_file(path).tensors.values():
            array = tensor.read()
            assert (array.shape, array.dtype) == (tensor.shape, tensor.dtype)
    except (tensors.Refused, OSError) as error:
        assert str(path) in str(error), f"it does not name the file: {error}"
        return "refused"
    return "read"


def attempt(pool, path, watch):
    """'read', 'refused', or what should not have happened."""
    started, watch.seen = time.monotonic(), []
    watch.on = True
    future = pool.submit(read_all, path)
    error = future.exception()
    watch.on = False
    seconds = time.monotonic() - started
    if error is not None:
        return "".join(traceback.format_exception(error))
    if watch.seen:
        return f"it reached out: {watch.seen}"
    return f"it took {seconds:.0f} s" if seconds > SLOW else future.result()


def limit_memory():
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + LIMIT
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", default="fuzz_finds", help="folder of what is found")
    args = parser.parse_args()
    rng, corpus, watch = random.Random(args.seed), seeds(), Watch()
    counts, finds = collections.Counter(), 0
    path = pathlib.Path(tempfile.mkdtemp()) / "input.ckpt"
    pool = concurrent.futures.ThreadPoolExecutor(1)
    warm_up(pool, path, watch)
    limit_memory()
    end = time.monotonic() + args.seconds
    while time.monotonic() < end:
        kind = rng.choice(list(corpus))
        inputs, as_file = corpus[kind]
        path.write_bytes(as_file(mutated(rng, rng.choice(inputs), inputs)))
        found = attempt(pool, path, watch)
        plain = found in ("read", "refused")
        counts[kind, found if plain else "FOUND"] += 1
        if not plain:
            keep(pathlib.Path(args.keep), finds, path.read_bytes(), found)
            finds += 1
    for (kind, found), count in sorted(counts.items()):
        print(f"{kind:24} {found:8} {count:8}")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(f"{counts.total()} inputs, {finds} finds, at most {peak} MB resident")
    sys.exit(bool(finds))


def load_codecs():
    """Codecs that the readers import on first use."""
    for name in ("cp437", "raw_unicode_escape", "unicode_escape", "latin1"):
        codecs.lookup(name)


def warm_up(pool, path, watch):
    """Modules and codecs that the readers import on first use."""
    load_codecs()
    for data in (forge.zipped(), forge.legacy(), *_small(hostile.ZIPS)):
        path.write_bytes(data)
        attempt(pool, path, watch)


def keep(folder, number, data, found):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{number}.bin").write_bytes(data)
    (folder / f"{number}.txt").write_text(found)
    print(found.strip().splitlines()[-1], file=sys.stderr)


if __name__ == "__main__":
    main()
