"""Choices by likelihood: against plain log-softmax, and whatever the batch."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from narrowtune.data.batching import collate
from narrowtune.data.encoding import encode
from narrowtune.data.example import Message, TextPart
from narrowtune.errors import InputError, RunFailed
from narrowtune.evaluation import METRICS, evaluate, prepare
from narrowtune.evaluation.evaluate import _choice_sample
from narrowtune.evaluation.likelihood import ChoiceScore, encode_choices
from narrowtune.evaluation.tasks import right_choices

FAMILIES = ["qwen2_5_vl", "llava_onevision", "llama"]
CHOICES = ("A red circle", "3", "a blue square and a red circle", "yes, no")


def one_by_one(made, example, choice):
    """The log-likelihood as its definition says: full logits, one sequence, no batch."""
    answer = Message("assistant", (TextPart(choice),))
    encoded = encode(replace(example, messages=(*example.prompt, answer)), made.processing)
    batch = collate([encoded], made.processing, padding_side="right")
    with torch.no_grad():
        logs = made.model(**batch.inputs).logits[0].double().log_softmax(-1)
    ids = encoded.input_ids
    last = len(ids) - 1  # the end token is not the choice's
    assert ids[last] in made.processing.end_token_ids
    return sum(float(logs[t - 1, ids[t]]) for t in range(encoded.prompt_length, last))


@pytest.mark.parametrize("name", FAMILIES)
def test_log_likelihoods_are_those_of_plain_forward_passes(tiny, questions, name):
    made = tiny(name)
    examples = questions(5, images=name != "llama", choices=CHOICES)
    results = [
        evaluate(made.model, made.processing, examples, scoring="likelihood", batch_size=size)
        for size in (1, 3, 16)
    ]
    for example, *samples in zip(examples, *(result.samples for result in results), strict=True):
        for place, choice in enumerate(CHOICES):
            expected = pytest.approx(one_by_one(made, example, choice), abs=1e-4)
            assert all(sample["choices"][place]["log_likelihood"] == expected for sample in samples)
        assert len({sample["prediction"] for sample in samples}) == 1


def test_the_marked_tokens_are_the_choice_and_nothing_else(tiny, questions):
    made = tiny("qwen2_5_vl")
    example = questions(2, images=True, choices=CHOICES)[1]
    for choice, encoded in zip(CHOICES, encode_choices(example, made.processing), strict=True):
        pairs = zip(encoded.input_ids, encoded.supervised, strict=True)
        assert made.processing.tokenizer.decode([i for i, marked in pairs if marked]) == choice


def test_both_normalisations_are_recorded_and_the_value_comes_from_the_one_asked_for(
    tiny, questions
):
    made = tiny("llama")
    examples = questions(12, False, CHOICES)
    per_character = evaluate(made.model, made.processing, examples, scoring="likelihood")
    by_sum = evaluate(made.model, made.processing, examples, scoring="likelihood-sum")
    assert per_character.task_version == "exact/1+likelihood/1"
    assert by_sum.task_version == "exact/1+likelihood-sum/1"
    for result, key in ((per_character, "acc_norm"), (by_sum, "acc")):
        assert [s["score"] for s in result.samples] == [s[key] for s in result.samples]
        assert result.value == sum(s[key] for s in result.samples) / 12
    assert json.loads(json.dumps(by_sum.samples)) == by_sum.samples


def test_sum_and_per_character_choose_as_lm_eval_does(questions):
    example = questions(1, False, ("no", "certainly"))[0]
    short, long = ChoiceScore("no", -4.0, 1), ChoiceScore("certainly", -9.0, 3)
    assert (short.per_character, long.per_character, long.per_token) == (-2.0, -1.0, -3.0)
    sample = _choice_sample(example, frozenset({0}), [short, long], by_sum=False)
    assert (sample["prediction"], sample["score"]) == ("certainly", 0.0)
    assert (sample["acc"], sample["acc_norm"]) == (1.0, 0.0)
    assert _choice_sample(example, frozenset({0}), [short, long], by_sum=True)["score"] == 1.0
    tied = [ChoiceScore("no", -2.0, 1), ChoiceScore("on", -2.0, 1)]
    assert _choice_sample(example, frozenset({0}), tied, by_sum=False)["prediction"] == "no"


def test_the_right_choice_is_found_by_its_text_or_by_the_metric(questions):
    example = questions(1, False, CHOICES)[0]
    assert right_choices(example, METRICS["exact"]) == {0}
    letter = replace(example, references=("B",))
    assert right_choices(letter, METRICS["option"]) == {1}
    assert right_choices(letter, METRICS["exact"]) == frozenset()
    # Two choices that the metric takes for one: only the one that is written so is right.
    near = replace(example, choices=("the end", "an end"), references=("an end",))
    assert right_choices(near, METRICS["exact"]) == {1}


def test_rows_that_cannot_be_scored_by_likelihood_are_all_named(tiny, questions):
    rows = questions(3, False, CHOICES)
    rows[0] = replace(rows[0], choices=())
    rows[2] = replace(rows[2], references=("a heron",))
    with pytest.raises(InputError) as told:
        prepare(tiny("llama").processing, rows, {"scoring": "likelihood"})
    assert [problem.split(": ")[0] for problem in told.value.problems] == ["t.jsonl:1", "t.jsonl:3"]
    assert "`choices`" in told.value.problems[0] and "'a heron'" in told.value.problems[1]


def test_a_damaged_model_is_no_score(tiny, questions):
    made = tiny("llama")
    broken = type(made.model)(made.model.config)
    broken.lm_head.weight.data.fill_(float("nan"))
    with pytest.raises(RunFailed, match="NaN"):
        evaluate(broken, made.processing, questions(2, False, CHOICES), scoring="likelihood")
