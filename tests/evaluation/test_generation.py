"""Greedy answers depend on the weights and the prompt, on nothing else."""

from __future__ import annotations

import json

import pytest
import torch

from narrowtune.data.batching import collate
from narrowtune.data.encoding import encode, encode_prompt
from narrowtune.evaluation import TaskResult, evaluate, prepare, score
from narrowtune.models.generation import evaluating

FAMILIES = ["qwen2_5_vl", "llava_onevision", "llama"]


def predictions(result: TaskResult) -> list[str]:
    return [sample["prediction"] for sample in result.samples]


@pytest.mark.parametrize("name", FAMILIES)
def test_the_answers_do_not_depend_on_the_batch_size(tiny, questions, name):
    made = tiny(name)
    examples = questions(17, images=name != "llama")
    results = [
        evaluate(
            made.model, made.processing, examples, metric="exact", batch_size=size, max_new_tokens=8
        )
        for size in (1, 3, 16)
    ]
    assert predictions(results[0]) == predictions(results[1]) == predictions(results[2])
    assert results[0] == results[1] == results[2]
    assert len(set(predictions(results[0]))) > 8  # the prompts do matter


@pytest.mark.parametrize("name", FAMILIES)
def test_each_answer_is_the_argmax_of_plain_forward_passes(tiny, questions, name):
    made = tiny(name)
    examples = questions(5, images=name != "llama")
    result = evaluate(made.model, made.processing, examples, max_new_tokens=4)
    for example, said in zip(examples, predictions(result), strict=True):
        assert said == greedy_without_cache(made, example, 4)


def greedy_without_cache(made, example, steps):
    prompt = encode_prompt(example, made.processing)
    ids = list(prompt.input_ids)
    for _ in range(steps):
        longer = type(prompt)(example, tuple(ids), (False,) * len(ids), len(ids))
        batch = collate([longer], made.processing, padding_side="right")
        with torch.no_grad():
            ids.append(int(made.model(**batch.inputs).logits[0, -1].argmax()))
        if ids[-1] in made.processing.end_token_ids:
            ids.pop()
            break
    return made.processing.decode(ids[len(prompt) :])


def test_samples_are_in_file_order_and_fit_for_jsonl(tiny, questions):
    made = tiny("llama")
    result = evaluate(made.model, made.processing, questions(5, False), max_new_tokens=3)
    assert [sample["id"] for sample in result.samples] == ["q0", "q1", "q2", "q3", "q4"]
    assert json.loads(json.dumps(result.samples)) == result.samples
    assert set(result.samples[0]) == {"id", "prediction", "references", "score", "truncated"}
    assert result.n == 5 and result.task_version == "exact/1+generate/1"


def test_an_answer_ends_at_its_end_token_and_says_when_it_did_not(tiny, questions, monkeypatch):
    made = tiny("llama")
    examples = questions(12, False)
    free = evaluate(made.model, made.processing, examples, max_new_tokens=6)
    assert all(sample["truncated"] for sample in free.samples)
    # Whatever the model says third in the longest prompt's answer becomes an end token.
    places, batch = next(iter(prepare(made.processing, examples, {"max_new_tokens": 6}).batches))
    said = made.model.generate(**batch.inputs, max_new_tokens=6, do_sample=False)[0, -6:].tolist()
    ends = (*made.processing.end_token_ids, said[2])
    monkeypatch.setitem(made.processing.__dict__, "end_token_ids", ends)
    cut = evaluate(made.model, made.processing, examples, max_new_tokens=6)
    assert not cut.samples[places[0]]["truncated"]
    stop = said.index(said[2])
    assert predictions(cut)[places[0]] == made.processing.decode(said[:stop])
    for before, after in zip(predictions(free), predictions(cut), strict=True):
        assert before.startswith(after.rstrip("\N{REPLACEMENT CHARACTER}"))


def test_no_setting_of_the_models_folder_changes_the_answers(tiny, questions):
    made = tiny("llama")
    examples = questions(6, False)
    plain = evaluate(made.model, made.processing, examples, max_new_tokens=8)
    own = made.model.generation_config
    loud = type(own)(
        do_sample=True,
        temperature=9.0,
        repetition_penalty=5.0,
        no_repeat_ngram_size=1,
        num_beams=3,
        min_new_tokens=8,
        suppress_tokens=list(range(200)),
        max_length=3,
        forced_eos_token_id=300,
    )
    made.model.generation_config = loud
    try:
        assert evaluate(made.model, made.processing, examples, max_new_tokens=8) == plain
        assert made.model.generation_config is loud
    finally:
        made.model.generation_config = own


@pytest.mark.parametrize("name", FAMILIES)
def test_scoring_leaves_the_model_and_the_random_state_as_they_were(tiny, questions, name):
    made = tiny(name)
    example = questions(2, images=name != "llama")[1]
    batch = collate([encode(example, made.processing)], made.processing, padding_side="right")

    def loss_and_gradient():
        made.model.zero_grad()
        labels = batch.inputs["input_ids"].masked_fill(~batch.supervised, -100)
        loss = made.model(**batch.inputs, labels=labels).loss
        loss.backward()
        return loss, [p.grad.clone() for p in made.model.parameters() if p.grad is not None]

    made.model.train()
    frozen = next(module for module in made.model.modules() if not list(module.children()))
    frozen.eval()
    modes = [module.training for module in made.model.modules()]
    before, state = loss_and_gradient(), torch.get_rng_state()
    evaluate(made.model, made.processing, questions(4, name != "llama"), max_new_tokens=3)
    assert torch.equal(torch.get_rng_state(), state)
    assert [module.training for module in made.model.modules()] == modes
    after = loss_and_gradient()
    made.model.eval()
    assert torch.equal(before[0], after[0])
    assert all(torch.equal(a, b) for a, b in zip(before[1], after[1], strict=True))


def test_modes_come_back_after_an_error(tiny):
    model = tiny("llama").model
    model.train()
    with pytest.raises(KeyError), evaluating(model):
        assert not model.training
        raise KeyError
    assert all(module.training for module in model.modules())
    model.eval()


def test_bf16_models_answer_too(tiny, questions):
    made = tiny("llava_onevision")
    half = type(made.model)(made.model.config).to(torch.bfloat16)
    result = evaluate(half, made.processing, questions(3, True), max_new_tokens=2)
    assert result.n == 3


def test_a_prepared_task_scores_several_models_and_decodes_its_images_once(
    tiny, questions, monkeypatch
):
    made = tiny("qwen2_5_vl")
    examples = questions(6, images=True)
    calls = []
    pixel_inputs = made.processing.pixel_inputs
    monkeypatch.setattr(
        made.processing, "pixel_inputs", lambda *args: calls.append(1) or pixel_inputs(*args)
    )
    task = prepare(made.processing, examples, {"batch_size": 3, "max_new_tokens": 3})
    first, second = score(made.model, task), score(made.model, task)
    assert first == second == evaluate(made.model, made.processing, examples, max_new_tokens=3)
    assert len(calls) == 2 + 1
