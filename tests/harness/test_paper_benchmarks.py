"""The paper's eight held-out benchmarks as lmms-eval ships them, over rows in their public layout.

Task files, prompts, answer filters and judges are lmms-eval's; only the data set is a local file.
"""

from __future__ import annotations

from importlib.resources import files
from typing import Any

import datasets
import pytest
from PIL import Image

from narrowtune.errors import InputError
from narrowtune.evaluation.harness import Asked, open_task
from narrowtune.models.loading import load_model
from narrowtune.models.processing import load_processing

COUNT = 6
L2 = ("image emotion", "object counting", "geometry")


def row(number: int, **more: Any) -> dict[str, Any]:
    picture = Image.linear_gradient("L").resize((84, 84)).rotate(31 * number).convert("RGB")
    return {"image": picture, "question": f"How many? {number}"} | more


def letters(number: int) -> str:
    return "ABCD"[number % 4]


BENCHMARKS: dict[str, tuple[str, str | None, str, Any]] = {
    "ai2d": ("ai2d", None, "exact_match,flexible-extract", lambda i: row(
        i, options=["one", "two", "three", "four"], answer=str(i % 4))),
    "chartqa": ("chartqa", None, "relaxed_overall", lambda i: row(
        i, answer=str(i), type="human_test" if i % 2 else "augmented_test")),
    "docvqa": ("docvqa_val", None, "anls", lambda i: row(i, answers=[str(i)], questionId=str(i))),
    "infovqa": ("infovqa_val", None, "anls", lambda i: row(i, answers=[str(i)], questionId=str(i))),
    "realworldqa": ("realworldqa", None, "exact_match", lambda i: row(i, answer=letters(i))),
    "seedbench": ("seedbench", "seed_all", "seed_all", lambda i: row(
        i, **{f"choice_{c}": c for c in "abcd"}, answer=letters(i), data_type="image",
        question_id=str(i)) | {"image": [row(i)["image"]]}),
    "scienceqa": ("scienceqa_img", None, "exact_match", lambda i: row(
        i, hint="", choices=["one", "two"], answer=i % 2)),
    "mmstar": ("mmstar", "average", "average", lambda i: row(
        i, answer=letters(i), category="math", l2_category=L2[i % 4 % 3], index=i)),
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Every benchmark's own task file, its data set replaced."""
    made = tmp_path_factory.mktemp("paper")
    shipped = files("lmms_eval") / "tasks"
    for benchmark, (task, _, _, draw) in BENCHMARKS.items():
        data = made / f"{benchmark}.parquet"
        datasets.Dataset.from_list([draw(number) for number in range(COUNT)]).to_parquet(data)
        (made / f"{benchmark}.yaml").write_text(
            f"include: {shipped / benchmark / task}.yaml\ntask: own_{task}\n"
            f"dataset_path: parquet\ndataset_name: null\ntest_split: test\n"
            f"dataset_kwargs: {{data_files: {{test: {data}}}}}\n"
        )
    return made


@pytest.mark.parametrize("benchmark", BENCHMARKS)
def test_a_held_out_benchmark_of_the_paper(benchmark, pico, folder):
    task, metric, named, _ = BENCHMARKS[benchmark]
    asked = Asked("lmms-eval", f"own_{task}", metric, max_new_tokens=6, include_path=folder)
    opened = open_task(asked, pico.processing)
    assert (opened.metric_name, opened.size) == (named, COUNT)
    assert opened.version.endswith("+sample-mean+6-tokens") == (benchmark == "mmstar")
    result = opened.score(pico.model)
    assert result.n == COUNT
    assert all(sample["prediction"] for sample in result.samples)
    assert result.value == pytest.approx(sum(s["score"] for s in result.samples) / COUNT)


def test_a_category_average_has_to_be_asked_for(pico, folder):
    asked = Asked("lmms-eval", "own_mmstar", max_new_tokens=6, include_path=folder)
    with pytest.raises(InputError, match=r"set metric to one of .*average"):
        open_task(asked, pico.processing)


def test_right_answers_are_right(folder, monkeypatch):
    """What is asked and judged fits together: a model that says the answer gets all points."""
    from narrowtune.evaluation.harness import lmms_eval_model

    answers: dict[str, str] = {}

    def says_it(model, prepared):
        from narrowtune.evaluation.tasks import TaskResult

        rows = [{"id": one.id, "prediction": answers[one.id]} for one in prepared.examples]
        return TaskResult(1.0, len(rows), 0.0, "", True, rows)

    monkeypatch.setattr(lmms_eval_model, "score", says_it)
    processing = load_processing("pico-qwen")
    model = load_model("pico-qwen", device="cpu", dtype="float32")
    for benchmark, (task, metric, _, draw) in BENCHMARKS.items():
        for number in range(COUNT):
            given = draw(number)
            wanted = given.get("answer", given.get("answers"))
            if benchmark in ("ai2d", "scienceqa"):
                wanted = letters(int(wanted))
            answers[str(number)] = wanted[0] if isinstance(wanted, list) else str(wanted)
        asked = Asked("lmms-eval", f"own_{task}", metric, max_new_tokens=6, include_path=folder)
        assert open_task(asked, processing).score(model).value == 1.0, benchmark
