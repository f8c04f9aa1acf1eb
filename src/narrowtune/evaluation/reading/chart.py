"""Reading an answer about a chart: a number or a share if it is nothing but one, else words."""

from __future__ import annotations

import re
from decimal import Decimal

from narrowtune.evaluation.reading.words import single_spaced

_NUMBER = re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d{1,2})?)(\s?%)?", re.ASCII)


def read_chart(text: str) -> Decimal | str | None:
    """A number where the whole answer is one, "12%" being 0.12; else its words; None if empty.

    As in the evaluation code of Pix2Struct (Lee et al. 2023), which most results on ChartQA come
    from: thousands commas, currencies and units make an answer words.
    """
    plain = single_spaced(text)
    match = _NUMBER.fullmatch(plain)
    if match is None:
        return plain or None
    return Decimal(match[1]) / 100 if match[2] else Decimal(match[1])
