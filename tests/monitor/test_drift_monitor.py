"""The monitor under transformers' real Trainer, and TRL's: what it reads, and what it leaves."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoTokenizer,
    DataCollatorForLanguageModeling,
    GPT2Config,
    GPT2LMHeadModel,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)

import narrowtune as nt
from narrowtune.errors import InputError, NarrowTuneWarning
from narrowtune.models.skeleton import resolve
from narrowtune.monitor.base import base_of
from narrowtune.probes import classes

TAUGHT = [f"How many birds are there? {number}" for number in range(1, 9)]


def row(question: str, answer: str) -> dict[str, Any]:
    turns = [("user", question), ("assistant", answer)]
    return {"messages": [{"role": role, "content": text} for role, text in turns]}


TEXTS = {
    "colours": [row(f"Which colour is number {n}?", "a warm red") for n in range(6)],
    "answers": [row(f"Is {n} even?", "yes" if n % 2 == 0 else "no") for n in range(6)],
}


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(resolve("pico-qwen"))


@pytest.fixture
def make(tokenizer: Any) -> Callable[[], GPT2LMHeadModel]:
    """Makes a tiny GPT-2 with dropout, so that a random state that was touched shows."""

    def tiny(**more: int) -> GPT2LMHeadModel:
        set_seed(1)
        sizes = {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 128}
        ends = {"bos_token_id": tokenizer.eos_token_id, "eos_token_id": tokenizer.eos_token_id}
        return GPT2LMHeadModel(GPT2Config(**{"vocab_size": len(tokenizer)} | sizes | ends | more))

    return tiny


def trainer(
    model: torch.nn.Module, tokenizer: Any, out: Path, *watching: TrainerCallback, **more: Any
) -> Trainer:
    settings = {
        "learning_rate": 5e-3,
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 2,
        "max_steps": 6,
        "logging_steps": 2,
        "save_strategy": "no",
        "use_cpu": True,
        "report_to": [],
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
    }
    return Trainer(
        model,
        TrainingArguments(str(out), **settings | more),
        train_dataset=[tokenizer(text) for text in TAUGHT],
        data_collator=DataCollatorForLanguageModeling(tokenizer, mlm=False),
        callbacks=list(watching),
    )


def weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: weight.detach().clone() for name, weight in model.named_parameters()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one.keys() | other.keys())


def values(monitor: nt.DriftMonitor, probe: str, task: str, **keys: str) -> dict[int, float]:
    wanted = {"probe": probe, "task": task, "at": "all"} | keys
    return {row["step"]: row["value"] for row in monitor.readings if wanted.items() <= row.items()}


@pytest.mark.parametrize("more", [{}, {"bf16": True}, {"gradient_checkpointing": True}], ids=str)
def test_a_watched_training_ends_in_the_same_bits(
    make: Callable, tokenizer: Any, tmp_path: Path, more: dict
) -> None:
    probes = ("kl", "answer_bias", "number_bias")
    monitor = nt.DriftMonitor(tokenizer, TEXTS, probes, every=2, max_new_tokens=4)
    plain, watched = make(), make()
    alone = trainer(plain, tokenizer, tmp_path / "plain", **more)
    alone.train()
    seen = trainer(watched, tokenizer, tmp_path / "watched", monitor, **more)
    seen.train()
    assert same(weights(plain), weights(watched))
    assert watched.config.use_cache == plain.config.use_cache
    logged = [
        [row["loss"] for row in one.state.log_history if "loss" in row] for one in (alone, seen)
    ]
    assert logged[0] == logged[1]
    assert len(logged[0]) == 3
    kl = values(monitor, "kl", "colours")
    assert list(kl) == [0, 2, 4, 6]
    assert kl[0] == 0.0
    assert kl[6] > kl[2] > 0


def test_readings_agree_with_a_probing_of_the_finished_model(
    make: Callable, tokenizer: Any, tmp_path: Path
) -> None:
    model = make()
    monitor = nt.DriftMonitor(tokenizer, TEXTS, every="log", taught={"birds": [row("?", "8 9")]})
    trainer(model, tokenizer, tmp_path, monitor).train()
    before, after = ([], [])
    model.eval()
    for one, found in ((make().eval(), before), (model, after)):
        for text in TEXTS["answers"][:4]:
            ids = tokenizer.apply_chat_template(text["messages"], return_dict=False)
            ids = ids[: len(ids) - ids[::-1].index(tokenizer.eos_token_id)]
            start = len(
                tokenizer.apply_chat_template(
                    text["messages"][:1], add_generation_prompt=True, return_dict=False
                )
            )
            with torch.no_grad():
                logits = one(torch.tensor([ids])).logits[0, start - 1 : -1].double()
            found.append(logits.log_softmax(-1))
    kl = [float((p.exp() * (p - q)).sum(-1).mean()) for p, q in zip(before, after, strict=True)]
    assert values(monitor, "kl", "answers")[6] == pytest.approx(sum(kl) / 4, rel=1e-4)
    assert list(values(monitor, "kl", "answers")) == [0, 1, 6]
    assert values(monitor, "mass", "answers", part="answer:birds")[6] > 0


class Tracker(TrainerCallback):
    """Stands for what `report_to` names: it is told of each log."""

    def __init__(self) -> None:
        self.told: list[tuple[int, dict]] = []

    def on_log(self, args: Any, state: Any, control: Any, logs: dict, **kwargs: Any) -> None:
        self.told.append((state.global_step, dict(logs)))


def test_the_trainers_log_and_trackers_are_told(
    make: Callable, tokenizer: Any, tmp_path: Path
) -> None:
    tracker = Tracker()
    watched = trainer(make(), tokenizer, tmp_path, tracker)
    monitor = nt.DriftMonitor(tokenizer, TEXTS, every=3, write=True).attach(watched)
    watched.train()
    history = [row for row in watched.state.log_history if "drift" in row]
    assert [row["step"] for row in history] == [0, 3, 6]
    kl = [values(monitor, "kl", task)[6] for task in TEXTS]
    assert history[-1]["drift"] == pytest.approx(sum(kl) / 2)
    assert history[-1]["drift_kl/colours"] == kl[0]
    assert [step for step, logs in tracker.told if "drift" in logs] == [0, 3, 6]
    assert [step for step, logs in tracker.told if "loss" in logs] == [2, 4, 6]
    lines = (tmp_path / "drift.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == monitor.readings


class StopAt(TrainerCallback):
    """Ends training after a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        control.should_training_stop |= state.global_step >= self.step


@pytest.mark.parametrize("restore", [False, True])
def test_training_stops_where_the_budget_is_spent(
    make: Callable, tokenizer: Any, tmp_path: Path, restore: bool
) -> None:
    free = nt.DriftMonitor(tokenizer, TEXTS, every=1)
    trainer(make(), tokenizer, tmp_path / "free", free).train()
    drifts = [
        (one + other) / 2
        for one, other in zip(*(values(free, "kl", task).values() for task in TEXTS), strict=True)
    ]
    budget = (drifts[3] + drifts[4]) / 2
    assert drifts == sorted(drifts)
    model, cut = make(), make()
    monitor = nt.DriftMonitor(
        tokenizer, TEXTS, every=1, budget=budget, action="stop", restore=restore
    )
    watched = trainer(model, tokenizer, tmp_path / "kept", monitor)
    with pytest.warns(NarrowTuneWarning, match="at step 4 the drift"):
        watched.train()
    assert watched.state.global_step == monitor.broken_at == 4
    short = trainer(cut, tokenizer, tmp_path / "short", StopAt(3 if restore else 4))
    short.train()
    assert same(weights(model), weights(cut))


def test_report_warns_once_and_goes_on(make: Callable, tokenizer: Any, tmp_path: Path) -> None:
    monitor = nt.DriftMonitor(tokenizer, TEXTS, every=1, budget=1e-9)
    watched = trainer(make(), tokenizer, tmp_path, monitor)
    with pytest.warns(NarrowTuneWarning, match="training goes on") as warned:
        watched.train()
    assert watched.state.global_step == 6
    assert monitor.broken_at == 1
    assert len([one for one in warned if one.category is NarrowTuneWarning]) == 1


def test_a_resumed_training_needs_a_base_and_repeats_no_row(
    make: Callable, tokenizer: Any, tmp_path: Path
) -> None:
    whole = nt.DriftMonitor(tokenizer, TEXTS, every=2, write=True)
    saving = {"save_strategy": "steps", "save_steps": 4}
    trainer(make(), tokenizer, tmp_path, whole, **saving).train()
    assert {one["step"] for one in whole.readings} == {0, 2, 4, 6}
    checkpoint = str(tmp_path / "checkpoint-4")
    alone = nt.DriftMonitor(tokenizer, TEXTS, every=2, write=True)
    with pytest.raises(InputError, match="give the monitor the model it began with"):
        trainer(make(), tokenizer, tmp_path, alone).train(resume_from_checkpoint=checkpoint)
    make().save_pretrained(tmp_path / "base")
    given = nt.DriftMonitor(tokenizer, TEXTS, every=2, write=True, base=str(tmp_path / "base"))
    trainer(make(), tokenizer, tmp_path, given).train(resume_from_checkpoint=checkpoint)
    assert values(given, "kl", "colours")[6] == pytest.approx(values(whole, "kl", "colours")[6])
    lines = [json.loads(line) for line in (tmp_path / "drift.jsonl").read_text().splitlines()]
    kept = [one["step"] for one in lines if (one["probe"], one["task"]) == ("kl", "colours")]
    assert kept == [0, 0, 2, 2, 4, 4, 6, 6]  # at the first token and at all


@pytest.mark.parametrize("resumed", [False, True])
def test_an_adapters_base_is_the_model_beneath(
    make: Callable, tokenizer: Any, tmp_path: Path, resumed: bool
) -> None:
    """Also where the adapter was trained before, or training was resumed."""
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(make(), LoraConfig(task_type="CAUSAL_LM", r=4, lora_dropout=0.1))
    frozen = next(one for name, one in model.named_parameters() if "lora_A" in name)
    frozen.requires_grad_(False)
    saving = {"save_strategy": "steps", "save_steps": 4, "learning_rate": 5e-2}
    first = nt.DriftMonitor(tokenizer, TEXTS, every=2)
    trainer(model, tokenizer, tmp_path, first, **saving).train()
    drifts = values(first, "kl", "colours")
    assert drifts[0] == 0.0
    assert drifts[6] > drifts[2] > 0
    assert not frozen.requires_grad
    again = nt.DriftMonitor(tokenizer, TEXTS, every=2)
    checkpoint = str(tmp_path / "checkpoint-4") if resumed else None
    trainer(model, tokenizer, tmp_path, again, **saving).train(resume_from_checkpoint=checkpoint)
    start = 4 if resumed else 0
    seen = values(again, "kl", "colours")
    assert min(seen) == start
    assert seen[start] == pytest.approx(drifts[4 if resumed else 6], rel=1e-5)


@pytest.mark.parametrize(
    ("settings", "alone"),
    [({}, True), ({"init_lora_weights": "pissa"}, False), ({"bias": "all"}, False)],
    ids=str,
)
def test_adapters_that_change_what_lies_beneath_hold_no_base(
    make: Callable, settings: dict, alone: bool
) -> None:
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(make(), LoraConfig(task_type="CAUSAL_LM", r=4, **settings))
    with base_of(model, None, started=False) as base:
        assert base is model
        assert model.get_model_status().enabled is not alone
    assert model.get_model_status().enabled
    if not alone:
        with pytest.raises(InputError, match="resumed"), base_of(model, None, started=True):
            pass


def test_a_base_of_another_vocabulary_is_refused(
    make: Callable, tokenizer: Any, tmp_path: Path
) -> None:
    longer = make(vocab_size=len(tokenizer) + 8)
    monitor = nt.DriftMonitor(tokenizer, TEXTS, base=longer)
    with pytest.raises(InputError, match="only models of one vocabulary compare"):
        trainer(make(), tokenizer, tmp_path, monitor).train()


def test_texts_of_another_tokenizer_or_too_long_are_refused(
    make: Callable, tokenizer: Any, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="give the monitor this model's own tokenizer"):
        small = make(vocab_size=50)
        settings = {"bos_token_id": 0, "eos_token_id": 0}
        small.config.update(settings)
        trainer(small, tokenizer, tmp_path, nt.DriftMonitor(tokenizer, TEXTS)).train()
    long = {"long": [row("why? " * 200, "so")]}
    with pytest.raises(InputError, match=r"long:1: .*128"):
        trainer(make(), tokenizer, tmp_path, nt.DriftMonitor(tokenizer, long)).train()


def test_all_that_is_wrong_is_told_at_once() -> None:
    with pytest.raises(InputError) as error:
        nt.DriftMonitor("pico-qwen", TEXTS, ("kll",), every=0, action="halt", measure="k")
    assert len(error.value.problems) == 4
    assert "did you mean 'kl'?" in str(error.value)
    with pytest.raises(InputError, match="action stop needs a budget"):
        nt.DriftMonitor("pico-qwen", TEXTS, action="stop")
    with pytest.raises(InputError, match="add 'kl' to probes"):
        nt.DriftMonitor("pico-qwen", TEXTS, ("number_bias",), budget=0.1)
    with pytest.raises(InputError, match="texts broken: broken:1: neither format"):
        nt.DriftMonitor("pico-qwen", {"broken": [{"text": "?"}], "none": "no.jsonl"})
    with pytest.raises(InputError, match="no texts"):
        nt.DriftMonitor("pico-qwen", {})


def test_an_empty_class_is_not_available_with_the_reason(
    make: Callable, tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(classes.RULES, "number", re.compile("(?!)"))
    monitor = nt.DriftMonitor(tokenizer, TEXTS, ("answer_bias",), every=6, budget=1.0)
    trainer(make(), tokenizer, tmp_path, monitor).train()
    empty = [one for one in monitor.readings if one["probe"] == "mass" and one["value"] is None]
    assert {(one["part"], one["reason"]) for one in empty} == {
        ("number", "the tokenizer has no number that is one token")
    }
    assert all(math.isfinite(one["value"]) for one in monitor.readings if one not in empty)


def test_under_trl(make: Callable, tokenizer: Any, tmp_path: Path) -> None:
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    arguments = SFTConfig(
        str(tmp_path),
        learning_rate=5e-3,
        max_steps=4,
        logging_steps=2,
        save_strategy="no",
        per_device_train_batch_size=2,
        use_cpu=True,
        bf16=False,
        report_to=[],
        disable_tqdm=True,
    )
    found = []
    for watch in (False, True):
        watched = SFTTrainer(
            make(),
            arguments,
            train_dataset=Dataset.from_dict({"text": TAUGHT}),
            processing_class=tokenizer,
        )
        if watch:
            monitor = nt.DriftMonitor(tokenizer, TEXTS, every=2).attach(watched)
        watched.train()
        own = [row for row in watched.state.log_history if "mean_token_accuracy" in row]
        found.append((weights(watched.model), [row["mean_token_accuracy"] for row in own]))
    assert same(found[0][0], found[1][0])
    assert found[0][1] == found[1][1]
    assert values(monitor, "kl", "colours")[4] > 0
