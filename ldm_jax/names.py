"""Names in a config: looked up in a table of choices, or matched with paths."""

import difflib
import fnmatch


def pick(table, name):
    """`table[name]`; an unknown name is a ValueError with the choices in it."""
    if name in table:
        return table[name]
    nearest = difflib.get_close_matches(str(name), table, n=1, cutoff=0.0)
    hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
    raise ValueError(f"{name!r} is not one of {', '.join(table)}{hint}")


def covers(pattern, path):
    """Whether a pattern such as "unet" or "unet/up_*" matches a path or one above."""
    return fnmatch.fnmatch(path, pattern) or fnmatch.fnmatch(path, f"{pattern}/*")
