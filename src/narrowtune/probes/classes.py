"""Answer classes as sets of tokens, by rule, from any tokenizer.

A token belongs to a class by what it says: its text with the mark of a preceding space stripped.
The rule for numbers is that of arXiv 2510.08564: all digits, ordinals, decimals and comma numbers
that are one token, and number words in any case.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from narrowtune.data.encoding import Encoded

NUMBER_WORDS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen "
    "sixteen seventeen eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety "
    "hundred thousand million billion"
)
RULES: Mapping[str, re.Pattern[str]] = {
    "number": re.compile(
        r"\d+|\d+(?:st|nd|rd|th)|\d+\.\d+|\d{1,3}(?:,\d{3})+|"
        rf"(?i:{NUMBER_WORDS.replace(' ', '|')})",
        re.ASCII,
    ),
    "letter": re.compile(r"[A-Z]"),
    "yes_no": re.compile(r"(?i:yes|no)"),
    # Most tokenizers split a time into digits and colons: the colon is what only times have.
    "time": re.compile(r"\d{0,2}:(?:\d{2})?", re.ASCII),
}


@dataclass(frozen=True)
class TokenClass:
    """A named set of tokens.

    Attributes:
        name: `number`, `letter`, `yes_no`, `time`, or `answer:SKILL`.
        ids: Its tokens, ascending; may be empty.
        reason: Why it is empty, else empty.
    """

    name: str
    ids: tuple[int, ...]
    reason: str = ""


def token_texts(tokenizer: Any) -> list[str]:
    """What each token says, outer blanks stripped; special tokens and holes say nothing."""
    texts = tokenizer.batch_decode([[token] for token in range(len(tokenizer))])
    special = {*tokenizer.all_special_ids} | {
        token for token, added in tokenizer.added_tokens_decoder.items() if added.special
    }
    return ["" if token in special else _bare(text) for token, text in enumerate(texts)]


def rule_classes(tokenizer: Any) -> tuple[TokenClass, ...]:
    """The classes that a rule gives, in `RULES`' order."""
    texts = token_texts(tokenizer)
    return tuple(_by_rule(name, rule, texts) for name, rule in RULES.items())


def finest_classes(tokenizer: Any) -> tuple[TokenClass, ...]:
    """The same, with a class for each letter, for yes and for no: between those, a model chooses.

    Which number is right is for the model to see; which of yes and no it leans to is a bias.
    """
    texts = token_texts(tokenizer)
    found = []
    for name, rule in RULES.items():
        whole = _by_rule(name, rule, texts)
        if name in ("letter", "yes_no"):
            said: dict[str, list[int]] = {}
            for token in whole.ids:
                said.setdefault(texts[token].lower(), []).append(token)
            found += [TokenClass(f"{name}:{text}", tuple(said[text])) for text in sorted(said)]
        else:
            found.append(whole)
    return tuple(found)


def number_tokens(tokenizer: Any) -> TokenClass:
    """The paper's set of number tokens."""
    return _by_rule("number", RULES["number"], token_texts(tokenizer))


def answer_class(skill: str, rows: Iterable[Encoded], end_ids: Sequence[int]) -> TokenClass:
    """The tokens of a skill's own training answers, the end of an answer left out."""
    found = {
        token
        for row in rows
        for token, taught in zip(row.input_ids, row.supervised, strict=True)
        if taught
    }
    ids = tuple(sorted(found - set(end_ids)))
    reason = "" if ids else f"the training answers of {skill} hold no token but the end"
    return TokenClass(f"answer:{skill}", ids, reason)


def _by_rule(name: str, rule: re.Pattern[str], texts: Sequence[str]) -> TokenClass:
    ids = tuple(token for token, text in enumerate(texts) if rule.fullmatch(text))
    reason = "" if ids else f"the tokenizer has no {name.replace('_', '/')} that is one token"
    return TokenClass(name, ids, reason)


def _bare(text: str) -> str:
    return text.strip().removeprefix("##")
