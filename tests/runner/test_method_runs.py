"""Methods in real runs: saved like any arm, resumed to the same bits, refused where they clash."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from pico_tasks import scored, small
from safetensors.torch import load_file

from narrowtune import pico
from narrowtune.data.batching import Batch, collate
from narrowtune.data.encoding import encode_all
from narrowtune.data.formats import read_examples
from narrowtune.delta import changed, fingerprint, load, model_digest, read_delta
from narrowtune.errors import InputError
from narrowtune.experiment import Experiment, parse_experiment
from narrowtune.models.loading import load_model, save_model
from narrowtune.models.lora import Adapters, Rank
from narrowtune.models.processing import load_processing
from narrowtune.record import Record
from narrowtune.runner import Observer, Options, Plan, plan, run
from narrowtune.training import Interrupted, StepResult, batch_order

QUIET = Options(device="cpu", save_models=False)
STEPS = 5
PROMPTS = {"data": "data/existence/train.jsonl", "limit": 6, "weight": 0.5}
VALIDATION = {"name": "look", "test": "data/counting/validation.jsonl", "metric": "number"}
METHODS: dict[str, object] = {
    "lora": {"lora": {"rank": 4}},
    "dora": {"lora": {"rank": 4, "dora": True, "rank_stabilised": True, "dropout": 0.1}},
    "moe": {"moe": {}},
    "moe-1": {"moe": {"top_k": 1}},
    "moe+lwf": {"moe": {}, "lwf": {"teacher": "base"}, "l2-sp": {"weight": 1.0}},
    "lwf": {"lwf": {"weight": 1.0}},
    "lwf-base": {"lwf": {"teacher": "base", "cache": True}},
    "lora+lwf-base": {"lora": {"rank": 4}, "lwf": {"teacher": "base"}},
    "replay": {"replay": {"ratio": 0.3}},
    "replay-data": {"replay": {"ratio": 0.5, "data": "data/reading/train.jsonl"}},
    "kl-anchor": {"kl-anchor": PROMPTS},
    "l2-sp": {"l2-sp": {"weight": 5.0}},
    "ewc": {"ewc": {"weight": 100.0, "samples": 4}},
    "wise-ft": {"wise-ft": {"alpha": 0.5}},
    "several": {"replay": {}, "lwf": {}, "kl-anchor": PROMPTS, "wise-ft": {"alpha": 0.9}},
}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("methods")
    for task in ("counting", "reading", "existence", "clock"):
        pico.write(folder / "data", task, "train", 40)
    pico.write(folder / "data", "charts", "test", 8)
    lines = (folder / "data/counting/train.jsonl").read_text().splitlines()
    (folder / "data/counting/validation.jsonl").write_text("\n".join(lines[:8]))
    return folder


def experiment(method: object, recipe: str = "gate-up", **more: object) -> Experiment:
    stages = [
        {"name": name, "train": f"data/{name}/train.jsonl", "train_limit": 24}
        for name in ("counting", "clock")
    ]
    given: dict[str, object] = {
        "stages": stages,
        "arms": [{"name": "arm", "recipe": recipe, "method": method}],
        "training": {"batch_size": 8, "steps": STEPS, "learning_rate": 1e-3},
        "evaluate": [],
    }
    return parse_experiment(small(("charts",), **given | more))


def planned(home: Path, method: object, recipe: str = "gate-up", **more: object) -> Plan:
    return plan(experiment(method, recipe, **more), home)


def taught(home: Path, name: str, method: object, recipe: str = "gate-up") -> tuple[Record, Path]:
    return run(planned(home, method, recipe), home / name, options=QUIET), home / name


def delta(folder: Path, stage: str = "clock") -> dict[str, torch.Tensor]:
    return load_file(folder / "arms" / "arm" / stage / "delta.safetensors")


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture(scope="module")
def plain(home: Path) -> dict[str, torch.Tensor]:
    return delta(taught(home, "plain", {})[1])


QUICK = ("lora", "moe", "lwf-base", "several")
"""What the default tests run; between them they hold every kind of work that a method does."""


class StopsAt(Observer):
    """Interrupts the second stage in its middle."""

    def __init__(self) -> None:
        self.seen = 0

    def step(self, result: StepResult, samples_per_second: float) -> None:
        self.seen += 1
        if self.seen == STEPS + 3:
            raise KeyboardInterrupt


@pytest.mark.parametrize(
    "name",
    [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in METHODS],
)
def test_a_method_holds_the_ledger_and_goes_on_to_the_same_bits(
    home: Path, plain: dict[str, torch.Tensor], name: str
) -> None:
    record, folder = taught(home, name, METHODS[name])
    assert [row.held for row in record.ledger] == [True, True]
    assert not same(delta(folder), plain)
    again = planned(home, METHODS[name])
    often = Options(device="cpu", save_models=False, checkpoint_seconds=0)
    with pytest.raises(Interrupted):
        run(again, home / f"{name}-again", options=often, observer=StopsAt())
    resumed = run(again, home / f"{name}-again", options=QUIET, resume=True)
    for stage in ("counting", "clock"):
        assert same(delta(home / f"{name}-again", stage), delta(folder, stage))
    assert resumed.losses == record.losses


@pytest.mark.parametrize("name", ["moe", pytest.param("moe-1", marks=pytest.mark.slow)])
def test_a_mixture_is_loaded_from_its_deltas(home: Path, name: str) -> None:
    folder = home / name if (home / name).exists() else taught(home, name, METHODS[name])[1]
    files = [folder / "arms/arm" / stage / "delta.safetensors" for stage in ("counting", "clock")]
    model = load("pico-qwen", delta=files, device="cpu")
    assert model_digest(model) == read_delta(files[1]).header.result_sha256
    frozen = {n: one for n, one in model.named_parameters() if ".tuned." not in n}
    assert all(torch.equal(one, frozen[n]) for n, one in fresh().named_parameters())
    inputs = batch_of(home).inputs
    with torch.no_grad():
        assert not torch.allclose(model(**inputs).logits, fresh()(**inputs).logits, atol=1e-2)
        halved = load("pico-qwen", delta=files[0], alpha=0.0, device="cpu")
        torch.testing.assert_close(halved(**inputs).logits, fresh()(**inputs).logits)
    with pytest.raises(InputError, match="can't be written as a folder"):
        save_model(model, "pico-qwen", home / "never")


@pytest.fixture(scope="module")
def adapted(home: Path) -> Path:
    return taught(home, "attention-lora", {"lora": {"rank": 4}}, "attention")[1]


def batch_of(home: Path) -> Batch:
    processing = load_processing("pico-qwen")
    rows = encode_all(read_examples(home / "data/counting/train.jsonl")[:4], processing)
    return collate(rows, processing, padding_side="right")


def test_plain_peft_loads_the_adapters(home: Path, adapted: Path) -> None:
    """Each stage's on the model it began from; they compute what it became."""
    inputs = batch_of(home).inputs
    stages = [adapted / "arms/arm" / stage for stage in ("counting", "clock")]
    for number, folder in enumerate(stages):
        before = [one / "delta.safetensors" for one in stages[:number]]
        base = load("pico-qwen", delta=before, device="cpu") if before else fresh()
        by_peft = PeftModel.from_pretrained(base, str(folder / "adapter")).eval()
        merged = load("pico-qwen", delta=[*before, folder / "delta.safetensors"], device="cpu")
        with torch.no_grad():
            expected = merged(**inputs).logits
            torch.testing.assert_close(by_peft(**inputs).logits, expected, rtol=1e-4, atol=1e-4)
            assert not torch.allclose(fresh()(**inputs).logits, expected, atol=1e-2)


def fresh() -> torch.nn.Module:
    return load_model("pico-qwen", device="cpu", dtype="float32")


@pytest.mark.parametrize("dora", [False, True])
def test_new_adapters_leave_the_model_as_it_was(home: Path, dora: bool) -> None:
    model, inputs = fresh(), batch_of(home).inputs
    before = fingerprint(model)
    names = planned(home, {"lora": {}}, "attention").arms[0].reads.adapted
    with torch.no_grad():
        expected = model(**inputs).logits
        adapters = Adapters(model, names, Rank(4, dora=dora), seed=0)
        found = model(**inputs).logits
    if dora:  # it divides by a norm and multiplies by it again
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    else:
        assert torch.equal(found, expected)
    assert sum(one.numel() for _, one in adapters.named) == sum(
        Rank(4, dora=dora).numel(*dict(fresh().named_parameters())[name].shape) for name in names
    )
    if not dora:
        adapters.merge()
        assert not changed(before, fingerprint(model))


def test_the_plan_counts_adapters_and_names_what_they_leave(home: Path) -> None:
    rows = planned(home, {"lora": {"rank": 2}}, "language").to_dict()["arms"][0]
    assert rows["methods"] == ["lora"]
    assert rows["trained_numel"] < 0.2 * rows["total_numel"]
    assert any("the other" in note and "stay as they are" in note for note in rows["notes"])


@pytest.mark.parametrize(("alpha", "share"), [(0.0, 0.0), (1.0, 1.0)])
def test_the_ends_of_interpolation(
    home: Path, plain: dict[str, torch.Tensor], alpha: float, share: float
) -> None:
    folder = taught(home, f"wise-{alpha}", {"wise-ft": {"alpha": alpha}})[1]
    if share:
        assert same(delta(folder), plain)
        return
    before = dict(fresh().named_parameters())
    assert all(torch.equal(values, before[name]) for name, values in delta(folder).items())


@pytest.mark.slow
def test_a_validation_set_picks_the_best_share(home: Path) -> None:
    method = {"wise-ft": {"validation": [VALIDATION]}}
    record, _ = taught(home, "picked", method)
    for stage in ("counting", "clock"):
        rows = [row for row in record.readings if row["stage"] == stage]
        tried = {row["alpha"]: row["value"] for row in rows if row["part"] == "tried"}
        (chosen,) = [row["alpha"] for row in rows if row["part"] == "chosen"]
        assert len(tried) == 11
        assert tried[chosen] == max(tried.values())
        assert chosen == max(a for a, value in tried.items() if value == tried[chosen])


def test_replay_draws_from_the_stages_before(home: Path) -> None:
    made = planned(home, {"replay": {"ratio": 0.25}})
    (arm,), (first, second) = made.arms, made.stages
    assert made.rows(arm, first) == first.rows
    rows, settings = made.rows(arm, second), made.settings(arm, second)
    assert rows == (*second.rows, *first.rows)
    order = batch_order([len(row) for row in rows], settings)
    assert {Counter(i >= len(second.rows) for i in one)[True] for one in order} == {2}
    assert any("nothing to go by in stage counting" in note for note in made.notes(arm))


@pytest.mark.slow
def test_distance_to_the_base_shrinks_with_its_weight(home: Path) -> None:
    before = dict(fresh().named_parameters())

    def far(weight: float) -> float:
        found = delta(taught(home, f"sp-{weight}", {"l2-sp": {"weight": weight}})[1])
        return sum(
            (one - before[name].detach()).square().sum().item() for name, one in found.items()
        )

    assert far(1000.0) < 0.8 * far(1.0)


def test_what_contradicts_itself_is_refused(home: Path) -> None:
    drift = {"budget": 0.1, "action": "interpolate", "limit": 4}
    with pytest.raises(InputError, match="wise-ft and drift action interpolate"):
        planned(home, {"wise-ft": {"alpha": 0.5}}, drift=drift)
    with pytest.raises(InputError, match="lora and ewc do not combine"):
        experiment({"lora": {}, "ewc": {"weight": 1}})
    with pytest.raises(InputError, match="an expert is a copy of an MLP"):
        planned(home, "moe", "attention")
    with pytest.raises(InputError, match="selects no matrix"):
        planned(home, "lora", "connector.norm")
    with pytest.raises(InputError, match=r"nothing\.jsonl"):
        planned(home, {"replay": {"data": "nothing.jsonl"}})


def test_what_is_replayed_may_not_be_tested(home: Path) -> None:
    with pytest.raises(InputError, match="arm-replay"):
        planned(
            home,
            {"replay": {"data": "data/existence/train.jsonl"}},
            held_out=[scored("charts") | {"test": "data/existence/train.jsonl", "name": "same"}],
        )
