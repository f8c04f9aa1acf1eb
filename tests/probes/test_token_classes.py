"""Which tokens are numbers, letters, yes or no, times; for tokenizers of several kinds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from narrowtune.data.encoding import Encoded
from narrowtune.models.processing import Processing
from narrowtune.probes.classes import answer_class, number_tokens, rule_classes, token_texts

SAID = [
    "7", "42", "1st", "22nd", "3.5", "1,000", "Seven", "TWENTY", "hundred", "billion",
    "A", "Z", "a", "Yes", "NO", "no", ":", "12:", ":30", "4:05",
    "12a", "1,00", "sevens", "tensor", "-5", "٣", "yesterday", "°", "B2",
]  # fmt: skip
EXPECTED = {
    "number": {"7", "42", "1st", "22nd", "3.5", "1,000", "Seven", "TWENTY", "hundred", "billion"},
    "letter": {"A", "Z"},
    "yes_no": {"Yes", "NO", "no"},
    "time": {":", "12:", ":30", "4:05"},
}


def of_kind(mark: str, decoder: Any) -> PreTrainedTokenizerFast:
    """A word-level tokenizer that knows each word with and without a space mark."""
    vocabulary = ["<pad>", "<eos>", *SAID, *(mark + word for word in SAID)]
    inner = Tokenizer(models.WordLevel({t: i for i, t in enumerate(vocabulary)}, "<pad>"))
    inner.decoder = decoder
    return PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<pad>", eos_token="<eos>")


@pytest.mark.parametrize("mark", ["▁", "##"])
def test_the_rule_holds_with_and_without_the_mark_of_a_space(mark: str) -> None:
    decoder = decoders.Metaspace() if mark == "▁" else decoders.WordPiece()
    tokenizer = of_kind(mark, decoder)
    for one in rule_classes(tokenizer):
        said = {tokenizer.convert_ids_to_tokens(token).removeprefix(mark) for token in one.ids}
        assert said == EXPECTED[one.name], one.name
        assert len(one.ids) == 2 * len(EXPECTED[one.name])
        assert one.reason == ""


def test_the_bundled_tokenizer_has_ten_digits_and_number_words(processing: Processing) -> None:
    tokenizer = processing.tokenizer
    said = [tokenizer.decode([token]).strip() for token in number_tokens(tokenizer).ids]
    assert set("0123456789") <= set(said)
    assert all(one.isdigit() or one.isalpha() for one in said)


def test_special_tokens_say_nothing(processing: Processing) -> None:
    tokenizer = processing.tokenizer
    texts = token_texts(tokenizer)
    assert len(texts) == len(tokenizer)
    assert {texts[token] for token in tokenizer.all_special_ids} == {""}


def test_a_tokenizer_without_numbers_is_told_so() -> None:
    inner = Tokenizer(models.WordLevel({"<pad>": 0, "red": 1}, "<pad>"))
    one = number_tokens(PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<pad>"))
    assert one.ids == ()
    assert one.reason == "the tokenizer has no number that is one token"


def test_the_answer_class_is_what_was_taught(
    counting: list[Encoded], processing: Processing, drawn: Path
) -> None:
    one = answer_class("counting", counting, processing.end_token_ids)
    said = {processing.decode([token]) for token in one.ids}
    assert said == {row.example.answer for row in counting}
    assert one.name == "answer:counting"
    empty = answer_class("counting", [], processing.end_token_ids)
    assert empty.ids == ()
    assert "no token but the end" in empty.reason
