"""An answer as the VQA challenge compares it."""

from __future__ import annotations

import re

from narrowtune.evaluation.reading.words import single_spaced

_MARKS = ';/[]"{}()=+\\_-><@`,?!'
_DIGIT_GROUPS = re.compile(r"\d,\d", re.ASCII)
_FULL_STOP = re.compile(r"\.(?!\d)", re.ASCII)
_TO_TEN = "zero one two three four five six seven eight nine ten"
_DIGITS = {"none": "0"} | {word: str(value) for value, word in enumerate(_TO_TEN.split())}
_ARTICLES = frozenset({"a", "an", "the"})
_CONTRACTIONS = """
ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't
haven't he'd he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've
might've mustn't must've needn't not've o'clock oughtn't 'ow's'at shan't she'd've should've
shouldn't shouldn't've somebody'd somebody'd've somebody'll somebody's someone'd someone'd've
someone'll someone's something'd something'd've something'll that's there'd there'd've there're
there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're
what's what've when's where'd where's where've who'd who'd've who'll who's who've why'll why're
why's won't would've wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're
you've
"""
# The source's table: each of them with one apostrophe missing. (It has somebody'd the other way
# round, which joins the same two spellings.)
_MISSPELT = {
    word[:at] + word[at + 1 :]: word
    for word in _CONTRACTIONS.split()
    for at, letter in enumerate(word)
    if letter == "'"
}


def read_vqa(text: str) -> str | None:
    """`text` as VQA's evaluation code normalises it (Antol et al. 2015), None if nothing is left.

    Punctuation, then digits, articles and contractions, as in `vqaEval.py` of the VQA release.
    Where a mark stands beside a space, or a digit group holds a comma, the mark goes; elsewhere it
    becomes a space. A full stop stays before a digit only. Numbers to ten become digits.
    """
    words = _without_punctuation(single_spaced(text)).split()
    numbered = (_DIGITS.get(word, word) for word in words)
    kept = [_MISSPELT.get(word, word) for word in numbered if word not in _ARTICLES]
    return " ".join(kept) or None


def _without_punctuation(text: str) -> str:
    bare = text
    for mark in _MARKS:
        goes = f"{mark} " in text or f" {mark}" in text or _DIGIT_GROUPS.search(text)
        bare = bare.replace(mark, "" if goes else " ")
    return _FULL_STOP.sub("", bare)
