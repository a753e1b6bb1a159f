"""Emphasis in prompts: brackets that weigh words, as web UIs know them."""

import itertools
import re

MARKS = re.compile(
    r"\\(?P<escaped>[()\[\]\\])"
    r"|(?P<opening>[(\[])"
    r"|:\s*(?P<number>[+-]?[0-9.,]+)\s*\)"
    r"|(?P<closing>[)\]])"
    r"|(?P<plain>[^\\()\[\]:]+|[\\:])"
)
CLOSING = {"(": ")", "[": "]"}
FACTORS = {")": 1.1, "]": 1 / 1.1}


def parse(prompt):
    r"""A prompt with emphasis -> [(text, weight)], as web UIs for Stable Diffusion do.

    (text) weighs 1.1 times as much, (text:1.3) 1.3 times, [text] 1 / 1.1 times; they
    nest. A bracket that is not closed reaches to the end, one that was not opened is
    text. \( \) \[ \] and \\ are text. Raises ValueError if the number is none.
    """
    parts, opened = [], {")": [], "]": []}

    def weigh(start, factor):
        parts[start:] = [(text, weight * factor) for text, weight in parts[start:]]

    for match in MARKS.finditer(prompt):
        mark, kind = match.group(), match.lastgroup
        if kind == "opening":
            opened[CLOSING[mark]].append(len(parts))
        elif kind == "number" and opened[")"]:
            weigh(opened[")"].pop(), _number(match, prompt))
        elif kind == "closing" and opened[mark]:
            weigh(opened[mark].pop(), FACTORS[mark])
        else:
            parts.append((match["escaped"] or mark, 1.0))
    for mark, starts in opened.items():
        for start in starts:
            weigh(start, FACTORS[mark])
    runs = itertools.groupby(parts, key=lambda part: part[1])
    return [("".join(text for text, _ in run), weight) for weight, run in runs]


def is_text(word):
    """Whether `parse` leaves a word whole, also where a bracket closes after it."""
    *kinds, last = [match.lastgroup for match in MARKS.finditer(f"{word})")]
    return set(kinds) <= {"plain"} and last == "closing"


def _number(match, prompt):
    try:
        return float(match["number"])
    except ValueError:
        raise ValueError(
            f"{match['number']!r} is no weight, in {prompt!r}: write it like "
            r"(word:1.3), or \( and \) for brackets that are text"
        ) from None
