"""Who is compared: narrowtune's stage and other people's trainers, each as a list's entry.

All are given the same weights, batches, order, dtype, optimiser (AdamW, fused), rate and clipping;
everything else is their own default unless their name says otherwise. A new variant of narrowtune
is one more function and one more entry.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import peft
import torch
import trl
from datasets import Dataset
from torch import Tensor, nn
from transformers import (
    AutoTokenizer,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)
from trl.trainer import utils as trl_utils

from benchmarks.scenes import Lesson
from benchmarks.turns import OnStep
from narrowtune.anatomy import Anatomy
from narrowtune.data.encoding import Encoded
from narrowtune.data.feature_store import GIB, FeatureStore
from narrowtune.engine import Engine
from narrowtune.models.feature_trial import try_features
from narrowtune.models.features import Feed, encoder_of
from narrowtune.models.lora import Adapters, Rank, adaptable
from narrowtune.models.packed import attending_by_segments
from narrowtune.models.skeleton import BUNDLED
from narrowtune.models.supervised import output_head
from narrowtune.runner.features import Eyes, batch_with, fed_by
from narrowtune.runner.sparing import spared
from narrowtune.training import Hooks, run_stage
from narrowtune.training.loop import MicroBatch
from narrowtune.training.packing import Packing
from narrowtune.training.padding_free import PaddingFree
from narrowtune.training.stage import Collate

LORA = Rank(rank=16, alpha=32.0)

Rows = Sequence[Encoded]
Train = Callable[[nn.Module, Lesson, OnStep], None]


@dataclass(frozen=True)
class Contestant:
    """One way to train.

    Attributes:
        name: As it is printed.
        train: Teaches a model a lesson and tells of every step.
        adapters: Whether it trains LoRA; its losses are then compared with such others', and with
            everybody's at the first step, where adapters do nothing yet.
    """

    name: str
    train: Train
    adapters: bool = False


# -- narrowtune --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ours:
    """A stage as `narrowtune run` teaches it: the same loop, under the same conditions.

    Attributes:
        shared: With `share_images`: questions on one image are branches of one sequence.
        kept: Epochs after the first one, where each sample's images are encoded alone and then
            found; the untimed first step fills the store. Of texts nothing changes.
        checkpointed: With `activation_checkpointing`.
    """

    shared: bool = False
    kept: bool = False
    checkpointed: bool = False

    def __call__(self, model: nn.Module, lesson: Lesson, on_step: OnStep) -> None:
        """Teach the arm's parameters."""
        named = Anatomy.of(model).select([lesson.arm]).apply(model)
        with fed_by(lesson.processing, _feed(model, lesson) if self.kept else None):
            _stage((model, named), lesson, on_step, self)


def _feed(model: nn.Module, lesson: Lesson) -> Feed | None:
    """What answers for the model's encoder; None where the lesson has no images."""
    few, encoder, processing = lesson.rows[:2], encoder_of(model), lesson.processing
    groups = [row.example.images for row in few]
    if encoder is None or not any(groups):
        return None
    eyes = Eyes(processing)
    layout = try_features(model, groups, partial(batch_with, few, processing), eyes)
    return Feed(encoder, layout, eyes, FeatureStore(GIB, None), "drawn", alone=True)


def narrowtune_lora(model: nn.Module, lesson: Lesson, on_step: OnStep) -> None:
    """The same stage with adapters on the arm's matrices, as method `lora` puts them on."""
    names = _adapted(model, lesson)
    _stage((model, Adapters(model, names, LORA, seed=0).named), lesson, on_step, Ours())


def _stage(
    learner: tuple[nn.Module, Sequence[tuple[str, nn.Parameter]]],
    lesson: Lesson,
    on_step: OnStep,
    way: Ours,
) -> None:
    model, named = learner
    hooks = Hooks(Path("none"), math.inf, lambda result: on_step(result.loss))
    model.train()
    anatomy, processing = Anatomy.of(model), lesson.processing
    towers = _towers(anatomy, named)
    less = spared(model, anatomy, towers, checkpointing=way.checkpointed)
    with attending_by_segments(model), less:
        if way.shared:
            make: Collate = Packing(model, processing)
        else:
            make = PaddingFree(model, processing, lesson.rows, print)
        # Prepared once, as all batches here are.
        made = [(batch.rows, make(batch.rows)) for batch in lesson.batches]
        processing.feed = None
        data = (lesson.rows, partial(_made, made))
        run_stage(model, named, data, lesson.settings, Engine("cpu"), hooks)


def _made(made: Sequence[tuple[Rows, MicroBatch]], rows: Sequence[Encoded]) -> MicroBatch:
    return next(batch for own, batch in made if list(map(id, own)) == list(map(id, rows)))


def _towers(anatomy: Anatomy, named: Sequence[tuple[str, nn.Parameter]]) -> set[str]:
    trained = {name for name, _ in named}
    return {tensor.tower for tensor in anatomy.parameters if tensor.name in trained}


# -- other people's trainers -------------------------------------------------------------------


class _StepsTold:
    """Keeps each step's loss for the callback below."""

    last_loss: Tensor

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        self.last_loss = super().training_step(*args, **kwargs)  # type: ignore[misc]
        return self.last_loss


class _HF(_StepsTold, Trainer):
    """`transformers.Trainer`."""


class _TRL(_StepsTold, trl.SFTTrainer):
    """`trl.SFTTrainer`."""


class _Tell(TrainerCallback):
    def __init__(self, on_step: OnStep) -> None:
        self._on_step = on_step
        self.trainer: Any = None

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        self._on_step(float(self.trainer.last_loss))


def hf_trainer(model: nn.Module, lesson: Lesson, on_step: OnStep) -> None:
    """Logits at every position, as the model's own loss computes them."""
    Anatomy.of(model).select([lesson.arm]).apply(model)
    _train(partial(_HF, model), TrainingArguments, lesson, on_step)


def trl_default(model: nn.Module, lesson: Lesson, on_step: OnStep, **options: Any) -> None:
    """TRL's defaults; on a CPU its head scores every position."""
    Anatomy.of(model).select([lesson.arm]).apply(model)
    _train_by_trl(model, lesson, on_step, **options)


def trl_supervised(model: nn.Module, lesson: Lesson, on_step: OnStep, **options: Any) -> None:
    """TRL's defaults with the head at supervised positions, as on a GPU."""
    with _head_as_on_gpu():
        trl_default(model, lesson, on_step, **options)


def trl_lora(model: nn.Module, lesson: Lesson, on_step: OnStep) -> None:
    """PEFT's LoRA under the best-configured TRL; the adapters start as narrowtune's do."""
    modules = [name.removesuffix(".weight") for name in _adapted(model, lesson)]
    config = peft.LoraConfig(r=LORA.rank, lora_alpha=LORA.alpha, target_modules=modules)
    torch.manual_seed(0)
    with _head_as_on_gpu():
        adapted: Any = peft.get_peft_model(model, config)
        _train_by_trl(adapted, lesson, on_step, gradient_checkpointing=False)


def _adapted(model: nn.Module, lesson: Lesson) -> list[str]:
    """The arm's matrices that LoRA can stand beside, but the head: TRL refuses that."""
    named, head = Anatomy.of(model).select([lesson.arm]).apply(model), output_head(model).weight
    return adaptable(model, [name for name, one in named if one is not head])


_AS_ON_GPU = ContextVar("_AS_ON_GPU", default=False)  # each contestant's thread has its own
_has_triton = trl_utils._use_triton


def _use_triton(device: torch.device) -> bool:
    """TRL takes supervised positions alone where there is Triton, for shapes' sake not elsewhere.

    The arithmetic stays PyTorch's: TRL's kernels ask another module.
    """
    return _AS_ON_GPU.get() or bool(_has_triton(device))


trl_utils._use_triton = _use_triton


@contextmanager
def _head_as_on_gpu() -> Iterator[None]:
    before = _AS_ON_GPU.set(True)
    yield
    _AS_ON_GPU.reset(before)


def _train_by_trl(model: nn.Module, lesson: Lesson, on_step: OnStep, **options: Any) -> None:
    tokenizer = AutoTokenizer.from_pretrained(BUNDLED["pico-qwen"])  # asked for, never used
    own = {"dataset_kwargs": {"skip_prepare_dataset": True}, "max_length": None, **options}
    trainer = partial(_TRL, model, processing_class=tokenizer)
    _train(trainer, trl.SFTConfig, lesson, on_step, **own)


def _train(
    trainer: Callable[..., Any], arguments: Any, lesson: Lesson, on_step: OnStep, **options: Any
) -> None:
    settings, tell = lesson.settings, _Tell(on_step)
    with tempfile.TemporaryDirectory() as folder:
        tell.trainer = trainer(
            args=arguments(
                folder,
                max_steps=settings.steps,
                per_device_train_batch_size=1,  # the data are numbers of batches
                learning_rate=settings.learning_rate,
                lr_scheduler_type=settings.schedule,
                weight_decay=settings.weight_decay,
                max_grad_norm=settings.max_grad_norm,
                optim="adamw_torch_fused",
                train_sampling_strategy="sequential",
                remove_unused_columns=False,
                use_cpu=True,
                bf16=False,
                save_strategy="no",
                logging_strategy="no",
                report_to=[],
                disable_tqdm=True,
                **options,
            ),
            train_dataset=Dataset.from_dict({"number": list(range(settings.steps))}),
            data_collator=partial(_inputs, lesson),
            callbacks=[tell],
        )
        tell.trainer.remove_callback(PrinterCallback)
        tell.trainer.train()


def _inputs(lesson: Lesson, numbers: Sequence[Mapping[str, int]]) -> dict[str, Tensor]:
    """A step's batch as trainers take it: labels of -100 where nothing is learned."""
    (number,) = numbers
    batch = lesson.batches[number["number"]]
    labels = batch.inputs["input_ids"].masked_fill(~batch.supervised, -100)
    return {**batch.inputs, "labels": labels}


CONTESTANTS = (
    Contestant("narrowtune", Ours()),
    Contestant("narrowtune, images shared", Ours(shared=True)),
    Contestant("narrowtune, features kept", Ours(kept=True)),
    Contestant("narrowtune, shared and kept", Ours(shared=True, kept=True)),
    Contestant("narrowtune, checkpointing", Ours(checkpointed=True)),
    Contestant("narrowtune, all of these", Ours(shared=True, kept=True, checkpointed=True)),
    Contestant("TRL default, CPU", trl_default),
    Contestant("TRL default, head as on GPU", trl_supervised),
    Contestant("TRL best", partial(trl_supervised, gradient_checkpointing=False)),
    Contestant("HF Trainer", hf_trainer),
    Contestant("narrowtune LoRA", narrowtune_lora, adapters=True),
    Contestant("PEFT LoRA, TRL best", trl_lora, adapters=True),
)
OURS = CONTESTANTS[0]
