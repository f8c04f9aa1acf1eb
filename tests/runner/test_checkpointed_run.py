"""`activation_checkpointing` in real runs: the same record, the same deltas, resumed or not."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from pico_tasks import small
from safetensors.torch import load_file
from torch import nn

from narrowtune import pico
from narrowtune.data.batching import collate
from narrowtune.engine.rehearsal import Rehearsal
from narrowtune.errors import InputError
from narrowtune.experiment import parse_experiment
from narrowtune.experiment.loading import read_yaml
from narrowtune.experiment.schema import TrainingOverrides
from narrowtune.models import activation_checkpointing, segments
from narrowtune.models.activation_checkpointing import checkpointed
from narrowtune.models.loading import load_model
from narrowtune.record import Record
from narrowtune.runner import Observer, Options, Plan, plan, run
from narrowtune.runner.cost import Choice, Costs
from narrowtune.runner.fitting import ways_to_fit
from narrowtune.runner.folder import delta_path
from narrowtune.runner.rehearsing import rehearse
from narrowtune.runner.sparing import spared
from narrowtune.training import Interrupted, StepResult
from narrowtune.training.loop import answer_loss

QUIET = Options(device="cpu", save_models=False)
ARMS: dict[str, dict[str, object]] = {
    "gate-up": {"recipe": "gate-up"},
    "slices": {"train": ["language.mlp.gate[1:3]"]},
    "vision": {"recipe": "vision"},
    "lora": {"recipe": "gate-up", "method": {"lora": {"rank": 4, "dropout": 0.2}}},
    "lwf": {"recipe": "gate-up", "method": {"lwf": {}, "l2-sp": {"weight": 0.1}}},
    "moe": {"recipe": "gate-up", "method": {"moe": {"top_k": 1}}},
}
ON = {"activation_checkpointing": True}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpointed")
    for task in ("counting", "clock"):
        pico.write(folder / "data", task, "train", 16)
    pico.write(folder / "data", "charts", "test", 4)
    return folder


def planned(
    home: Path,
    arm: dict[str, object],
    dtype: str = "float32",
    stages: object = None,
    **training: object,
) -> Plan:
    given: dict[str, object] = {
        "model": {"id": "pico-qwen", "dtype": dtype},
        "stages": stages
        or [{"name": name, "train": f"data/{name}/train.jsonl"} for name in ("counting", "clock")],
        "arms": [{"name": "arm", **arm}],
        "training": {"batch_size": 8, "micro_batch_size": 4, "learning_rate": 1e-3} | training,
        "evaluate": [],
    }
    return plan(parse_experiment(small(("charts",), **given)), home)


def deltas(folder: Path) -> list[dict[str, torch.Tensor]]:
    return [load_file(delta_path(folder, "arm", name)) for name in ("counting", "clock")]


def assert_same(one: tuple[Record, Path], other: tuple[Record, Path]) -> None:
    (first, there), (second, here) = one, other
    assert first.losses == second.losses and first.losses
    for before, after in zip(deltas(there), deltas(here), strict=True):
        assert before.keys() == after.keys()
        assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.fixture
def chosen(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many layers were checkpointed, stage by stage."""
    found: list[int] = []

    def watched(layers: Sequence[nn.Module]) -> object:
        found.append(len(layers))
        return checkpointed(layers)

    monkeypatch.setattr("narrowtune.runner.sparing.checkpointed", watched)
    return found


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("arm", ARMS)
def test_no_bit_changes(
    home: Path, tmp_path: Path, chosen: list[int], arm: str, dtype: str
) -> None:
    if arm == "lora":
        pytest.importorskip("peft")
    plain = run(planned(home, ARMS[arm], dtype), tmp_path / "plain", options=QUIET)
    again = run(planned(home, ARMS[arm], dtype, **ON), tmp_path / "again", options=QUIET)
    assert_same((plain, tmp_path / "plain"), (again, tmp_path / "again"))
    assert chosen == [0, 0, *[7 if arm == "vision" else 3] * 2]
    assert all(row.held for row in again.ledger)


def test_with_shared_images_too(home: Path, tmp_path: Path, chosen: list[int]) -> None:
    arm, share = ARMS["gate-up"], {"share_images": True, "batch_size": 16}
    plain = run(planned(home, arm, **share), tmp_path / "plain", options=QUIET)
    again = run(planned(home, arm, **share, **ON), tmp_path / "again", options=QUIET)
    assert_same((plain, tmp_path / "plain"), (again, tmp_path / "again"))
    assert chosen == [0, 0, 3, 3]


def test_with_batches_without_padding_too(
    home: Path, tmp_path: Path, chosen: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Attention by segments runs again with the table that the batch came with."""
    lines = [
        {"messages": [{"role": "user", "content": " ".join(["how many"] * words)},
                      {"role": "assistant", "content": "three"}]}
        for words in (2, 60, 3, 50, 2, 40, 3, 2)
    ]  # fmt: skip
    (home / "data/mixed.jsonl").write_text("\n".join(map(json.dumps, lines)))
    stages = [{"name": name, "train": "data/mixed.jsonl"} for name in ("counting", "clock")]
    ran: list[bool] = []

    def watched(*given: object) -> object:
        ran.append(True)
        return segments_plan(*given)

    segments_plan = segments._plan
    monkeypatch.setattr(segments, "_plan", watched)
    found = []
    for name, more in (("plain", {}), ("again", ON)):
        made = planned(home, ARMS["gate-up"], stages=stages, **more)
        found.append((run(made, tmp_path / name, options=QUIET), tmp_path / name))
    assert_same(*found)
    assert ran and chosen == [0, 0, 3, 3]


class Stopper(Observer):
    """Breaks off after a step."""

    def step(self, result: StepResult, samples_per_second: float) -> None:
        if result.step == 1:
            raise KeyboardInterrupt


def test_it_resumes_to_the_same_bits(home: Path, tmp_path: Path) -> None:
    pytest.importorskip("peft")
    resolved = planned(home, ARMS["lora"], **ON)
    whole = run(resolved, tmp_path / "whole", options=QUIET)
    with pytest.raises(Interrupted):
        run(resolved, tmp_path / "cut", options=QUIET, observer=Stopper())
    rest = run(resolved, tmp_path / "cut", resume=True, options=QUIET)
    assert_same((whole, tmp_path / "whole"), (rest, tmp_path / "cut"))


def test_a_stage_or_an_arm_may_ask_for_itself(
    home: Path, tmp_path: Path, chosen: list[int]
) -> None:
    resolved = planned(home, {"recipe": "gate-up", "training": ON})
    assert all(resolved.settings(resolved.arms[0], stage).activation_checkpointing
               for stage in resolved.stages)  # fmt: skip
    run(resolved, tmp_path / "run", options=QUIET)
    assert chosen == [3, 3]


def test_a_model_that_cannot_is_refused_when_planned(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Other(nn.Module):
        """What layers derive from in no class."""

    monkeypatch.setattr(activation_checkpointing, "GradientCheckpointingLayer", Other)
    planned(home, ARMS["gate-up"])
    with pytest.raises(InputError, match=r"leave training\.activation_checkpointing out"):
        planned(home, ARMS["gate-up"], **ON)


def held_for_real(made: Plan) -> int:
    """Bytes at the peak of a real forward and backward, all weights counted."""
    arm, stage = made.arms[0], made.stages[0]
    batch = collate(stage.rows[:8], made.processing, padding_side="right")
    model: nn.Module = load_model(made.model, device="cpu", dtype="float32").train()
    arm.selection.apply(model)
    memory = Rehearsal()
    memory.hold([*model.parameters(), *model.buffers(), *batch.inputs.values()], "weights")
    with (
        memory.watch(),
        spared(model, made.anatomy, arm.towers, checkpointing=True),
    ):
        torch.autograd.backward(answer_loss(model, batch))
    return sum(memory.at_peak().values())


@pytest.mark.parametrize("arm", ["gate-up", "vision"])
def test_a_rehearsal_recomputes_as_a_real_step_does(home: Path, arm: str) -> None:
    made = planned(home, ARMS[arm], micro_batch_size=8, **ON)
    settings = made.settings(made.arms[0], made.stages[0])
    batch = collate(made.stages[0].rows[:8], made.processing, padding_side="right")
    parts = rehearse(made, made.arms[0], batch, settings, torch.float32).memory.at_peak()
    assert sum(parts.values()) - parts["optimiser"] == pytest.approx(held_for_real(made), rel=0.01)


def test_the_plan_tells_less_memory_and_more_time(home: Path) -> None:
    plain, again = (planned(home, ARMS["gate-up"], **more) for more in ({}, ON))
    before, after = (Costs(one, "h100-80g") for one in (plain, again))
    one, other = (costs.of(costs.plan.arms[0]) for costs in (before, after))
    assert other.parts["activations"] < 0.7 * one.parts["activations"]
    assert one.seconds is not None and other.seconds is not None and other.seconds > one.seconds
    asked = before.of(before.plan.arms[0], Choice(torch.float32, activation_checkpointing=True))
    assert asked == other


def test_a_stage_of_its_own_kind_is_told_apart(home: Path) -> None:
    """The heaviest micro-batch may be checkpointed, and the peak at another stage."""
    made = planned(home, ARMS["gate-up"])
    first, second = made.experiment.stages
    part = made.experiment.model_copy(
        update={"stages": (first.model_copy(update={"training": first.training.model_copy(
            update=ON)}), second)}
    )  # fmt: skip
    mixed = plan(part, home)
    costs, plain = Costs(mixed, "h100-80g"), Costs(made, "h100-80g")
    again = Costs(planned(home, ARMS["gate-up"], **ON), "h100-80g")
    least, most = (one.of(one.plan.arms[0]).peak for one in (again, plain))
    assert least < costs.of(mixed.arms[0]).peak <= most


def test_it_is_named_first_where_an_arm_does_not_fit(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = planned(home, ARMS["gate-up"], micro_batch_size=8)
    costs, arm = Costs(made, "t4-16g"), made.arms[0]
    small_device = replace(costs.device(), memory=costs.of(arm).peak - 1)
    monkeypatch.setattr(costs, "_named", small_device)
    ways = ways_to_fit(costs, arm)
    assert ways[0].words == "training.activation_checkpointing: true" and ways[0].fits
    again = planned(home, ARMS["gate-up"], micro_batch_size=8, **ON)
    costs = Costs(again, "t4-16g")
    tiny = replace(costs.device(), memory=1)
    monkeypatch.setattr(costs, "_named", tiny)
    told = [way.words for way in ways_to_fit(costs, again.arms[0])]
    assert not any("activation_checkpointing" in words for words in told)


def test_the_page_on_memory_names_keys_that_exist() -> None:
    page = (Path(__file__).parents[2] / "docs" / "memory.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```yaml\n(.*?)```", page, flags=re.DOTALL)
    found = [read_yaml(block, "docs/memory.md") for block in blocks]
    (asked,) = [one["training"] for one in found if "training" in one]
    keys = {key for key in re.findall(r"`training\.(\w+)", page)}
    assert keys <= set(TrainingOverrides.model_fields)
    assert set(asked) == keys - {"optim"}  # 8 bits and another memory exclude each other
    told = TrainingOverrides.model_validate(asked)
    assert told.activation_checkpointing and told.offload_optimizer
