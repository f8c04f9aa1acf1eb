"""Rows of a test file, made by hand."""

from narrowtune.data.example import Example, Message, TextPart


def example(*references, choices=(), line=1):
    """A row with these accepted answers, at t.jsonl:`line`."""
    turns = (Message("user", (TextPart("?"),)), Message("assistant", (TextPart(references[0]),)))
    return Example(str(line), turns, f"t.jsonl:{line}", references, choices)
