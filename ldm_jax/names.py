"""Names in a config: looked up in tables of choices, matched with paths or fields."""

import dataclasses
import difflib
import fnmatch


def pick(table, name):
    """`table[name]`; an unknown name is a ValueError with the choices in it."""
    if name in table:
        return table[name]
    nearest = difflib.get_close_matches(str(name), table, n=1, cutoff=0.0)
    hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
    raise ValueError(f"{name!r} is not one of {', '.join(table)}{hint}")


def record(kind, section):
    """The dataclass `kind` of those entries of a section that are its fields."""
    fields = dataclasses.fields(kind)
    return kind(**{field.name: section[field.name] for field in fields})


def covers(pattern, path):
    """Whether a pattern such as "unet" or "unet/up_*" matches a path or one above."""
    return fnmatch.fnmatch(path, pattern) or fnmatch.fnmatch(path, f"{pattern}/*")


def reaches(pattern, role):
    """Whether a pattern can cover anything below a top level: "*norm*" can, of any."""
    whole = f"{pattern}/*"
    starts = (whole[:end] for end in range(1, len(whole) + 1))
    return any(fnmatch.fnmatch(f"{role}/", start) for start in starts)
