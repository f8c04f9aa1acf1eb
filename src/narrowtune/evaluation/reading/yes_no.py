"""Reading yes or no out of an answer."""

from __future__ import annotations

import re

from narrowtune.evaluation.reading.words import conclusion, fold

# Phrases that hold the word without giving the answer; they are passed over.
_UNCLEAR = re.compile(
    r"\byes\s*(?:or|and|/)\s*no\b|\bno\s*(?:or|and|/)\s*yes\b"
    r"|\bno\s+(?:idea|clue|doubt|one|way|answer|clear|information|problem|matter|longer)\b"
)
_CLEAR = re.compile(r"(?<![\w'-])(yes|no)(?![\w'-])")


def read_yes_no(text: str) -> str | None:
    """ "yes" or "no", whichever stands first as a whole word of its own, or None.

    After an explicit final marker only what follows counts, if it says either. "not", "sure",
    "true" and the like are no answers here: a model asked for yes or no that answers otherwise
    has lost the format, and that is to be seen.
    """
    folded = fold(text)
    tail = conclusion(folded)
    return (_first(tail) if tail is not None else None) or _first(folded)


def _first(folded: str) -> str | None:
    match = _CLEAR.search(_UNCLEAR.sub(" ", folded))
    return match[1] if match else None
