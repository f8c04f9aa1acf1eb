"""Folding text to a comparable form, and finding where an answer states its conclusion."""

from __future__ import annotations

import re
import unicodedata

# One spelling for characters that typists, tokenizers and fonts use in turn.
_SAME = str.maketrans(
    {"’": "'", "‘": "'", "“": '"', "”": '"', "−": "-", "\N{NO-BREAK SPACE}": " "},
)
# Marks that carry no meaning at a word's edge. Signs that do (+ - % $ # & /) are left alone.
_EDGE = r"[.,;:!?…\"'`«»()\[\]{}*_~¿¡]"
_LEADING = re.compile(rf"^(?:(?!\.\d){_EDGE})+")
_TRAILING = re.compile(rf"{_EDGE}+$")
_ARTICLES = frozenset({"a", "an", "the"})
_HASHES = re.compile(r"####")
_MARKER = re.compile(r"\banswer(?:\s+is|\s+should\s+be|\s*[:=])[\s:]*|\\boxed\{")


def fold(text: str) -> str:
    """`text` in one case and one spelling of quotes, minus and spaces (Unicode NFC)."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).casefold()).translate(
        _SAME
    )


def single_spaced(text: str) -> str:
    """`text` folded, with one space between words and none around them."""
    return " ".join(fold(text).split())


def normalised(text: str) -> str:
    """`text` as the exact-match metric compares it.

    SQuAD's normalisation (Rajpurkar et al. 2016, `normalize_answer`: lower case, no punctuation,
    no articles, single spaces) with two differences, both because it makes different answers
    equal: punctuation goes only from the edges of words ("12.5" is not "125", "3:59" not "359"),
    and an article only where a word follows it (the option "A" and "vitamin A" keep theirs).
    """
    folded = fold(text)
    words = [_TRAILING.sub("", _LEADING.sub("", word)) for word in folded.split()]
    words = [word for word in words if word]
    kept = [word for word in words[:-1] if word not in _ARTICLES] + words[-1:]
    return " ".join(kept) or folded.strip()


def conclusion(folded: str) -> str | None:
    """What follows the explicit final marker, or None where there is none.

    `####` is GSM8K's marker (Cobbe et al. 2021), its first occurrence as in their grader. Else
    the last "answer is", "answer:" or "\\boxed{" counts: reasoning may correct itself.
    """
    if hashes := _HASHES.search(folded):
        return folded[hashes.end() :]
    markers = list(_MARKER.finditer(folded))
    return folded[markers[-1].end() :] if markers else None
