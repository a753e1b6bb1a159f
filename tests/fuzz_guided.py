"""Coverage-guided fuzzing of the readers; it needs `pip install atheris`.

  python tests/fuzz_guided.py CORPUS_FOLDER -max_total_time=600 -rss_limit_mb=1024

Flags are libFuzzer's. The rules are those of fuzz.py, whose seeds fill an empty folder.
"""

import pathlib
import sys
import tempfile

import atheris

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

with atheris.instrument_imports(include=["ldm_jax.weights"]):
    from ldm_jax.weights import reading, tensors

import fuzz


def fill(folder):
    """Writes the seeds of fuzz.py into an empty corpus."""
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        return
    number = 0
    for whole, as_file in fuzz.seeds().values():
        for data in whole:
            (folder / f"seed_{number:05}").write_bytes(as_file(data))
            number += 1


def main():
    fill(pathlib.Path(sys.argv[1]))
    path = pathlib.Path(tempfile.mkdtemp()) / "weights"
    watch = fuzz.Watch()
    fuzz.load_codecs()

    def one(data):
        path.write_bytes(data)
        watch.seen = []
        watch.on = True
        try:
            for tensor in reading.open_file(path).tensors.values():
                tensor.read()
        except (tensors.Refused, OSError) as error:
            if str(path) not in str(error):
                raise AssertionError("it does not name the file") from error
        finally:
            watch.on = False
        if watch.seen:
            raise AssertionError(f"it reached out: {watch.seen}")

    atheris.Setup(sys.argv, one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
