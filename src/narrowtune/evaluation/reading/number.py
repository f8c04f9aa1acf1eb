"""Reading a number out of an answer, written in digits or in English words."""

from __future__ import annotations

import re
from collections.abc import Iterator
from decimal import Decimal

from narrowtune.evaluation.reading.words import conclusion, fold

_TO_NINETEEN = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen "
    "fifteen sixteen seventeen eighteen nineteen"
)
_FROM_TWENTY = "twenty thirty forty fifty sixty seventy eighty ninety"
_UNITS = {word: value for value, word in enumerate(_TO_NINETEEN.split())}
_TENS = {word: 10 * value for value, word in enumerate(_FROM_TWENTY.split(), start=2)}
_SCALES = {"thousand": 10**3, "million": 10**6, "billion": 10**9}
_ORDINAL_UNIT = re.compile("first|second|third|(?:four|fif|six|seven|eigh|nin)th")
_ORDINAL_SCALE = re.compile("(?:hundred|thousand|million|billion)th")
_TOKEN = re.compile(
    r"""
    (?P<junk> \d+(?:st|nd|rd|th)\b        # ordinals rank, they do not count
            | \d+(?::\d+)+                # times
            | \d+(?:/\d+){2,}             # dates
            | \d+(?:\.\d+){2,}            # versions
            | \d{26,}                     # a model stuck on one digit; exact arithmetic ends here
            | no[ ]one\b )
  | (?P<fraction> (?:(?<![\w)])-)?\d+/\d+ )
  | (?P<digits> (?:(?<![\w)])-)?          # a sign, not the hyphen of "10-3"
                [$€£]?
                (?: (?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)? | \.\d+ )
                (?: e[+-]?\d{1,2}(?!\w) )? )
  | (?P<word> [^\W\d]\w*(?:\.\d+)* )      # "b12" and "v1.2" are names
  | (?P<gap> \s+|(?<=\w)-(?=\w) )
  | (?P<stop> . )
    """,
    re.VERBOSE | re.ASCII | re.DOTALL,
)
_NONE = re.compile(
    r"\bnone\b|\bno\s+(?!idea|clue|doubt|answer|way|one|clear|information|problem)[a-z]"
)


def read_number(text: str) -> Decimal | None:
    """The number an answer gives, or None.

    After an explicit final marker ("####", "answer is", "answer:") the first number counts;
    without one, the last (lm-eval's `flexible-extract` for GSM8K). "none" and "no" before a noun
    are 0 where no other number stands. Ordinals, times, dates and names ("B12") are no numbers.
    """
    folded = fold(text)
    tail = conclusion(folded)
    if tail is not None and (number := next(_numbers(tail), None)) is not None:
        return number
    numbers = list(_numbers(folded))
    if numbers:
        return numbers[-1]
    return Decimal(0) if _NONE.search(folded) else None


def _numbers(folded: str) -> Iterator[Decimal]:
    """Every number in the text, left to right."""
    phrases: list[list[str]] = [[]]
    for match in _TOKEN.finditer(folded):
        if match.lastgroup in ("junk", "stop"):
            phrases.append([])
        elif match.lastgroup != "gap":
            phrases[-1].append(match.group())
    for phrase in phrases:
        yield from _Phrase(phrase).numbers()


class _Phrase:
    """Words and digits with nothing but spaces and hyphens between them, read left to right."""

    def __init__(self, tokens: list[str]) -> None:
        self.tokens = tokens
        self.at = 0

    def numbers(self) -> Iterator[Decimal]:
        after_number = False
        while self.at < len(self.tokens):
            # "minus three" is a number; "ten minus three" is a subtraction.
            negative = not after_number and self._take("minus", "negative")
            number = self._number()
            after_number = number is not None
            if number is None:
                self.at += 0 if negative else 1
            elif not self._ordinal(number):
                yield number.copy_negate() if negative else number

    def _peek(self, ahead: int = 0) -> str:
        index = self.at + ahead
        return self.tokens[index] if index < len(self.tokens) else ""

    def _take(self, *words: str) -> bool:
        found = self._peek() in words
        self.at += found
        return found

    def _ordinal(self, number: Decimal) -> bool:
        """Step over the ordinal that "twenty-first" ends in; "one second" holds none."""
        tens = 20 <= number < 10**9 and number % 10 == 0
        word = self._peek()
        match = _ORDINAL_SCALE.fullmatch(word) or (tens and _ORDINAL_UNIT.fullmatch(word))
        self.at += bool(match)
        return bool(match)

    def _number(self) -> Decimal | None:
        """The number that starts here, `self.at` moved behind it; None leaves it in place."""
        total: Decimal | None = None
        last_scale = 10**12
        while last_scale > 1:
            start = self.at
            self._joining_and(after=total is not None)
            group = self._group(may_be_bare=total is None)
            scale = _SCALES.get(self._peek(), 1)
            if group is None or scale >= last_scale or (total and group * scale >= last_scale):
                self.at = start
                break
            self.at += scale > 1
            total, last_scale = (total or 0) + group * scale, scale
        if total is not None and self._take("dozen"):
            return total * 12
        return None if total is None else self._with_decimals(total)

    def _group(self, may_be_bare: bool) -> Decimal | None:
        """A number below one thousand, or digits: what stands before "thousand"."""
        if self._peek()[-1:].isdigit() and not self._peek()[:1].isalpha():
            value = _decimal(self._peek())
            self.at += value is not None
            return value * 100 if value is not None and self._take("hundred") else value
        article = self._peek() in ("a", "an") and may_be_bare
        if self._peek(int(article)) in ("hundred", "dozen", *_SCALES) and may_be_bare:
            self.at += article
            small: int | None = 1
        else:
            small = self._small()
        if small is not None and self._take("hundred"):
            self._joining_and(after=True)
            return Decimal(100 * small + (self._small() or 0))
        return None if small is None else Decimal(small)

    def _small(self) -> int | None:
        """Zero to ninety-nine in words."""
        word = self._peek()
        if word in _UNITS:
            self.at += 1
            return _UNITS[word]
        if word not in _TENS:
            return None
        self.at += 1
        unit = _UNITS.get(self._peek(), 0)
        self.at += 0 < unit < 10
        return _TENS[word] + (unit if unit < 10 else 0)

    def _joining_and(self, after: bool) -> None:
        """Step over the "and" of "one hundred and five", never over that of a list."""
        self.at += after and self._peek() == "and" and self._peek(1) in {**_UNITS, **_TENS}

    def _with_decimals(self, whole: Decimal) -> Decimal:
        """`whole` with the digits of "three point one four" added."""
        if self._peek() != "point" or _UNITS.get(self._peek(1), 10) > 9:
            return whole
        self.at += 1
        digits = ""
        while (digit := _UNITS.get(self._peek(), 10)) < 10:
            digits += str(digit)
            self.at += 1
        return whole + Decimal(f"0.{digits}")


def _decimal(token: str) -> Decimal | None:
    """The value of a digits or fraction token; None for a division by zero."""
    above, _, below = re.sub("[,$€£]", "", token).partition("/")
    if not below:
        return Decimal(above)
    return Decimal(above) / Decimal(below) if Decimal(below) else None
