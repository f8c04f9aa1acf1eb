"""The collator gives any trainer plain labels whose loss is that of the separate samples."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

sys.path += [str(Path(__file__).parents[1] / room) for room in ("data", "evaluation")]
from tiny_processors import CHATML, TEXT, make_tokenizer
from wide_models import with_wide_weights

from narrowtune import pico
from narrowtune.data import read_examples
from narrowtune.data.batching import collate
from narrowtune.data.encoding import Encoded, encode_all
from narrowtune.errors import InputError
from narrowtune.models.loading import load_model
from narrowtune.models.packed import attending_by_segments
from narrowtune.models.processing import Processing, load_processing
from narrowtune.training.collator import PackingCollator, together
from narrowtune.training.loop import answer_loss


@pytest.fixture
def llama() -> tuple[Any, Processing]:
    config = LlamaConfig(**TEXT)
    processing = Processing("tiny-llama", make_tokenizer(CHATML), None, config)
    return with_wide_weights(LlamaForCausalLM(config)), processing


@pytest.fixture
def seen(tmp_path: Path) -> tuple[Any, Processing, list[Encoded]]:
    """A model, and three samples on each of two images."""
    processing = load_processing("pico-qwen")
    pico.write(tmp_path, "counting", "train", 2)
    first, second = read_examples(tmp_path / "counting" / "train.jsonl")
    pair = [encode_all([one], processing)[0] for one in (first, second)]
    model = load_model("pico-qwen", device="cpu", dtype="float32")
    return model, processing, [pair[0], pair[1]] * 3


def mean_loss(model: Any, processing: Any, samples: list[Encoded]) -> float:
    with torch.no_grad():
        losses = [
            answer_loss(model, collate([one], processing, padding_side="right")) for one in samples
        ]
    return float(sum(losses)) / sum(one.supervised_tokens for one in samples)


def rows_of_text(processing: Processing) -> list[dict[str, Any]]:
    words = [
        "What is shown here? yes",
        "What is shown here? no",
        "What is shown? a red circle",
        "3",
    ]
    return [{"input_ids": processing.tokenizer(text)["input_ids"]} for text in words]


def test_the_models_own_loss_is_that_of_the_separate_samples(seen: Any) -> None:
    model, processing, samples = seen
    lists = together(samples, processing.image_token_id)
    assert [len(whole) for whole in lists] == [3, 3]
    batch = PackingCollator(model, processing)(lists)
    assert batch["image_grid_thw"].shape[0] == 2
    with torch.no_grad():
        loss = model(**batch).loss
        assert float(loss) == pytest.approx(mean_loss(model, processing, samples), rel=1e-5)
    # As trainers count them: at position 0 nothing is a target.
    counted = int(batch["labels"][:, 1:].ne(-100).sum())
    assert counted == sum(one.supervised_tokens for one in samples)


def test_by_segments_a_batch_is_one_sequence_with_a_table_for_its_mask(seen: Any) -> None:
    model, processing, samples = seen
    collator = PackingCollator(model, processing)
    assert collator(samples)["attention_mask"].dtype == torch.bool
    with attending_by_segments(model), torch.no_grad():
        batch = collator(samples)
        assert batch["attention_mask"].dtype == torch.int8
        assert len(batch["input_ids"]) == 1 and batch["image_grid_thw"].shape[0] == 2
        loss = model(**batch).loss
    assert float(loss) == pytest.approx(mean_loss(model, processing, samples), rel=1e-5)


def test_long_lists_are_cut(seen: Any) -> None:
    _, processing, samples = seen
    lists = together(samples, processing.image_token_id, most=2)
    assert [len(whole) for whole in lists] == [2, 1, 2, 1]


def test_rows_of_tokens_with_and_without_marks(llama: Any) -> None:
    model, processing = llama
    collator = PackingCollator(model, processing)
    rows = rows_of_text(processing)
    batch = collator(rows)
    with torch.no_grad():
        found = float(model(**batch).loss)
        said = [model(input_ids=torch.tensor([row["input_ids"]])).logits[0].float() for row in rows]
    losses = [
        torch.nn.functional.cross_entropy(
            logits[:-1], torch.tensor(row["input_ids"][1:]).long(), reduction="sum"
        )
        for logits, row in zip(said, rows, strict=True)
    ]
    tokens = sum(len(row["input_ids"]) - 1 for row in rows)
    assert found == pytest.approx(float(sum(losses)) / tokens, rel=1e-5)
    marked = [{**rows[0], "labels": [-100] * (len(rows[0]["input_ids"]) - 1) + [5]}]
    with pytest.raises(InputError, match="labels are other tokens"):
        collator(marked)
    last = [{**row, "completion_mask": [0] * (len(row["input_ids"]) - 1) + [1]} for row in rows]
    assert int(collator(last)["labels"].ne(-100).sum()) == 3  # of one token alone none is predicted


def test_rows_of_tokens_with_images(seen: Any) -> None:
    model, processing, samples = seen
    rows = [
        {
            "input_ids": list(one.input_ids),
            "labels": [
                token if taught else -100
                for token, taught in zip(one.input_ids, one.supervised, strict=True)
            ],
            "images": [str(path) for path in one.example.images],
        }
        for one in samples
    ]
    collator = PackingCollator(model, processing)
    theirs, ours = collator(rows), collator(samples)
    assert all(torch.equal(theirs[name], ours[name]) for name in ours)


@pytest.mark.parametrize(
    ("item", "why"),
    [
        ("words", "got a str"),
        ({"text": "words"}, "this one has text"),
        ({"input_ids": [5, 6], "pixel_values": []}, "this one has input_ids, pixel_values"),
        ({"input_ids": [5, 6], "labels": [6]}, "differ in length"),
    ],
)
def test_what_is_no_sample_is_refused(item: Any, why: str, llama: Any) -> None:
    with pytest.raises(InputError, match=why):
        PackingCollator(*llama)([item])


@pytest.mark.parametrize("attending", [nullcontext, attending_by_segments])
def test_transformers_trainer_takes_the_same_steps_as_by_hand(
    attending: Any, seen: Any, tmp_path: Path
) -> None:
    model, processing, samples = seen
    before = mean_loss(model, processing, samples)
    arguments = TrainingArguments(
        str(tmp_path / "out"),
        per_device_train_batch_size=2,
        max_steps=1,
        logging_steps=1,
        use_cpu=True,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
    )
    lists = together(samples, processing.image_token_id)
    trainer = Trainer(
        model, arguments, train_dataset=lists, data_collator=PackingCollator(model, processing)
    )
    with attending(model):
        trainer.train()
    logged = next(row["loss"] for row in trainer.state.log_history if "loss" in row)
    assert logged == pytest.approx(before, rel=1e-3)  # logged to four digits
    assert mean_loss(model.eval(), processing, samples) < before


@pytest.mark.parametrize("attending", [nullcontext, attending_by_segments])
def test_trl_trains_with_it_and_its_adapters(attending: Any, llama: Any, tmp_path: Path) -> None:
    from datasets import Dataset
    from peft import LoraConfig, get_peft_model
    from trl import SFTConfig, SFTTrainer

    model, processing = llama
    expected = PackingCollator(model, processing)(rows_of_text(processing))
    with torch.no_grad():
        before = float(model(**expected).loss)
    adapted = get_peft_model(model, LoraConfig(target_modules=["q_proj"], r=2))
    trainer = SFTTrainer(
        adapted,
        SFTConfig(
            str(tmp_path),
            per_device_train_batch_size=4,
            max_steps=1,
            logging_steps=1,
            use_cpu=True,
            bf16=False,
            report_to=[],
            save_strategy="no",
            disable_tqdm=True,
        ),
        train_dataset=Dataset.from_list(rows_of_text(processing)),
        processing_class=processing.tokenizer,
        data_collator=PackingCollator(adapted, processing),
    )
    with attending(adapted):
        trainer.train()
    logged = next(row["loss"] for row in trainer.state.log_history if "loss" in row)
    assert logged == pytest.approx(before, rel=1e-3)
