"""Methods as their papers define them: distillation, anchors, Fisher information, replay."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from narrowtune.anatomy import Anatomy
from narrowtune.data.batching import Batch, collate
from narrowtune.data.encoding import Encoded
from narrowtune.data.order import Mix, epoch_order, mixed_order
from narrowtune.delta import changed, fingerprint
from narrowtune.engine import Engine
from narrowtune.models.processing import Processing
from narrowtune.training import (
    AnswerAnchor,
    Distillation,
    Gate,
    Guards,
    Hooks,
    Measured,
    Remembered,
    Settings,
    StopAtBudget,
    TrainedWeights,
    WeightAnchor,
    batch_order,
    fisher_diagonal,
    run_stage,
)
from narrowtune.training.loop import answer_loss

SETTINGS = Settings(steps=4, batch_size=8, micro_batch_size=4, learning_rate=1e-3, seed=5)
Make = Callable[[], nn.Module]
Named = Sequence[tuple[str, nn.Parameter]]


def applied(model: nn.Module, recipe: str = "gate-up") -> Named:
    return Anatomy.of(model).select([recipe]).apply(model)


def moved(model: nn.Module, named: Named) -> None:
    """A model somewhere else."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for _, one in named:
            one += 0.05 * torch.randn(one.shape, generator=generator)


@pytest.fixture
def batch(counting: list[Encoded], processing: Processing) -> Batch:
    return collate(counting[:6], processing, padding_side="right")


def reference_loss(
    student: nn.Module, teacher: nn.Module, batch: Batch, heat: float
) -> torch.Tensor:
    """The textbook: both models whole, all logits, and a mask that leaves the answers."""
    says = student(**batch.inputs, use_cache=False).logits[:, :-1]
    with torch.no_grad():
        said = teacher(**batch.inputs, use_cache=False).logits[:, :-1]
    mask = batch.supervised[:, 1:]
    p, q = (said / heat).softmax(-1), (says / heat).softmax(-1)
    apart = ((p * (p.log() - q.log())).sum(-1) * mask).sum()
    labels = batch.inputs["input_ids"].masked_fill(~batch.supervised, -100)[:, 1:]
    plain = F.cross_entropy(says.flatten(0, 1), labels.flatten(), reduction="sum")
    return plain + 0.5 * heat**2 * apart


@pytest.mark.parametrize("heat", [1.0, 2.0])
def test_distillation_is_that_of_two_models_on_answers_alone(
    pico_model: Make, batch: Batch, heat: float
) -> None:
    """So no gradient comes from a prompt position: the mask of the reference has none."""
    teacher, model = pico_model(), pico_model()
    named = applied(model)
    values = [(one, one.detach().clone()) for _, one in named]
    moved(model, named)
    expected = reference_loss(model, teacher, batch, heat)
    expected.backward()
    gradients = [one.grad.clone() for _, one in named]
    model.zero_grad()
    before = fingerprint(model)
    learned, told = Distillation(values, 0.5, heat)(model, batch)
    learned.backward()
    assert learned.item() == pytest.approx(expected.item(), rel=1e-5)
    assert told.item() == pytest.approx(answer_loss(model, batch).item(), rel=1e-6)
    assert learned.item() > told.item() + 0.1
    for (name, one), gradient in zip(named, gradients, strict=True):
        torch.testing.assert_close(one.grad, gradient, rtol=1e-3, atol=1e-5, msg=name)
    assert not changed(before, fingerprint(model))


def test_a_teacher_that_is_the_student_adds_nothing(pico_model: Make, batch: Batch) -> None:
    model = pico_model()
    values = [(one, one.detach().clone()) for _, one in applied(model)]
    learned, told = Distillation(values, 1.0, 2.0)(model, batch)
    assert learned.item() == pytest.approx(told.item(), abs=1e-4)


def test_what_a_teacher_said_is_asked_for_once(
    pico_model: Make, counting: list[Encoded], processing: Processing
) -> None:
    model = pico_model()
    named = applied(model)
    values = [(one, one.detach().clone()) for _, one in named]
    moved(model, named)
    asked = 0

    class Counting(Distillation):
        def _ask(self, model: nn.Module, batch: Batch) -> torch.Tensor:
            nonlocal asked
            asked += 1
            return super()._ask(model, batch)

    lesson = Counting(values, 1.0, 2.0, Remembered())
    alone = Distillation(values, 1.0, 2.0)
    for rows in (counting[:4], counting[4:8], [counting[5], counting[2]]):
        batch = collate(rows, processing, padding_side="right")
        found, expected = (one(model, batch)[0].item() for one in (lesson, alone))
        assert found == pytest.approx(expected, rel=1e-5)
    assert asked == 2


def taught(
    make: Make,
    rows: list[Encoded],
    processing: Processing,
    hooks: Callable[[nn.Module, Named], Hooks],
) -> nn.Module:
    model = make()
    named = applied(model)
    data = (rows, partial(collate, processing=processing, padding_side="right"))
    run_stage(model, named, data, SETTINGS, Engine("cpu"), hooks(model, named))
    return model


NOWHERE = Path("none.safetensors")


def test_weight_zero_is_plain_training_bit_for_bit(
    pico_model: Make, counting: list[Encoded], processing: Processing
) -> None:
    plain = taught(pico_model, counting, processing, lambda *_: Hooks(NOWHERE, 1e9))

    def idle(model: nn.Module, named: Named) -> Hooks:
        start = {name: one.detach().clone() for name, one in named}
        guards = [WeightAnchor(start, 0.0), AnswerAnchor(lambda *_: 1 / 0, 0.0)]  # type: ignore[arg-type, return-value]
        lesson = Distillation([(one, start[name]) for name, one in named], 0.0, 2.0)
        return Hooks(NOWHERE, 1e9, guard=Guards(guards), objective=lesson)

    other = taught(pico_model, counting, processing, idle)
    assert not changed(fingerprint(plain), fingerprint(other))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_anchor_of_weights_pulls_by_the_distance(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(3, 2, bias=False).to(dtype)
    weights = TrainedWeights([("w", layer.weight)])
    start, fisher = torch.randn(2, 3), torch.rand(2, 3)
    for importance, scale in ((None, torch.ones(2, 3)), ({"w": fisher}, fisher)):
        anchor = WeightAnchor({"w": start}, 0.3, importance)
        anchor.begin(weights)
        pull = anchor.pull(0, layer)
        assert pull is not None
        pull.backward()
        weights.collect()
        (master,) = weights.masters
        far = master.detach() - start
        assert pull.item() == pytest.approx(0.15 * (scale * far.square()).sum().item(), rel=1e-5)
        torch.testing.assert_close(master.grad, 0.3 * scale * far)
        master.grad = None


def test_fisher_information_is_the_mean_squared_gradient(
    pico_model: Make, counting: list[Encoded], processing: Processing
) -> None:
    model = pico_model()
    named = applied(model)
    batches = [collate([row], processing, padding_side="right") for row in counting[:3]]
    found = fisher_diagonal(model, named, [partial(lambda b: b, one) for one in batches])
    for name, one in named[:2]:
        squares = []
        for batch in batches:
            (gradient,) = torch.autograd.grad(answer_loss(model, batch), one)
            squares.append(gradient.square())
        torch.testing.assert_close(found[name], torch.stack(squares).mean(0))
    assert all(one.grad is None for _, one in named)


def test_guards_together_go_on_as_they_were() -> None:
    layer = nn.Linear(2, 2)
    weights = TrainedWeights([("w", layer.weight)])
    gate = Gate(lambda model: Measured(0.0, 1, None, within=True), every=1, steps=9)

    def both() -> tuple[Guards, StopAtBudget]:
        stop = StopAtBudget(gate)
        together = Guards(
            [AnswerAnchor(lambda number, model: torch.tensor(number + 1.0), 2.0), stop]
        )
        together.begin(weights)
        return together, stop

    one, stop = both()
    one.after(1, layer, weights)
    assert one.pull(3, layer) == 8.0
    other, resumed = both()
    other.resume(one.state())
    assert resumed.kept == stop.kept == 1
    assert not other.ended
    resumed.ended = True
    assert other.ended


@given(
    ratio=st.floats(0.01, 0.99),
    size=st.integers(1, 40),
    own=st.integers(1, 60),
    others=st.integers(1, 60),
    steps=st.integers(1, 60),
)
def test_a_replay_ratio_holds_over_any_window(
    ratio: float, size: int, own: int, others: int, steps: int
) -> None:
    settings = replace(SETTINGS, steps=steps, batch_size=size, replay=ratio, replayed=others)
    batches = batch_order([3] * (own + others), settings)
    assert [len(batch) for batch in batches] == [size] * steps
    counts = [sum(index >= own for index in batch) for batch in batches]
    for first in range(steps):
        for last in range(first + 1, steps + 1):
            expected = ratio * size * (last - first)
            assert abs(sum(counts[first:last]) - expected) <= 1 + 1e-9
    drawn = [index for batch in batches for index in batch if index >= own]
    for start in range(0, len(drawn) - others + 1, others):  # everyone once before any again
        assert len(set(drawn[start : start + others])) == others


def test_the_own_samples_keep_their_order_beside_replayed_ones() -> None:
    epochs = [index for batch in epoch_order([1] * 20, 4, 0, 0) for index in batch]
    batches = mixed_order([epochs], range(20, 25), 4, 4, Mix(0.25, 0))
    assert [index for batch in batches for index in batch if index < 20] == epochs[:12]
    assert batches == mixed_order([epochs], range(20, 25), 4, 4, Mix(0.25, 0))


def test_without_replay_the_order_is_as_it_was() -> None:
    assert batch_order([1] * 16, SETTINGS) == [
        *epoch_order([1] * 16, 8, 5, 0),
        *epoch_order([1] * 16, 8, 5, 1),
    ]
