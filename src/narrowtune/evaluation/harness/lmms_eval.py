"""The adapter of lmms-eval: its tasks, its judging, our model and processing."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import lru_cache, partial
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from narrowtune.data.example import Example
from narrowtune.errors import InputError, nearest
from narrowtune.evaluation.harness.asked import Asked
from narrowtune.evaluation.harness.conversations import Pictures, example_of
from narrowtune.evaluation.harness.documents import Document, wordings
from narrowtune.evaluation.harness.failure import built
from narrowtune.evaluation.harness.lmms_eval_rows import Judged, headline_of, rows_of
from narrowtune.evaluation.harness.metric import Headline
from narrowtune.evaluation.harness.requests import digest_of
from narrowtune.evaluation.harness.task import HarnessTask, Rows, version
from narrowtune.evaluation.harness.undisturbed import pillow_kept
from narrowtune.evaluation.tasks import How, PreparedTask, prepare

if TYPE_CHECKING:
    from torch import nn

    from narrowtune.models.processing import Processing

LONGEST = 4096  # tokens of an answer where the task says nothing, as in lmms-eval's chat models
KINDS = ("generate_until", "multiple_choice")  # of request
REHEARSED = (1 / 3, 1 / 2, 2 / 3)  # shares of documents answered in a rehearsal
ONE_PROCESS = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}


@dataclass(frozen=True)
class Ready:
    """One lmms-eval task with its documents in our model's format."""

    name: str
    task: Any
    prepared: PreparedTask
    until: tuple[str, ...]
    chosen: Headline
    sha256: str
    asks: tuple[Example, ...]


def open_lmms_eval(asked: Asked, processing: Processing) -> HarnessTask:
    """The task, built by lmms-eval, every document shown to the model's processing once.

    Raises:
        InputError: No such task or metric, its data or a package of it cannot be had, or it asks
            for more than greedy answers about images and text.
    """
    _check_asked(asked)
    pictures = Pictures.new()
    tasks = _load(asked)
    ready = [_ready(asked, name, task, processing, pictures) for name, task in tasks.items()]
    if len({one.chosen for one in ready}) > 1:
        names = " and ".join(sorted({one.chosen.name for one in ready}))
        raise InputError(f"{asked.source}: its tasks differ in metric, {names}; set metric")
    chosen = ready[0].chosen
    return HarnessTask(
        asked=asked,
        metric_name=chosen.name,
        size=sum(len(one.prepared.examples) for one in ready),
        version=version(asked, chosen, [_version_of(one.task) for one in ready]),
        higher_is_better=all(one.task.higher_is_better().get(chosen.metric, True) for one in ready),
        sha256=digest_of([[one.name, one.sha256] for one in ready]),
        answer=partial(_answer, ready, pictures),
        asks=tuple(row for one in ready for row in one.asks),
    )


def _check_asked(asked: Asked) -> None:
    if asked.num_fewshot:
        raise InputError(
            f"{asked.source}: lmms-eval shows chat models no solved examples; leave num_fewshot out"
        )
    if asked.chat_template:
        raise InputError(
            f"{asked.source}: lmms-eval asks in the model's chat template in any "
            "case; leave chat_template out"
        )


# -- finding the task ------------------------------------------------------------------------


def _load(asked: Asked) -> dict[str, Any]:
    """The task itself, or a group's tasks by name."""
    manager = _manager_for(asked)
    if asked.task not in manager.all_tasks:
        raise InputError(
            f"lmms-eval has no task {asked.task!r}; {nearest(asked.task, manager.all_tasks)} "
            "A folder of your own task files goes into include_path"
        )
    if asked.task in manager.all_tags:
        raise InputError(
            f"{asked.source} is a tag, not a task: name the tasks behind it one by one"
        )
    with built(asked), quiet():
        tasks = _flat(asked, manager.load_task_or_group(asked.task, task_type="chat"))
        if any(task.OUTPUT_TYPE == "multiple_choice" for task in tasks.values()):
            tasks = _flat(asked, manager.load_task_or_group(asked.task, task_type="simple"))
    for name, task in tasks.items():
        _check_kind(f"{asked.harness}:{name}", task)
    return tasks


def _flat(asked: Asked, found: Mapping[Any, Any]) -> dict[str, Any]:
    """Groups opened; a group that weighs its tasks alike has no value per sample."""
    tasks: dict[str, Any] = {}
    for key, value in found.items():
        if not isinstance(value, Mapping):
            tasks[str(key)] = value
            continue
        rules = key.config["aggregate_metric_list"] or ()
        if any(not rule["weight_by_size"] for rule in rules):
            raise InputError(
                f"{asked.source}: the group averages its tasks, whatever their sizes, and has no "
                "value per sample; name its tasks one by one: " + ", ".join(map(str, value))
            )
        tasks |= _flat(asked, value)
    return tasks


def _check_kind(where: str, task: Any) -> None:
    from lmms_eval.api.task import ConfigurableMessagesTask

    kind = task.OUTPUT_TYPE
    if kind not in KINDS:
        raise InputError(f"{where} asks for {kind}; {' and '.join(KINDS)} are run here")
    if kind == "generate_until" and not isinstance(task, ConfigurableMessagesTask):
        raise InputError(f"{where} is a task of Python code without messages for chat models")
    if task.config.repeats != 1:
        raise InputError(f"{where} asks every question {task.config.repeats} times, by chance")
    settings = task.config.generation_kwargs or {}
    if kind == "generate_until" and sampled(settings):
        raise InputError(
            f"{where} asks for sampled answers or beams ({settings}); answers are greedy here"
        )


def sampled(settings: Mapping[str, Any]) -> bool:
    """Whether generation settings ask for anything but the greedy answer."""
    chance = float(settings.get("temperature") or 0) > 0 and settings.get("do_sample", True)
    return bool(chance) or (settings.get("num_beams") or 1) > 1


def _manager_for(asked: Asked) -> Any:
    """An index that holds the task: the user's folder if it is there, else all of lmms-eval's."""
    if asked.include_path is not None:
        own = _manager(asked.include_path, defaults=False)
        if asked.task in own.all_subtasks:
            return own
    return _manager(asked.include_path, defaults=True)


@lru_cache(maxsize=4)  # reading lmms-eval's 2,000 task files takes seconds
def _manager(include_path: Path | None, defaults: bool) -> Any:
    with quiet():
        from lmms_eval.tasks import TaskManager

        return TaskManager(
            include_path=str(include_path) if include_path else None, include_defaults=defaults
        )


def _version_of(task: Any) -> str:
    """The task file's version; some write it as a list of one."""
    data = task.config.metadata
    found = data[0] if isinstance(data, list) and data else data
    return str(found["version"]) if isinstance(found, dict) and "version" in found else "none"


# -- documents and answers -------------------------------------------------------------------


def _ready(asked: Asked, name: str, task: Any, processing: Processing, pictures: Pictures) -> Ready:
    where = f"{asked.harness}:{name}"
    with built(asked), quiet():
        task.build_all_requests(limit=asked.limit)
        documents = _documents(task)
    conversations = [_conversation(task, one) for one in documents]
    examples = [
        example_of(where, str(number), messages, pictures, choices)
        for number, messages, choices in conversations
    ]
    settings = task.config.generation_kwargs or {}
    if asked.max_new_tokens is not None and task.OUTPUT_TYPE != "generate_until":
        raise InputError(f"{where} generates nothing, so max_new_tokens means nothing")
    how: How = {
        "batch_size": asked.batch_size,
        "scoring": "likelihood-sum" if task.OUTPUT_TYPE == "multiple_choice" else "generate",
        "max_new_tokens": asked.max_new_tokens or settings.get("max_new_tokens", LONGEST),
    }
    with built(asked), quiet():
        chosen = headline_of(asked, where, task, _rehearse(task, len(documents)))
    return Ready(
        name=name,
        task=task,
        prepared=prepare(processing, examples, how),
        until=tuple(settings.get("until") or ()),
        chosen=chosen,
        sha256=digest_of([conversations, settings, [_target(task, one) for one in documents]]),
        asks=wordings(
            [
                Document.of(*pair)
                for pair in zip(examples, (doc for _, doc, _ in documents), strict=True)
            ]
        ),
    )


def _documents(task: Any) -> list[tuple[int, Any, Any]]:
    """Number, whole document and first request of every document, in order."""
    first: dict[int, Any] = {}
    for request in task.instances:
        first.setdefault(request.doc_id, request)
    docs = task.eval_docs
    return [(number, docs[number], request) for number, request in first.items()]


def _conversation(
    task: Any, document: tuple[int, Any, Any]
) -> tuple[int, list[dict[str, Any]], tuple[str, ...]]:
    """What is shown to the model, and its choices if it has any."""
    number, doc, request = document
    if task.OUTPUT_TYPE == "generate_until":
        return number, task.doc_to_messages(doc), ()
    blocks = [{"type": "image", "url": one} for one in task.doc_to_visual(doc) or ()]
    blocks.append({"type": "text", "text": request.args[0]})
    choices = tuple(str(choice) for choice in task.doc_to_choice(doc))
    return number, [{"role": "user", "content": blocks}], choices


def _target(task: Any, document: tuple[int, Any, Any]) -> Any:
    return task.doc_to_target(document[1])


def _rehearse(task: Any, count: int) -> list[Judged]:
    from narrowtune.evaluation.harness.lmms_eval_model import Rehearsal

    docs = task.eval_docs_no_media
    targets = {number: task.doc_to_target(docs[number]) for number in range(count)}
    expected = {
        number: str(target[0] if isinstance(target, list) and target else target)
        for number, target in targets.items()
    }
    without_media = SimpleNamespace(process_with_media=False)
    return [
        judged(task, Rehearsal(expected, share), count, cli_args=without_media)
        for share in REHEARSED
    ]


def _answer(ready: list[Ready], pictures: Pictures, model: nn.Module) -> Rows:
    """lmms-eval's own run over the tasks, as one row per sample; `pictures` must still be there."""
    from narrowtune.evaluation.harness.lmms_eval_model import ModelInMemory

    rows: Rows = []
    for one in ready:
        with quiet():
            ours = ModelInMemory(model, one.prepared, one.until)
            found = judged(one.task, ours, len(one.prepared.examples))
        prepared, prefix = one.prepared, one.name if len(ready) > 1 else ""
        ids = [example.id for example in prepared.examples]
        clusters = dict(zip(ids, prepared.clusters, strict=True))
        rows += rows_of(one.task, found, one.chosen, prefix, clusters)
    return rows


def judged(task: Any, model: Any, limit: int, **more: Any) -> Judged:
    """One task evaluated by lmms-eval with a model; in one process, whatever `accelerate` says."""
    from lmms_eval.evaluator import evaluate

    before = {name: os.environ.get(name) for name in ONE_PROCESS}
    os.environ.update(ONE_PROCESS)
    try:
        name = task.config.task
        model.task_dict = {name: task.dataset}
        found = evaluate(
            model, {name: task}, limit=limit, bootstrap_iters=0, process_docs_parallel=1, **more
        )
        return Judged(found["samples"][name], found["results"][name])
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextmanager
def quiet() -> Iterator[None]:
    """Without progress bars and notes; what goes wrong is raised.

    When first imported, lmms-eval sends its notes to standard output, which is for results, and
    changes a setting of Pillow.
    """
    from loguru import logger

    with redirect_stdout(sys.stderr), pillow_kept():
        import lmms_eval.evaluator  # noqa: F401
    logger.disable("lmms_eval")
    with redirect_stderr(StringIO()), redirect_stdout(StringIO()):
        yield
