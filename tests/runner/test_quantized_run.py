"""Runs on a quantised base: the same bits again, told everywhere, never mixed with plain ones."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pico_tasks import scored, small

import narrowtune as nt
from narrowtune import pico
from narrowtune.delta import apply_delta, model_digest, read_delta, verify
from narrowtune.errors import InputError
from narrowtune.models.loading import load_model
from narrowtune.models.quantized_linear import dequantize, quantization_of
from narrowtune.record import Record, read_header, read_record
from narrowtune.report import print_terminal, write_html
from narrowtune.runner import Observer, Options, Plan, base
from narrowtune.runner.cost import Choice, Costs
from narrowtune.runner.fitting import ways_to_fit
from narrowtune.runner.folder import delta_path, model_path
from narrowtune.runner.pinning import with_base_pinned
from narrowtune.search.folder import write_recommended
from narrowtune.training import Interrupted, StepResult

pytest.importorskip("bitsandbytes")

QUIET = Options(device="cpu", checkpoint_seconds=0.0)
NF4 = {"id": "pico-qwen", "dtype": "float32", "quantization": "nf4"}
PLAIN = {"id": "pico-qwen", "dtype": "float32"}
ARMS: list[dict[str, Any]] = [
    {"name": "gate-up", "recipe": "gate-up"},
    {"name": "attention", "recipe": "attention", "method": {"lwf": {"weight": 1.0}}},
    {"name": "experts", "recipe": "gate-up", "method": {"moe": {}}},
    {
        "name": "held",
        "recipe": "gate-up",
        "drift": {"budget": 0.01, "action": "interpolate", "limit": 8},
    },
]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("quantized")
    pico.write(folder / "data", "counting", "train", 16)
    for task in ("counting", "existence", "charts"):
        pico.write(folder / "data", task, "test", 4)
    return folder


def planned(home: Path, /, **more: Any) -> Plan:
    given: dict[str, Any] = {
        "model": NF4,
        "stages": [scored("counting") | {"train": "data/counting/train.jsonl"}],
        "arms": ARMS,
        "training": {"batch_size": 8, "learning_rate": 1e-3},
    }
    held_out = more.pop("held_out", ("existence",))
    return nt.plan(nt.parse_experiment(small(held_out, **given | more)), home)


PROBES = ["kl", "layers", {"probe": "number_bias", "limit": 2, "max_new_tokens": 4}]


@pytest.fixture(scope="module")
def whole(home: Path) -> tuple[Record, Path]:
    out = home / "whole"
    made = planned(home, held_out=("existence", "charts"), probes=PROBES)
    return nt.run(made, out, options=QUIET), out


def bits(record: Record, out: Path) -> tuple[Any, ...]:
    """All that a run computed: losses, scores, readings, trained tensors."""
    deltas = {path.parent: read_delta(path) for path in out.rglob("delta.safetensors")}
    return (
        [row.model_dump() for row in record.losses],
        [row.model_dump() for row in record.scores],
        {str(path.relative_to(out)): one.header.content_sha256 for path, one in deltas.items()},
    )


class Stopper(Observer):
    def __init__(self, step: int) -> None:
        self.left = step

    def step(self, result: StepResult, samples_per_second: float) -> None:
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


def test_frozen_is_frozen_and_all_is_told(whole: tuple[Record, Path]) -> None:
    record, out = whole
    assert record.status == "complete"
    assert all(row.held for row in record.ledger)
    row = record.plan["quantization"]
    assert row["type"] == "nf4" and 0 < row["numel"] < row["total_numel"]
    assert f"nf4: {row['numel']:,} of {row['total_numel']:,} numbers" in str(
        record.environment["quantization"]
    )
    assert not model_path(out, "gate-up").exists()  # no class of transformers loads it
    header = read_header(delta_path(out, "gate-up", "counting"))
    assert header.base.quantization is not None
    assert header.base.sha256 == record.environment["weights_sha256"]
    page = write_html(record, out / "report.html").read_text()
    assert "base quantised to nf4" in page
    readings = [one for one in record.readings if one["probe"] == "kl"]
    moved = [one["value"] for one in readings if one["arm"] != "base"]
    assert moved and all(value is not None for value in moved)
    assert all(one["value"] == 0.0 for one in readings if one["arm"] == "base")


def test_the_terminal_tells_it(
    whole: tuple[Record, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    from rich.console import Console

    print_terminal(whole[0], Console(width=100), folder=whole[1])
    assert "base is quantised to nf4" in capsys.readouterr().out


def test_a_run_again_and_a_resumed_one_end_in_the_same_bits(home: Path, tmp_path: Path) -> None:
    made = planned(home, arms=[ARMS[1], ARMS[3]])
    first = nt.run(made, tmp_path / "first", options=QUIET)
    with pytest.raises(Interrupted):
        nt.run(made, tmp_path / "cut", options=QUIET, observer=Stopper(3))
    rest = nt.run(made, tmp_path / "cut", resume=True, options=QUIET)
    again = nt.run(made, tmp_path / "again", options=QUIET)
    wanted = bits(first, tmp_path / "first")
    assert bits(again, tmp_path / "again") == wanted
    assert bits(rest, tmp_path / "cut") == wanted


def test_quantised_and_plain_runs_are_not_mixed(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed, plain = planned(home, arms=ARMS[:1]), planned(home, arms=ARMS[:1], model=PLAIN)
    assert packed.digest != plain.digest
    with pytest.raises(Interrupted):
        nt.run(packed, tmp_path / "out", options=QUIET, observer=Stopper(1))
    with pytest.raises(InputError, match="another experiment"):
        nt.run(plain, tmp_path / "out", resume=True, options=QUIET)
    borrowed: list[object] = []
    monkeypatch.setattr(base, "_borrow", lambda *given: borrowed.append(given))
    lender = replace(QUIET, base_from=tmp_path / "out")
    nt.run(plain, tmp_path / "plain", options=lender)
    assert not borrowed
    nt.run(planned(home, arms=ARMS[1:2]), tmp_path / "other arms", options=lender)
    assert not borrowed  # of other arms other matrices are packed
    nt.run(packed, tmp_path / "same", options=lender)
    assert borrowed


def test_a_delta_belongs_to_the_quantised_base(whole: tuple[Record, Path]) -> None:
    path = delta_path(whole[1], "gate-up", "counting")
    delta = read_delta(path)
    model = nt.load("pico-qwen", delta=path, device="cpu")
    assert quantization_of(model) == delta.header.base.quantization
    assert model_digest(model) == delta.header.result_sha256
    with pytest.raises(InputError, match=r"belongs to a quantised base .*is not quantised"):
        nt.load("pico-qwen", delta=path, device="cpu", quantization="none")
    with pytest.raises(InputError, match=r"belongs to a quantised base .*is not quantised"):
        apply_delta(load_model("pico-qwen", device="cpu"), delta)
    halved = nt.load("pico-qwen", delta=path, device="cpu", dtype="bfloat16")
    assert next(iter(halved.parameters())).dtype == torch.bfloat16
    assert quantization_of(halved) is not None


def test_probes_read_what_they_read_of_the_unpacked_model(
    home: Path, whole: tuple[Record, Path]
) -> None:
    made = planned(home, held_out=("existence", "charts"), probes=PROBES)
    path = delta_path(whole[1], "attention", "counting")
    probing, found = made.probing, []
    assert probing is not None
    for unpacked in (False, True):
        delta = read_delta(path)
        packed = delta.header.base.quantization
        untaught = load_model("pico-qwen", device="cpu", quantization=packed)
        taught = nt.load("pico-qwen", delta=delta, device="cpu")
        for model in (untaught, taught) if unpacked else ():
            dequantize(model)
        probing.remember(untaught)
        found.append([one.to_dict() for one in probing.read(taught)])
    told = [[row.pop("value") for row in rows] for rows in found]
    assert found[0] == found[1] and len(found[0]) > 20
    assert told[0] == pytest.approx(told[1], rel=1e-3, abs=1e-5)


@pytest.mark.parametrize("arm", [one["name"] for one in ARMS])
def test_every_arms_delta_is_verified(whole: tuple[Record, Path], arm: str) -> None:
    delta = read_delta(delta_path(whole[1], arm, "counting"))
    packed = delta.header.base.quantization
    untaught = load_model("pico-qwen", device="cpu", quantization=packed)
    assert all(check.passed for check in verify(untaught, delta))
    taught = nt.load("pico-qwen", delta=delta, device="cpu")
    assert model_digest(taught) == delta.header.result_sha256


OTHERS: list[dict[str, Any]] = [
    {"name": "lora", "recipe": "gate-up", "method": {"lora": {"rank": 4}}},
    {"name": "ewc", "recipe": "attention", "method": {"ewc": {"weight": 1.0}}},
    {"name": "l2-sp", "recipe": "gate-up", "method": {"l2_sp": {"weight": 0.1}}},
    {"name": "wise", "recipe": "gate-up", "method": {"wise_ft": {"alpha": 0.5}}},
    {
        "name": "kl",
        "recipe": "gate-up",
        "method": {"kl_anchor": {"data": "data/clock/train.jsonl", "weight": 1.0}},
    },
    {
        "name": "penalised",
        "recipe": "gate-up",
        "drift": {"budget": 0.01, "action": "penalise", "limit": 4},
    },
]


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("model", ["pico-qwen", "pico-llava"])
def test_every_method_teaches_on_a_quantised_base(
    home: Path, tmp_path: Path, model: str, dtype: str
) -> None:
    for task in ("counting", "clock"):
        pico.write(home / "data", task, "train", 16)
    slices = {"name": "slice", "train": ["vision.attn.q" if model == "pico-qwen" else "vision.mlp"]}
    stages = [{"name": name, "train": f"data/{name}/train.jsonl"} for name in ("counting", "clock")]
    made = planned(
        home,
        model=NF4 | {"id": model, "dtype": dtype},
        arms=[*ARMS, *OTHERS, slices],
        stages=stages,
        held_out=("existence", "charts"),
        training={"batch_size": 8, "learning_rate": 1e-3, "activation_checkpointing": True},
    )
    record = nt.run(made, tmp_path / "out", options=QUIET)
    assert len(record.ledger) == 2 * len(made.arms) and all(row.held for row in record.ledger)
    for arm in made.arms:
        deltas = [
            read_delta(delta_path(tmp_path / "out", arm.name, one.name)) for one in made.stages
        ]
        taught = nt.load(model, delta=deltas, device="cpu")
        assert model_digest(taught) == deltas[-1].header.result_sha256


def test_a_plain_delta_does_not_go_on_a_quantised_base(home: Path, tmp_path: Path) -> None:
    nt.run(planned(home, arms=ARMS[:1], model=PLAIN), tmp_path / "out", options=QUIET)
    path = delta_path(tmp_path / "out", "gate-up", "counting")
    with pytest.raises(InputError, match="the delta belongs to the plain one"):
        nt.load("pico-qwen", delta=path, device="cpu", quantization="nf4")


def test_features_of_a_quantised_tower_are_its_own(home: Path, tmp_path: Path) -> None:
    kept = replace(QUIET, feature_cache=str(tmp_path / "features"))
    plain, packed = planned(home, arms=ARMS[:1], model=PLAIN), planned(home, arms=ARMS[:1])
    nt.run(plain, tmp_path / "plain", options=kept)
    alone = nt.run(packed, tmp_path / "alone", options=replace(QUIET, feature_cache="off"))
    after = nt.run(packed, tmp_path / "after", options=kept)
    assert bits(after, tmp_path / "after") == bits(alone, tmp_path / "alone")
    towers = {path.parent.name for path in (tmp_path / "features").rglob("*.features")}
    assert len(towers) == 2


def test_the_plan_refuses_what_leaves_nothing(home: Path) -> None:
    full = {"name": "full", "recipe": "full"}
    with pytest.raises(InputError, match="arm full trains every matrix"):
        planned(home, arms=[*ARMS, full])
    with pytest.raises(InputError, match=r"quantization.*nf4"):
        planned(home, model=NF4 | {"quantization": "nf5"})
    with pytest.raises(InputError, match="'quantization' is none"):
        planned(home, model=PLAIN | {"unquantized": ["vision"]})


def test_what_a_term_names_stays_as_it_is(home: Path) -> None:
    made = planned(home, arms=ARMS[:1])
    fewer = planned(home, arms=ARMS[:1], model=NF4 | {"unquantized": ["vision"]})
    assert made.quantization is not None and fewer.quantization is not None
    vision = {path for path in made.quantization.modules if ".visual.blocks." in path}
    assert vision
    assert set(fewer.quantization.modules) == set(made.quantization.modules) - vision
    assert made.digest != fewer.digest


def test_a_recommended_arm_starts_from_the_base_it_was_found_on(home: Path, tmp_path: Path) -> None:
    made = planned(home)
    path = write_recommended(with_base_pinned(made), made.experiment.arms[0], home, tmp_path)
    alone = nt.plan(nt.load_experiment(path), tmp_path)
    assert len(alone.arms) == 1
    assert alone.quantization == made.quantization


def test_the_rehearsal_holds_the_packed_weights(home: Path) -> None:
    packed, plain = planned(home, arms=ARMS[:1]), planned(home, arms=ARMS[:1], model=PLAIN)
    found = [Costs(one, "l4-24g").of(one.arms[0]) for one in (packed, plain)]
    assert not found[0].missing
    spared = found[1].parts["weights"] - found[0].parts["weights"]
    assert packed.quantization is not None
    assert spared == pytest.approx((4 - 0.5625) * packed.quantization.numel, rel=1e-3)
    assert found[0].peak < found[1].peak


def test_it_is_named_where_an_arm_does_not_fit(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = planned(home, arms=ARMS[:1], model=PLAIN, training={"batch_size": 1})
    costs, arm = Costs(made, "t4-16g"), made.arms[0]
    least = costs.of(arm, Choice(torch.float32, quantization="nf4"))
    monkeypatch.setattr(costs, "_named", replace(costs.device(), memory=least.peak))
    assert "model.quantization: nf4" in [way.words for way in ways_to_fit(costs, arm)]


def test_eval_and_delta_commands_know_it(whole: tuple[Record, Path], tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from narrowtune.cli.app import app

    _, out = whole
    data = out.parent / "data" / "counting" / "test.jsonl"
    delta = str(delta_path(out, "gate-up", "counting"))

    def asked(*words: str) -> str:
        done = CliRunner().invoke(app, list(words))
        assert done.exit_code == 0, done.output
        return done.stdout

    told = json.loads(asked("eval", "pico-qwen", "--delta", delta, "--task", f"{data}:number",
                            "--device", "cpu", "--json"))  # fmt: skip
    (mine,) = [
        row.value for row in read_record(out).scores
        if (row.arm, row.task) == ("gate-up", "counting")
    ]  # fmt: skip
    assert told["scores"][0]["value"] == mine
    assert told["quantization"]["type"] == "nf4"
    assert "quantised nf4:" in asked("delta", "show", delta)
    tuned = tmp_path / "tuned"
    assert "unpacked again" in asked("delta", "apply", "pico-qwen", delta, "--out", str(tuned))
    assert quantization_of(load_model(str(tuned), device="cpu")) is None
    asked("delta", "verify", "pico-qwen", delta, "--tuned", str(tuned))
