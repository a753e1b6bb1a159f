"""What to draw, as it is written: prompts in files, and values of flags.

    prompts.txt    a prompt in each line
    prompts.jsonl  {"prompt": "a fox", "seed": 7, "scale": 4.5} in each line
    prompts.csv    the same with a header: prompt,seed,scale

Of the last two, KEYS may be there beside the prompt, and stand for what the flags of
the command say to all.
"""

import ast
import csv
import io
import json
import math
import pathlib

from ldm_jax import names


def number(value):
    found = float(value)
    if isinstance(value, bool) or not math.isfinite(found):
        raise ValueError(f"{value!r} is no number that is finite")
    return found


def whole(value):
    if number(value) != int(value):
        raise ValueError(f"{value!r} is no whole number")
    if not 0 <= int(value) < 2**31:
        raise ValueError(f"{value!r} is not in 0 .. 2147483647")
    return int(value)


def words(value):
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value


# What may be said of one prompt, and what makes a value of it.
KEYS = {
    "prompt": words,
    "negative_prompt": words,
    "seed": whole,
    "scale": number,
    "variation_seed": whole,
    "variation": number,
}


def read(path):
    """[{key of KEYS: value}] of a file, each with a "prompt".

    Raises ValueError naming file and line: of another ending, without any prompt, not
    in UTF-8, or with a line that is none; FileNotFoundError.
    """
    path = pathlib.Path(path)
    if path.suffix not in READERS:
        raise ValueError(
            f"{path}: prompts are read from files that end in {', '.join(READERS)}"
        )
    if not path.is_file():
        raise FileNotFoundError(f"no file of prompts {path}")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not in UTF-8: {error}") from error
    rows = []
    for line, row in READERS[path.suffix](text, path):
        try:
            rows.append(checked(row))
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path}, line {line}: {error}") from error
    if not rows:
        raise ValueError(f"{path} has no prompts")
    return rows


def checked(row):
    """The row with values of their types. Raises TypeError or ValueError."""
    if not isinstance(row, dict):
        raise TypeError(f"{row!r} is no object of {', '.join(KEYS)}")
    if "prompt" not in row:
        raise ValueError(f'it has no "prompt", only {sorted(map(str, row))}')
    found = {}
    for key, value in row.items():
        convert = names.pick(KEYS, key)
        try:
            found[key] = convert(value)
        except (TypeError, ValueError, OverflowError) as error:
            raise ValueError(f"{key}: {error}") from error
    return found


def _lines(text, path):
    del path
    lines = enumerate(map(str.strip, text.split("\n")), 1)
    return [(number, {"prompt": line}) for number, line in lines if line]


def _objects(text, path):
    rows = []
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                rows.append((number, json.loads(line)))
            except (ValueError, RecursionError) as error:
                raise ValueError(f"{path}, line {number}: {error}") from error
    return rows


def _table(text, path):
    reader = csv.DictReader(io.StringIO(text, newline=""), restkey="")
    rows = []
    try:
        for row in reader:
            if "" in row:
                raise csv.Error(f"it has more than the {len(row) - 1} columns named")
            said = {key: value for key, value in row.items() if value}
            rows.append((reader.line_num, said))
    except csv.Error as error:
        raise ValueError(f"{path}, line {reader.line_num}: {error}") from error
    return rows


READERS = {".txt": _lines, ".jsonl": _objects, ".csv": _table}


def setting(said):
    """(key, value) of KEY=VALUE; a value that is no Python literal is text."""
    key, equals, value = said.partition("=")
    if not equals:
        raise ValueError(f"--set={said} must be KEY=VALUE")
    try:
        return key, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return key, value


def margins(said):
    """(left, top, right, bottom) of --outpaint's parts."""
    if len(said) != 4 or not all(part.strip().isdecimal() for part in said):
        raise ValueError(
            f"--outpaint={','.join(said)} must be four numbers of pixels: left, top, "
            "right and bottom"
        )
    return tuple(int(part) for part in said)
