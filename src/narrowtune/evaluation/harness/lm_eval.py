"""The adapter of lm-evaluation-harness: its tasks, its judging, our model and processing."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from functools import lru_cache, partial
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from narrowtune.data.example import Example, Message, TextPart
from narrowtune.errors import InputError, nearest
from narrowtune.evaluation.harness.asked import Asked
from narrowtune.evaluation.harness.conversations import unanswered
from narrowtune.evaluation.harness.documents import Document, passages, wordings
from narrowtune.evaluation.harness.failure import built
from narrowtune.evaluation.harness.lengths import check_lengths
from narrowtune.evaluation.harness.metric import Headline, headline
from narrowtune.evaluation.harness.requests import digest_of
from narrowtune.evaluation.harness.task import HarnessTask, Rows, version

if TYPE_CHECKING:
    from torch import nn

    from narrowtune.models.processing import Processing

Clusters = Mapping[str, Mapping[str, str]]  # by task and document
SEED = 1234  # lm-eval's own for few-shot examples
LONGEST = 256  # tokens of an answer where neither task nor user says how many


def open_lm_eval(asked: Asked, processing: Processing) -> HarnessTask:
    """The task, built by lm-eval, with every request to the model written once.

    Raises:
        InputError: No such task or metric, its data cannot be had, or it cannot be run on a
            text model in memory.
    """
    tasks = _load(asked)
    for task in tasks.values():
        _check_kind(asked, task, processing)
        _set_up(asked, task, processing)
    chosen = _headline(asked, tasks)
    with built(asked):
        requests = [_requests(asked, processing, name, task) for name, task in tasks.items()]
        documents = {name: _documents(asked, name, task) for name, task in tasks.items()}
    return HarnessTask(
        asked=asked,
        metric_name=chosen.name,
        size=sum(_size(asked, task) for task in tasks.values()),
        version=version(asked, chosen, [str(task.VERSION) for task in tasks.values()]),
        higher_is_better=all(
            task.higher_is_better().get(chosen.metric, True) for task in tasks.values()
        ),
        sha256=digest_of(requests),
        answer=partial(_answer, asked, processing, tasks, chosen, _clusters(documents)),
        asks=tuple(row for group in documents.values() for row in wordings(group)),
    )


# -- finding the task ------------------------------------------------------------------------


def _load(asked: Asked) -> dict[str, Any]:
    """The task itself, or a group's tasks by name."""
    manager = _manager_for(asked)
    if asked.task not in manager.task_index:
        raise InputError(
            f"lm-eval has no task {asked.task!r}; {nearest(asked.task, manager.all_tasks)} "
            "A folder of your own task files goes into include_path"
        )
    if asked.task in manager.all_tags:
        raise InputError(
            f"{asked.source} is a tag, not a task: name the tasks behind it one by one"
        )
    with built(asked), _quiet():
        found = manager.load([asked.task])
    for group in found.get("groups", {}).values():
        _check_group(asked, group)
    tasks: dict[str, Any] = found["tasks"]
    return tasks


def _check_group(asked: Asked, group: Any) -> None:
    """Samples are pooled, so a group that weighs its tasks alike would get another value."""
    rules = getattr(group, "aggregate_metric_list", None) or ()
    if any(not getattr(rule, "weight_by_size", True) for rule in rules):
        raise InputError(
            f"{asked.source}: the group {group.name} averages its tasks, whatever their sizes, and "
            "has no value per sample; name its tasks one by one: " + ", ".join(group.child_names)
        )


def _manager_for(asked: Asked) -> Any:
    """An index that holds the task: the user's folder if it is there, else all of lm-eval's."""
    if asked.include_path is not None:
        own = _manager(asked.include_path, defaults=False)
        if _is_whole(own, asked.task):
            return own
    return _manager(asked.include_path, defaults=True)


def _is_whole(index: Any, name: str) -> bool:
    """Whether an index holds the task, or the group with all that it names; tags are refused."""
    entry = index.task_index.get(name)
    if entry is None or name in index.all_subtasks or name in index.all_tags:
        return entry is not None
    parts = (entry.cfg or {}).get("task") or ()
    return bool(parts) and all(isinstance(part, str) and _is_whole(index, part) for part in parts)


@lru_cache(maxsize=4)  # reading lm-eval's 14,000 task files takes seconds
def _manager(include_path: Path | None, defaults: bool) -> Any:
    from lm_eval.tasks import TaskManager

    with _quiet():
        return TaskManager(
            include_path=str(include_path) if include_path else None, include_defaults=defaults
        )


# -- what is asked of it ---------------------------------------------------------------------


def _check_kind(asked: Asked, task: Any, processing: Processing) -> None:
    name = f"{asked.harness}:{task.task_name}"
    if getattr(task, "UNSAFE_CODE", False):
        raise InputError(f"{name} runs code that the model writes; such tasks are not run here")
    if getattr(task, "MULTIMODAL", False):
        raise InputError(f"{name} shows images or sounds; take the task from lmms-eval instead")
    if asked.chat_template and not processing.has_chat_template:
        raise InputError(f"{name}: chat_template is asked for, and {processing.name} has none")


def _set_up(asked: Asked, task: Any, processing: Processing) -> None:
    """Few-shot examples and answer length as asked, refused where the task fixes them."""
    fixed = task.get_config("num_fewshot")
    if asked.num_fewshot is not None:
        if fixed == 0 and asked.num_fewshot:
            raise InputError(f"{asked.source}: the task allows no num_fewshot but 0")
        task.set_config("num_fewshot", asked.num_fewshot)
    if task.OUTPUT_TYPE != "generate_until":
        if asked.max_new_tokens is not None:
            raise InputError(f"{asked.source} generates nothing, so max_new_tokens means nothing")
        return
    if asked.max_new_tokens is not None:
        task.set_config("generation_kwargs", {"max_gen_toks": asked.max_new_tokens}, update=True)
    longest = (task.get_config("generation_kwargs") or {}).get("max_gen_toks", LONGEST)
    room = processing.max_length
    if room is not None and longest >= room:
        raise InputError(
            f"{asked.source} asks for answers of up to {longest} tokens, and {processing.name} has "
            f"{room} positions for prompt and answer; set max_new_tokens"
        )


def _headline(asked: Asked, tasks: Mapping[str, Any]) -> Headline:
    """The metric that all tasks have."""
    from lm_eval.api.metrics import mean

    found = [
        headline(
            asked.metric,
            {name: rule is mean for name, rule in task.aggregation().items()},
            _filters(task),
            f"{asked.harness}:{name}",
        )
        for name, task in tasks.items()
    ]
    if len(set(found)) > 1:
        names = " and ".join(sorted({one.name for one in found}))
        raise InputError(f"{asked.source}: its tasks differ in metric, {names}; set metric")
    return found[0]


def _filters(task: Any) -> list[str]:
    """The task's answer filters where it names more than the nameless one."""
    return [one["name"] for one in task.get_config("filter_list") or ()]


# -- requests and answers --------------------------------------------------------------------


def _size(asked: Asked, task: Any) -> int:
    count = len(task.eval_docs)
    return count if asked.limit is None else min(asked.limit, count)


def _requests(asked: Asked, processing: Processing, name: str, task: Any) -> Any:
    """Everything the model will be asked, with what is expected of it."""
    task.set_fewshot_seed(SEED)
    with _quiet():
        task.build_all_requests(
            limit=asked.limit,
            apply_chat_template=asked.chat_template,
            chat_template=partial(in_template, processing) if asked.chat_template else None,
            fewshot_as_multiturn=asked.chat_template,
        )
    check_lengths(
        f"{asked.harness}:{name}",
        processing,
        [(one.request_type, one.arguments) for one in task.instances],
        LONGEST,
    )
    return [
        [name, one.doc_id, one.request_type, one.arguments, task.doc_to_target(one.doc)]
        for one in task.instances
    ]


def _documents(asked: Asked, name: str, task: Any) -> list[Document]:
    """Every document that is asked, with its prompt; solved examples are no part of it."""
    docs = {one.doc_id: one.doc for one in task.instances}
    return [
        Document.of(_unsolved(f"{asked.harness}:{name}", str(number), task, doc), doc)
        for number, doc in docs.items()
    ]


def _unsolved(where: str, number: str, task: Any, doc: Any) -> Example:
    prompt = task.doc_to_text(doc)  # of a text with a gap, the place of the right filling
    words = prompt if isinstance(prompt, str) else ""
    choices: Sequence[str] = ()
    if task.OUTPUT_TYPE == "multiple_choice" and words:
        given = [str(choice) for choice in task.doc_to_choice(doc)]
        # Mere letters say nothing: what they stand for is in the prompt.
        choices = given if any(len(choice.strip()) > 1 for choice in given) else ()
    return unanswered(where, number, [Message("user", (TextPart(words),))], choices)


def _clusters(documents: Mapping[str, Sequence[Document]]) -> Clusters:
    return {
        name: {one.example.id: shared for one, shared in zip(group, passages(group), strict=True)}
        for name, group in documents.items()
    }


def in_template(
    processing: Processing,
    chat_history: Sequence[Mapping[str, str]],
    add_generation_prompt: bool = True,
) -> str:
    """A conversation as the model reads it; without the prompt the last turn is left open."""
    turns = [Message(turn["role"], (TextPart(turn["content"]),)) for turn in chat_history]
    if add_generation_prompt:
        return processing.render(turns, add_generation_prompt=True)
    return processing.render(turns[:-1], add_generation_prompt=True) + turns[-1].text


def _answer(
    asked: Asked,
    processing: Processing,
    tasks: Mapping[str, Any],
    chosen: Headline,
    clusters: Clusters,
    model: nn.Module,
) -> Rows:
    """lm-eval's own run over the tasks, as one row per sample."""
    from lm_eval.evaluator import evaluate

    from narrowtune.evaluation.harness.lm_eval_model import text_model
    from narrowtune.evaluation.harness.lm_eval_rows import rows_of

    for task in tasks.values():
        task.set_fewshot_seed(SEED)
    with _quiet():
        found = evaluate(
            text_model(model, processing, asked.batch_size, partial(in_template, processing)),
            {"tasks": dict(tasks), "groups": {}},
            limit=asked.limit,
            bootstrap_iters=0,
            log_samples=True,
            apply_chat_template=asked.chat_template,
            fewshot_as_multiturn=asked.chat_template,
        )
    several = len(tasks) > 1
    return [
        row
        for name, task in tasks.items()
        for row in rows_of(
            task, found["samples"][name], chosen, name if several else "", clusters[name]
        )
    ]


@contextmanager
def _quiet() -> Iterator[None]:
    """Without progress bars and information; what goes wrong is raised."""
    logger = logging.getLogger("lm_eval")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with redirect_stderr(StringIO()):
            yield
    finally:
        logger.setLevel(level)
