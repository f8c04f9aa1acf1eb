"""What harness tasks share with training, in whatever words, and with one another."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from harness_tasks import MULTIPLE_CHOICE, rows, write_rows, write_task

import narrowtune as nt
from narrowtune.analysis.clusters import design_effect
from narrowtune.errors import InputError
from narrowtune.evaluation.harness import Asked, open_task
from narrowtune.evaluation.tasks import standard_error

PASSAGES = [
    f"The {animal} that lives behind the old mill eats apples,\nsleeps all day and sings at night."
    for animal in ("fox", "owl", "cat")
]
WRAPPED = MULTIPLE_CHOICE.replace(
    '"{{question}}"', '"Read this.\\n\\nPassage: {{story.text}}\\nQuestion: {{question}}\\nAnswer:"'
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A task of twelve questions about three passages, wrapped in words of the harness."""
    made = tmp_path_factory.mktemp("wrapped")
    given = [
        row | {"story": {"text": PASSAGES[number % 3]}, "level": "of a middle level"}
        for number, row in enumerate(rows(12))
    ]
    write_task(made, "wrapped", WRAPPED, write_rows(made, "wrapped", given))
    return made


def planned(
    root: Path, taught: list[dict[str, Any]], entry: dict[str, Any], **more: Any
) -> nt.Plan:
    write_rows(root, "train", taught)
    raw: dict[str, Any] = {
        "model": {"id": "pico-qwen", "dtype": "float32"},
        "stages": [{"name": "skill", "train": "train.jsonl"}],
        "held_out": [entry],
        "arms": [{"name": "down", "recipe": "down"}],
    }
    return nt.plan(nt.parse_experiment(raw | more), root)


def chat(question: str, image: Path | None = None) -> dict[str, Any]:
    content: Any = question
    if image is not None:
        content = [{"type": "image", "image": str(image)}, {"type": "text", "text": question}]
    return {
        "messages": [{"role": "user", "content": content}, {"role": "assistant", "content": "x"}]
    }


@pytest.mark.parametrize(
    "question",
    [
        "how many circles? 8",  # a text of the document, alone
        f"Read this.\nPassage: {PASSAGES[2]}\n\nQuestion: How many circles? 8\nAnswer:",
        f"{PASSAGES[2]}\nHow many circles? 8",  # its texts, as the prompt has them
        PASSAGES[2].replace("\n", " ") + " How many circles? 8",
    ],
)
def test_a_question_is_found_bare_and_wrapped(folder: Path, tmp_path: Path, question: str) -> None:
    entry = {"harness": "lm-eval", "task": "wrapped", "include_path": str(folder), "num_fewshot": 2}
    taught = [chat("Who is there?"), chat(question.replace("How many", "HOW  many"))]
    with pytest.raises(InputError) as told:
        planned(tmp_path, taught, entry)
    (said,) = told.value.problems
    assert "task wrapped: 1 of 12 test rows ask questions that skill trains on: " in said
    assert "lm-eval:wrapped:8 (as " in said and "train.jsonl:2)" in said
    assert "held_out.0.allow_overlap=questions" in said
    plan = planned(tmp_path, taught, entry | {"allow_overlap": "questions"})
    (overlap,) = plan.overlaps
    assert (overlap.task, overlap.kind, overlap.rows, overlap.tested) == (
        "wrapped",
        "questions",
        1,
        12,
    )
    assert planned(tmp_path, taught[:1], entry).overlaps == ()


@pytest.mark.parametrize(
    "question",
    [
        "How many circles? 99",
        "Read this.",  # the harness's words
        "of a middle level",  # what all documents have
        "two",  # a choice
        f"{PASSAGES[0]}\nHow many circles? 8",  # asked of another passage
    ],
)
def test_other_words_are_no_overlap(folder: Path, tmp_path: Path, question: str) -> None:
    entry = {"harness": "lm-eval", "task": "wrapped", "include_path": str(folder)}
    assert planned(tmp_path, [chat(question)], entry).overlaps == ()


def test_only_the_documents_that_are_asked_count(folder: Path, tmp_path: Path) -> None:
    entry = {"harness": "lm-eval", "task": "wrapped", "include_path": str(folder), "limit": 5}
    assert planned(tmp_path, [chat("How many circles? 8")], entry).overlaps == ()


def test_pictures_of_a_harness_are_found_and_its_questions_of_them(
    lmms_tasks: Path, tmp_path: Path
) -> None:
    entry = {"harness": "lmms-eval", "task": "see_open", "include_path": str(lmms_tasks)}
    shown, other = lmms_tasks / "4.png", lmms_tasks / "5.png"
    with pytest.raises(InputError) as told:
        planned(tmp_path, [chat("What colour?", shown)], entry)
    (said,) = told.value.problems
    assert "1 of 8 test rows show pictures that skill trains on: lmms-eval:see_open:4" in said
    with pytest.raises(InputError) as told:
        planned(tmp_path, [chat("how many circles? 4", shown)], entry)
    pictures, questions = told.value.problems
    assert "show pictures" in pictures and "ask questions" in questions
    plan = planned(
        tmp_path, [chat("How many circles? 4", other)], entry | {"allow_overlap": "images"}
    )
    assert [one.kind for one in plan.overlaps] == ["images"]  # asked of another picture


def test_documents_of_one_passage_are_a_cluster(folder: Path, plain_pico: Any) -> None:
    task = open_task(Asked("lm-eval", "wrapped", include_path=folder), plain_pico.processing)
    result = task.score(plain_pico.model)
    clusters = [row["cluster"] for row in result.samples]
    assert [clusters.index(one) for one in clusters] == [0, 1, 2] * 4
    scores = [row["score"] for row in result.samples]
    assert result.stderr == standard_error(scores, clusters)
    right = [float(place % 3 == 0) for place in range(12)]  # by passage alone
    assert standard_error(right, clusters) > 1.3 * standard_error(right)
    assert design_effect(right, clusters) > 1
    assert json.loads(json.dumps(result.samples)) == result.samples


def test_questions_of_no_passage_stay_alone(lm_tasks: Path, plain_pico: Any) -> None:
    for name in ("own_choice", "own_pair"):
        asked = Asked("lm-eval", name, metric="acc", include_path=lm_tasks)
        result = open_task(asked, plain_pico.processing).score(plain_pico.model)
        assert not any("cluster" in row for row in result.samples)
