"""A callback of transformers' Trainer, and so of TRL's, that watches the output distribution."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn
from transformers import TrainerCallback

from narrowtune.data import Example
from narrowtune.engine import told_by_any
from narrowtune.errors import InputError, NarrowTuneWarning
from narrowtune.monitor.asking import (
    Texts,
    check_vocabulary,
    check_words,
    prepare,
    prepare_texts,
    processing_of,
)
from narrowtune.monitor.base import base_of
from narrowtune.probes.looking import Interval, is_due, leaving_no_trace
from narrowtune.probes.readings import Reading
from narrowtune.probes.watching import Watch

LOGGED = {("kl", "all"), ("top1", "all"), ("mass", "first"), ("number_bias", "all")}
"""What a trainer's log is told of each task, beside the drift; `readings` holds all."""

FILE = "drift.jsonl"


@dataclass(eq=False)
class DriftMonitor(TrainerCallback):  # type: ignore[misc]
    """Reads drift probes while a trainer trains, and may end training when a budget is spent.

    The base is the model as it is when training begins, or with its adapters switched off. It is
    read once, before the first step; then the model is looked at after every so many steps, in
    evaluation mode. Weights, gradients, random states and modes stay as the trainer had them.

    Attributes:
        model: The model's name or folder, or its tokenizer or processor.
        texts: Held-out tasks by name: a data file each, or its rows.
        probes: Of `kl`, `answer_bias`, `number_bias`.
        every: Look after so many steps, or `log`: after 1, 10, 100 and so on; always at the last.
        rows: How many of each task's rows are read.
        budget: Nats per answer token that the drift, the mean over tasks of `measure`, may reach.
        measure: `kl` or `reverse_kl`.
        action: What happens beyond the budget: `report` warns, `stop` ends training too.
        restore: Whether `stop` puts back the weights of the last look within the budget, of which
            a copy is then kept on the CPU.
        base: The base where the trainer's model is not: its name or folder, or a module.
        taught: Training data by skill, whose answers make classes of their own for `answer_bias`.
        max_new_tokens: The longest caption of `number_bias`.
        write: Whether the readings go to `drift.jsonl` in the trainer's output folder.
        readings: Rows read in this training, each with its `step`.
        broken_at: The step at which the drift was first found beyond the budget.
    """

    model: Any
    texts: Mapping[str, Texts]
    probes: Sequence[str] = ("kl", "answer_bias")
    every: Interval = 20
    rows: int = 4
    budget: float | None = None
    measure: str = "kl"
    action: str = "report"
    restore: bool = False
    base: str | nn.Module | None = None
    taught: Mapping[str, Texts] = field(default_factory=dict)
    max_new_tokens: int = 64
    write: bool = False
    readings: list[dict[str, Any]] = field(default_factory=list, init=False, repr=False)
    broken_at: int | None = field(default=None, init=False)
    _examples: tuple[dict[str, list[Example]], dict[str, list[Example]]] = field(init=False)
    _watch: Watch | None = field(default=None, init=False, repr=False)
    _trainer: Any = field(default=None, init=False, repr=False)
    _good: tuple[int, dict[str, Tensor]] | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        """Check everything that needs no model; where it is named, its context length too."""
        check_words(self.probes, self.every, self.measure, self.action, self.budget)
        self._examples = prepare_texts(self.texts, self.taught, self.rows)
        if isinstance(self.model, str | Path):
            self._prepare(None)

    def attach(self, trainer: Any) -> DriftMonitor:
        """Watch this trainer, and let the trackers of its `report_to` have the readings too.

        A callback given as `Trainer(callbacks=[monitor])` reaches only the trainer's own log.
        """
        self._trainer = trainer
        if self not in trainer.callback_handler.callbacks:
            trainer.add_callback(self)
        return self

    def on_train_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Read the base, and the model as training begins or goes on.

        Raises:
            InputError: The texts don't fit the model, or its base cannot be read.
        """
        model = given["model"]
        if self.restore and (args.fsdp or args.deepspeed):
            raise InputError("restore copies whole weights; FSDP and DeepSpeed share them out")
        watch = self._watch or self._prepare(model)
        check_vocabulary(model, watch.probing)
        self.readings, self.broken_at, self._good = [], None, None
        started, precision = state.global_step > 0, _in_precision(args, model)
        with leaving_no_trace(model), precision, base_of(model, self.base, started) as base:
            watch.remember(base)
        if self.write and state.is_world_process_zero:
            _keep_before(Path(args.output_dir) / FILE, state.global_step)
        self._look(watch, args, state, control, model)

    def on_step_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Look if it is time."""
        last = control.should_training_stop or state.global_step >= state.max_steps
        if self._watch is not None and is_due(state.global_step, self.every, last):
            self._look(self._watch, args, state, control, given["model"])

    def _prepare(self, model: Any) -> Watch:
        texts, taught = self._examples
        processing = processing_of(self.model, model)
        probing = prepare(self.probes, texts, taught, self.max_new_tokens, processing)
        self._watch = Watch(probing)
        return self._watch

    def _look(self, watch: Watch, args: Any, state: Any, control: Any, model: Any) -> None:
        found, step = watch.look(model), state.global_step
        rows = [{"step": step} | reading.to_dict() for reading in found]
        self.readings += rows
        drift = self._drift(found)
        self._log(_logs(found, drift), args, state, control)
        if self.write and state.is_world_process_zero:
            with (Path(args.output_dir) / FILE).open("a", encoding="utf-8") as file:
                file.writelines(json.dumps(row) + "\n" for row in rows)
        if self.budget is not None:
            # A drift that cannot be read is not within. All processes must go the same way.
            beyond = drift is None or not drift <= self.budget
            self._judge(told_by_any(beyond, args.device), drift, state, control, model)

    def _drift(self, found: Sequence[Reading]) -> float | None:
        """The mean over tasks, over all answer tokens; None where a task could not be read."""
        values = [
            one.value
            for one in found
            if (one.probe, one.at) == (self.measure, "all") or (one.probe == "kl" and one.reason)
        ]
        read = [value for value in values if value is not None]
        return fmean(read) if read and len(read) == len(values) else None

    def _log(self, logs: dict[str, float], args: Any, state: Any, control: Any) -> None:
        """Into the trainer's log, and to its trackers as `Trainer.log` would tell them.

        Not by `Trainer.log` itself: TRL's averages and forgets its own numbers there.
        """
        if state.epoch is not None:
            logs["epoch"] = state.epoch
        state.log_history.append({**logs, "step": state.global_step})
        if self._trainer is not None:
            asked = control.should_log
            self._trainer.callback_handler.on_log(args, state, control, logs)
            control.should_log = asked  # which the handler takes for done

    def _judge(
        self, beyond: bool, drift: float | None, state: Any, control: Any, model: nn.Module
    ) -> None:
        if not beyond:
            if self.restore and self.action == "stop":
                self._good = (state.global_step, _copied(model))
            return
        first = self.broken_at is None
        self.broken_at = state.global_step if first else self.broken_at
        outcome = self._stop(control, model) if self.action == "stop" else "training goes on"
        if state.is_world_process_zero and first:
            size = "cannot be read" if drift is None else f"is {drift:.4g} nats per token"
            warnings.warn(
                f"at step {state.global_step} the drift ({self.measure}) {size}, the budget is "
                f"{self.budget:g}: {outcome}",
                NarrowTuneWarning,
                stacklevel=2,
            )

    def _stop(self, control: Any, model: nn.Module) -> str:
        control.should_training_stop = True
        if not self.restore:
            return "training ends here"
        if self._good is None:
            return "training ends here, with no look within the budget to go back to"
        step, weights = self._good
        _put_back(model, weights)
        return f"training ends here, with the weights of step {step} put back"


def _logs(found: Sequence[Reading], drift: float | None) -> dict[str, float]:
    logs = {} if drift is None else {"drift": drift}
    for one in found:
        if (one.probe, one.at) in LOGGED and one.value is not None:
            part = f"_{one.part}" if one.part else ""
            logs[f"drift_{one.probe}{part}/{one.task}"] = one.value
    return logs


def _in_precision(args: Any, model: nn.Module) -> AbstractContextManager[Any]:
    """The mixed precision that the trainer's model computes in, for a base of its own."""
    if not (args.bf16 or args.fp16):
        return nullcontext()
    device = next(model.parameters()).device.type
    return torch.autocast(device, dtype=torch.bfloat16 if args.bf16 else torch.float16)


def _copied(model: nn.Module) -> dict[str, Tensor]:
    return {
        name: parameter.detach().to("cpu", copy=True)
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }


@torch.no_grad()
def _put_back(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    for name, parameter in model.named_parameters():
        if name in weights:
            parameter.copy_(weights[name])


def _keep_before(path: Path, step: int) -> None:
    """Drop the rows of steps that are taken again, or of another training."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() and step else []
    kept = [line for line in lines if json.loads(line)["step"] < step]
    path.write_text("".join(line + "\n" for line in kept), encoding="utf-8")
