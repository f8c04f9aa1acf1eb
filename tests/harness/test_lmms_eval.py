"""lmms-eval's tasks on a model in memory, pictures included, without torchvision."""

from __future__ import annotations

import json

import pytest
from harness_tasks import rows
from PIL import ImageFile

from narrowtune.data.example import Example, ImagePart, Message, TextPart
from narrowtune.errors import InputError
from narrowtune.evaluation import evaluate
from narrowtune.evaluation.harness import Asked, open_task
from narrowtune.models.loading import load_model
from narrowtune.models.processing import load_processing


def ours(folder, count=8):
    """The same questions as rows of ours."""
    examples = []
    for number, row in enumerate(rows(count)):
        picture = ImagePart(folder / f"{number}.png")
        answer = row["choices"][row["gold"]]
        turns = (
            Message("user", (picture, TextPart(row["question"]))),
            Message("assistant", (TextPart(answer),)),
        )
        choices = tuple(row["choices"])
        examples.append(Example(str(number), turns, f"t:{number}", (answer,), choices))
    return examples


@pytest.mark.parametrize("name", ["pico-qwen", "pico-llava"])
def test_answers_about_pictures_are_ours(name, lmms_tasks):
    model, processing = load_model(name, device="cpu", dtype="float32"), load_processing(name)
    task = open_task(Asked("lmms-eval", "see_open", include_path=lmms_tasks), processing)
    assert task.version == "exact_match+see_open/0.5+lmms-eval/0.7.3"
    theirs = task.score(model)
    mine = evaluate(model, processing, ours(lmms_tasks), max_new_tokens=5)
    said = [row["prediction"] for row in mine.samples]
    assert [row["prediction"] for row in theirs.samples] == said
    assert [row["references"] for row in theirs.samples] == [
        list(row["references"]) for row in mine.samples
    ]
    for row in theirs.samples:
        assert row["score"] == float(row["prediction"].lower() == row["references"][0].lower())
    assert json.loads(json.dumps(theirs.samples)) == theirs.samples


def test_choices_about_pictures_are_ours_per_token(pico, lmms_tasks):
    """lmms-eval takes the choice with the lowest mean loss, ours records it as `per_token`."""
    task = open_task(Asked("lmms-eval", "see_choice", include_path=lmms_tasks), pico.processing)
    theirs = task.score(pico.model)
    mine = evaluate(pico.model, pico.processing, ours(lmms_tasks), scoring="likelihood")
    for their_row, my_row in zip(theirs.samples, mine.samples, strict=True):
        losses = [-choice["per_token"] for choice in my_row["choices"]]
        found = [choice["loss_per_token"] for choice in their_row["choices"]]
        assert found == pytest.approx(losses, abs=1e-4)
        lowest = my_row["choices"][losses.index(min(losses))]["text"]
        assert their_row["prediction"] == lowest
        assert their_row["score"] == float(lowest in my_row["references"])
    assert task.metric_name == "acc"


def test_a_judge_of_the_tasks_own_counts_where_it_is_a_mean(pico, lmms_tasks):
    task = open_task(
        Asked("lmms-eval", "see_own", include_path=lmms_tasks, limit=5), pico.processing
    )
    assert (task.metric_name, task.size) == ("right", 5)  # `spread` is no mean, though named first
    result = task.score(pico.model)
    assert result.n == 5
    spread = Asked("lmms-eval", "see_own", metric="spread", include_path=lmms_tasks, limit=5)
    other = open_task(spread, pico.processing)
    assert other.version == "spread+see_own/none+lmms-eval/0.7.3+sample-mean"
    assert other.score(pico.model).value == result.value  # the samples' mean, not the task's own


def test_other_pictures_are_another_task(pico, lmms_tasks, tmp_path):
    from harness_tasks import write_lmms_eval
    from PIL import Image

    folder = write_lmms_eval(tmp_path, 3)

    def sha():
        return open_task(
            Asked("lmms-eval", "see_open", include_path=folder), pico.processing
        ).sha256

    before = sha()
    assert sha() == before
    Image.new("RGB", (84, 84)).save(folder / "1.png")
    assert sha() != before


def test_a_truncated_picture_is_still_one(pico, lmms_tasks):
    """lmms-eval lets Pillow take half a picture for a whole one, in all of the process."""
    open_task(Asked("lmms-eval", "see_open", include_path=lmms_tasks), pico.processing)
    import lmms_eval.api.task

    assert lmms_eval.api.task is not None
    assert not ImageFile.LOAD_TRUNCATED_IMAGES


def test_questions_on_one_picture_are_one_cluster(pico, lmms_tasks):
    apart = open_task(Asked("lmms-eval", "see_open", include_path=lmms_tasks), pico.processing)
    shared = open_task(Asked("lmms-eval", "see_one", include_path=lmms_tasks), pico.processing)
    assert len({row["cluster"] for row in apart.score(pico.model).samples}) == 8
    assert len({row["cluster"] for row in shared.score(pico.model).samples}) == 1


def test_an_average_over_categories_is_noticed(pico, lmms_tasks):
    """Six of one category, two of the other: answers right in turn would hide the difference."""
    asked = Asked("lmms-eval", "see_halves", include_path=lmms_tasks)
    with pytest.raises(InputError, match="set metric to one of halves"):
        open_task(asked, pico.processing)
    chosen = Asked("lmms-eval", "see_halves", "halves", include_path=lmms_tasks)
    assert open_task(chosen, pico.processing).version.endswith("+sample-mean")
