"""Reading the letter of a choice out of an answer."""

from __future__ import annotations

import re
from collections.abc import Sequence

from narrowtune.evaluation.reading.words import conclusion, fold, normalised

_LETTERS = "abcdefghijklmnopqrstuvwxyz"
# "(c)", "c.", "**c**": the letter and nothing else.
_WHOLE = re.compile(r"[^\w]*([a-z])[^\w]*")
# "c. robin", "(c) robin", "c: robin", "c, because", "c" on its own line: set off at the start.
_LEADING = re.compile(
    r"[\s*_`\"']*(?:[(\[]\s*([a-z])\s*[)\]]|([a-z])(?:\s?[).:\]*](?!\w)|,(?=\s+\w{2})|[ \t]*\n))"
)
_BEFORE = r"(?<![\w'&/.-])"
_AFTER = r"(?![\w'&/-]|\.\w)"
# A letter that is a word of its own; the word after it, if only spaces lie between.
_ALONE = re.compile(rf"{_BEFORE}([a-z]){_AFTER}(?:\s+([a-z']+))?")
_CUED = re.compile(
    rf"\b(?:so|therefore|thus|hence|option|choice|letter|choose|pick|select|it\s+is|it's)"
    rf"[\s:,]*[*(\[\"']*{_BEFORE}([a-z]){_AFTER}(?:\s+([a-z']+))?"
)
# What can follow a choice's letter but no article: "A is right", "A because", "A rather than B".
_NO_NOUN = re.compile(
    "is|was|are|because|since|as|and|or|not|but|rather|would|seems|looks|matches|shows|fits|for|"
    "if|then|which|that|with"
)


def read_option(text: str, choices: Sequence[str] = ()) -> str | None:
    """The letter ("a" to "z") an answer chooses, or None where it names none or several.

    Tried in this order, on what follows an explicit final marker ("answer is", "answer:") first
    and then on everything: the letter alone ("C", "(c)", "C."); a choice's text, where `choices`
    are known; a letter set off at the start ("C. Robin", "(C) robin"); the one letter behind a
    word that concludes or names a choice ("so C", "option C"); the one letter standing alone; the
    one known choice whose text stands in the answer.
    "A" and "I" directly before another word are the article and the pronoun, not letters, unless
    that word shows otherwise ("A is right").
    """
    letters = _labels(choices)
    folded = fold(text)
    for part in (conclusion(folded), folded):
        if part is not None and (letter := _read(part, letters, choices)) is not None:
            return letter
    return None


def _labels(choices: Sequence[str]) -> str:
    """The letters that can be chosen: those the choices are, or one per choice, or any."""
    own = [fold(choice).strip(" ().") for choice in choices]
    if own and all(len(label) == 1 and label in _LETTERS for label in own):
        return "".join(own)
    return _LETTERS[: len(choices)] if choices else _LETTERS


def _read(part: str, letters: str, choices: Sequence[str]) -> str | None:
    if (match := _WHOLE.fullmatch(part)) is not None:
        return match[1] if match[1] in letters else None
    texts = dict(zip(letters, map(normalised, choices), strict=False))
    said = normalised(part)
    if len(same := [letter for letter, text in texts.items() if text == said]) == 1:
        return same[0]
    if (match := _LEADING.match(part)) is not None and (letter := match[1] or match[2]) in letters:
        return letter
    for pattern in (_CUED, _ALONE):
        found = {match[1] for match in pattern.finditer(part) if _is_letter(match)}
        if found := found & set(letters):
            return found.pop() if len(found) == 1 else None
    # A choice that is its own letter was looked for above; here "I" would be the pronoun.
    return _mentioned(said, {letter: text for letter, text in texts.items() if text != letter})


def _is_letter(match: re.Match[str]) -> bool:
    """Whether a lone letter names a choice, rather than being an article or a pronoun."""
    letter, following = match[1], match[2]
    if letter not in "ai" or following is None:
        return True
    return following == "is" or (letter == "a" and _NO_NOUN.fullmatch(following) is not None)


def _mentioned(said: str, texts: dict[str, str]) -> str | None:
    """The one choice whose text occurs in `said` as whole words, the longest where they nest."""
    found = {
        letter: text
        for letter, text in texts.items()
        if re.search(rf"(?<!\w){re.escape(text)}(?!\w)", said)
    }
    longest = max(found.values(), key=len, default="")
    named = [letter for letter, text in found.items() if text not in longest or text == longest]
    return named[0] if len(named) == 1 else None
