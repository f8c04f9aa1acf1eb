"""lm-eval's tasks on a model in memory: the same numbers as ours, and nothing left changed."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest
import torch
from harness_tasks import rows, write_lm_eval

from narrowtune.data.example import Example, Message, TextPart
from narrowtune.evaluation import evaluate
from narrowtune.evaluation.harness import Asked, open_task


def ours(count):
    """The same questions as rows of ours; the blank that lm-eval puts between is the choices'."""
    examples = []
    for number, row in enumerate(rows(count)):
        choices = tuple(" " + choice for choice in row["choices"])
        answer = choices[row["gold"]]
        turns = (
            Message("user", (TextPart(row["question"]),)),
            Message("assistant", (TextPart(answer),)),
        )
        examples.append(Example(str(number), turns, f"t:{number}", (answer,), choices))
    return examples


def likelihoods(result):
    return [choice["log_likelihood"] for row in result.samples for choice in row["choices"]]


@pytest.fixture(params=["llama", "plain_pico"])
def tiny(request):
    return request.getfixturevalue(request.param)


@pytest.mark.parametrize("task", ["own_choice", "own_blank"])
def test_choices_are_scored_as_ours_are(tiny, lm_tasks, task):
    """lm-eval takes a blank at the question's end for the choice's, where ours are told so."""
    opened = open_task(Asked("lm-eval", task, include_path=lm_tasks, batch_size=5), tiny.processing)
    theirs = opened.score(tiny.model)
    mine = evaluate(tiny.model, tiny.processing, ours(12), scoring="likelihood")
    assert likelihoods(theirs) == pytest.approx(likelihoods(mine), abs=1e-4)
    for theirs_row, my_row in zip(theirs.samples, mine.samples, strict=True):
        assert theirs_row["id"] == my_row["id"]
        assert theirs_row["metrics"] == {key: my_row[key] for key in ("acc", "acc_norm")}
        assert theirs_row["prediction"] == my_row["prediction"].strip()
        assert theirs_row["references"] == [my_row["references"][0].strip()]
    assert theirs.value == mine.value and theirs.stderr == pytest.approx(mine.stderr)
    by_sum = evaluate(tiny.model, tiny.processing, ours(12), scoring="likelihood-sum")
    acc = Asked("lm-eval", task, metric="acc", include_path=lm_tasks)
    assert open_task(acc, tiny.processing).score(tiny.model).value == by_sum.value


def test_answers_are_generated_as_ours_are(tiny, lm_tasks):
    opened = open_task(Asked("lm-eval", "own_open", include_path=lm_tasks), tiny.processing)
    theirs = opened.score(tiny.model)
    mine = evaluate(tiny.model, tiny.processing, ours(12), max_new_tokens=5)
    said = [row["prediction"].partition("\n")[0].strip() for row in mine.samples]
    assert [row["prediction"].strip() for row in theirs.samples] == said
    assert len(set(said)) > 1


def test_answers_end_where_the_task_says_whatever_the_models_folder_says(
    fresh_llama, llama, lm_tasks
):
    asked = Asked("lm-eval", "own_open", include_path=lm_tasks)
    before = open_task(asked, llama.processing).score(fresh_llama)
    fresh_llama.generation_config.max_new_tokens = 1
    after = open_task(asked, llama.processing).score(fresh_llama)
    assert after.samples == before.samples
    assert fresh_llama.generation_config.max_new_tokens == 1
    two = Asked("lm-eval", "own_open", include_path=lm_tasks, max_new_tokens=2)
    shorter = open_task(two, llama.processing).score(fresh_llama)
    assert sum(len(row["prediction"]) for row in shorter.samples) < sum(
        len(row["prediction"]) for row in before.samples
    )


def test_a_score_says_what_it_rests_on(llama, lm_tasks):
    asked = Asked("lm-eval", "own_choice", include_path=lm_tasks, limit=5, num_fewshot=2)
    task = open_task(asked, llama.processing)
    assert (task.size, task.metric_name, task.higher_is_better) == (5, "acc_norm", True)
    assert task.version == "acc_norm+own_choice/1.5+lm-eval/0.4.13+2-shot"
    result = task.score(llama.model)
    assert (result.n, result.task_version) == (5, task.version)
    assert json.loads(json.dumps(result.samples)) == result.samples
    assert result.samples == task.score(llama.model).samples  # the same examples are drawn again


def test_a_group_pools_its_tasks(llama, lm_tasks):
    asked = Asked("lm-eval", "own_pair", metric="acc", include_path=lm_tasks, limit=4)
    task = open_task(asked, llama.processing)
    result = task.score(llama.model)
    assert (task.size, result.n) == (8, 8)
    alone = [
        open_task(
            Asked("lm-eval", name, metric="acc", include_path=lm_tasks, limit=4), llama.processing
        )
        .score(llama.model)
        .value
        for name in ("own_choice", "own_blank")
    ]
    assert result.value == pytest.approx(sum(alone) / 2)
    assert {row["id"] for row in result.samples} == {
        f"{name}/{number}" for name in ("own_choice", "own_blank") for number in range(4)
    }


def test_a_chat_template_changes_what_is_asked(pico, lm_tasks):
    plain = open_task(Asked("lm-eval", "own_choice", include_path=lm_tasks), pico.processing)
    chat = open_task(
        Asked("lm-eval", "own_choice", include_path=lm_tasks, chat_template=True), pico.processing
    )
    assert plain.sha256 != chat.sha256 and chat.version.endswith("+chat")
    assert likelihoods(plain.score(pico.model)) != likelihoods(chat.score(pico.model))


def test_other_data_or_prompts_are_another_task(llama, tmp_path):
    def sha(change):
        folder = write_lm_eval(tmp_path / change, 4)
        path = folder / "own_choice.yaml"
        if change == "prompt":
            path.write_text(path.read_text().replace('"{{question}}"', '"Q: {{question}}"'))
        if change == "data":
            data = folder / "questions.jsonl"
            data.write_text(data.read_text().replace("one", "eight"))
        return open_task(
            Asked("lm-eval", "own_choice", include_path=folder), llama.processing
        ).sha256

    assert sha("same") == sha("again")
    assert len({sha("same"), sha("prompt"), sha("data")}) == 3


def test_nothing_of_the_model_or_of_chance_is_disturbed(fresh_llama, llama, lm_tasks):
    """HFLM ties weights; here embedding and head differ although the config says they are one."""
    fresh_llama.config.tie_word_embeddings = True
    fresh_llama.model.layers[1].train()
    settings = fresh_llama.generation_config
    modes = [module.training for module in fresh_llama.modules()]
    weights = {name: tensor.clone() for name, tensor in fresh_llama.state_dict().items()}
    pad = llama.processing.tokenizer.padding_side

    def chances():
        return random.random(), np.random.rand(), torch.rand(1).item()

    def seed():
        random.seed(7)
        np.random.seed(7)
        torch.manual_seed(7)

    seed()
    expected = chances()
    seed()
    for name in ("own_open", "own_choice"):
        open_task(Asked("lm-eval", name, include_path=lm_tasks, limit=3), llama.processing).score(
            fresh_llama
        )
    assert chances() == expected
    assert [module.training for module in fresh_llama.modules()] == modes
    assert fresh_llama.generation_config is settings
    assert "tie_weights" not in vars(fresh_llama)
    after = fresh_llama.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in weights.items())
    assert llama.processing.tokenizer.padding_side == pad
