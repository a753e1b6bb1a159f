"""Prints the peak of memory, in bytes, that opening, reading and writing a file adds.

  python -m peak_memory FILE OUT

Every tensor of FILE is read, one after the other, and then written to OUT.
"""

import pathlib
import re
import sys

from ldm_jax.weights import reading, streaming


def peak():
    """Most bytes that were resident; ru_maxrss would count the parent's, too."""
    status = pathlib.Path("/proc/self/status").read_text()
    return 1024 * int(re.search(r"VmHWM:\s+(\d+) kB", status)[1])


def main():
    path, out = sys.argv[1:]
    before = peak()
    source = reading.open_file(path)
    for tensor in source.tensors.values():
        tensor.read()
    read = peak()
    streaming.write(out, source.tensors, {})
    print(read - before, peak() - before)


if __name__ == "__main__":
    main()
