"""What a monitor is asked to watch, from names, files and rows to prepared probes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from narrowtune.data import Example, read_checked, read_rows
from narrowtune.data.encoding import Encoded, encode_all
from narrowtune.errors import InputError, Problems, nearest
from narrowtune.experiment import DriftMeasure
from narrowtune.models.processing import Processing, load_processing
from narrowtune.probes.probing import Asked, Probing, caption_prompts, prepare_probing

Texts = str | Path | Iterable[Mapping[str, Any]]
PROBES = ("kl", "answer_bias", "number_bias")
ACTIONS = ("report", "stop")
BATCH_SIZE = 16


def check_words(
    probes: Sequence[str], every: object, measure: str, action: str, budget: float | None
) -> None:
    """Refuse what no monitor knows.

    Raises:
        InputError: Everything that is wrong.
    """
    problems = Problems()
    unknown = [probe for probe in probes if probe not in PROBES]
    problems.add(f"no probe {probe!r}; {nearest(probe, PROBES)}" for probe in unknown)
    if not probes:
        problems.add([f"no probes; give some of {', '.join(PROBES)}"])
    whole = isinstance(every, int) and not isinstance(every, bool) and every > 0
    if not whole and every != "log":
        problems.add([f"every is {every!r}; give a number of steps, or 'log'"])
    for name, word, known in (
        ("measure", measure, get_args(DriftMeasure)),
        ("action", action, ACTIONS),
    ):
        if word not in known:
            problems.add([f"no {name} {word!r}; {nearest(word, known)}"])
    problems.add(_budget_problems(probes, action, budget))
    problems.check()


def _budget_problems(probes: Sequence[str], action: str, budget: float | None) -> Iterable[str]:
    if budget is None:
        if action == "stop":
            yield "action stop needs a budget: a number of nats per answer token, such as 0.05"
        return
    if not budget > 0:
        yield f"budget is {budget}; a number of nats per answer token above 0, such as 0.05"
    if not {"kl", "answer_bias"} & set(probes):
        yield "a budget is kept on the texts that kl reads; add 'kl' to probes"


def prepare_texts(
    texts: Mapping[str, Texts], taught: Mapping[str, Texts], rows: int
) -> tuple[dict[str, list[Example]], dict[str, list[Example]]]:
    """The first rows of each task, and all training rows of each skill.

    Raises:
        InputError: Everything that is wrong with any of them, each with its line.
    """
    problems, tested, skills = Problems(), {}, {}
    if not texts:
        problems.add(["no texts; give at least one task's file or rows, by name"])
    if rows < 1:
        problems.add([f"rows is {rows}; a task needs at least one"])
    for name, given in texts.items():
        with problems.collect(f"texts {name}"):
            tested[name] = _examples(name, given, max(1, rows))
    for name, given in taught.items():
        with problems.collect(f"taught {name}"):
            skills[name] = _examples(name, given, None)
    problems.check()
    return tested, skills


def prepare(
    probes: Sequence[str],
    texts: Mapping[str, list[Example]],
    taught: Mapping[str, list[Example]],
    max_new_tokens: int,
    processing: Processing,
) -> Probing:
    """The probes, everything encoded and checked.

    Raises:
        InputError: Texts longer than the model's context, each with its line.
    """
    every_row = [row for rows in texts.values() for row in rows]
    asked = Asked(
        probes=frozenset(probes),
        texts=texts,
        captions=caption_prompts(every_row, len(every_row)),
        taught={name: encode_all(rows, processing) for name, rows in taught.items()},
        max_new_tokens=max_new_tokens,
        batch_size=BATCH_SIZE,
    )
    return prepare_probing(asked, processing)


def processing_of(source: Any, model: Any) -> Processing:
    """What turns texts into a model's inputs.

    Args:
        source: A model's name or folder, or a tokenizer or processor that is in memory.
        model: The model trained with it; gives the context length and the end tokens.

    Raises:
        InputError: It is none of these.
    """
    if isinstance(source, Processing):
        return source
    if isinstance(source, str | Path):
        return load_processing(str(source))
    tokenizer = getattr(source, "tokenizer", source)
    if not hasattr(tokenizer, "is_fast"):
        raise InputError(
            f"{type(source).__name__} is no tokenizer or processor of transformers; give the "
            "monitor one, or the name or folder of the model"
        )
    ends = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    known = ends if isinstance(ends, list) else [ends] if ends is not None else []
    processor = source if tokenizer is not source else None
    name = tokenizer.name_or_path or type(tokenizer).__name__
    return Processing(name, tokenizer, processor, model.config, known)


def check_vocabulary(model: Any, probing: Probing) -> None:
    """Refuse texts whose tokens the model does not know.

    Raises:
        InputError: They were written with another model's tokenizer.
    """
    known = getattr(model.get_input_embeddings(), "num_embeddings", None)
    rows: list[Encoded] = [row for one in probing.references for row in one.encoded]
    if probing.captions is not None:
        rows += probing.captions.prompts.encoded
    largest = max(token for row in rows for token in row.input_ids)
    if known is not None and largest >= known:
        raise InputError(
            f"the texts hold token {largest:,} of {probing.processing.name}'s tokenizer, and the "
            f"model trained knows {known:,} tokens; give the monitor this model's own tokenizer"
        )


def _examples(name: str, given: Texts, limit: int | None) -> list[Example]:
    if isinstance(given, str | Path):
        found: list[Example] = read_checked(given, list, limit=limit)
        return found
    return read_rows(given, name, limit=limit)
