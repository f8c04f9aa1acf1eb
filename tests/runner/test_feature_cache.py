"""Runs that keep image features end in the bits of runs that do not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import narrowtune as nt
from narrowtune.errors import InputError
from narrowtune.models.feature_parts import Unfit
from narrowtune.models.features import Feed, Layout
from narrowtune.models.loading import load_model
from narrowtune.record import Record
from narrowtune.runner import Observer, Options, Plan
from narrowtune.runner import features as run_features
from narrowtune.runner.features import encodes_alone
from narrowtune.training import Interrupted, StepResult

IN_MEMORY = Options(device="cpu", save_models=False, checkpoint_seconds=0.0)
OFF = replace(IN_MEMORY, feature_cache="off")
TRAINED, ASKED = 8, 3  # samples of a stage, and of a task
TRIED = 2  # that the last layer is tried on, twice


class Heard(Observer):
    """Keeps the notes, and stops the run after a step."""

    def __init__(self, stop: int = -1) -> None:
        self.notes: list[str] = []
        self.stop = stop

    def note(self, text: str) -> None:
        self.notes.append(text)

    def step(self, result: StepResult, samples_per_second: float) -> None:
        self.stop -= 1
        if self.stop == 0:
            raise KeyboardInterrupt


def raw(**changes: Any) -> dict[str, Any]:
    stage = {"name": "counting", "train": "counting/train.jsonl", "train_limit": TRAINED}
    stage |= {"test": "counting/test.jsonl", "metric": "number", "limit": ASKED}
    task = {"name": "existence", "test": "existence/test.jsonl", "metric": "yes_no"}
    return {
        "model": {"id": "pico-qwen", "dtype": "float32"},
        "stages": [stage],
        "held_out": [task | {"limit": ASKED}],
        "arms": [
            {"name": "gate-up", "recipe": "gate-up"},
            {"name": "attention", "train": ["attention"]},
        ],
        "training": {"batch_size": 4, "learning_rate": 1e-3, "epochs": 2},
    } | changes


@pytest.fixture
def make_plan(drawn: Path) -> Callable[..., Plan]:
    """Makes the plan; keyword arguments replace the experiment's top-level keys."""

    def make(**changes: Any) -> Plan:
        return nt.plan(nt.parse_experiment(raw(**changes)), drawn)

    return make


def alone() -> dict[str, Any]:
    return {"model": {"id": "pico-qwen", "dtype": "float32", "encode_images": "alone"}}


def bits(record: Record, out: Path) -> tuple[Any, ...]:
    """All that a run computed: losses, scores, answers, trained tensors."""
    files = [*out.rglob("predictions/**/*.jsonl"), *out.rglob("delta.safetensors")]
    return (
        [row.model_dump() for row in record.losses],
        [row.model_dump() for row in record.scores],
        {str(file.relative_to(out)): file.read_bytes() for file in files},
    )


@contextmanager
def encoded(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """How many samples each call of an encoder saw that no store could answer."""
    calls, ask = [], Feed._encoded

    def note(feed: Feed, key: str, call: Any, *rest: Any) -> Any:
        if feed.context != "trial":
            calls.append(len(call))
        return ask(feed, key, call, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(Feed, "_encoded", note)
        yield calls


@pytest.mark.parametrize("changes", [{}, alone()], ids=["together", "alone"])
def test_a_cache_changes_no_bit(
    changes: dict[str, Any],
    make_plan: Callable[..., Plan],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kept = replace(IN_MEMORY, feature_cache=str(tmp_path / "cache"))
    found, asked = [], []
    for number, options in enumerate((OFF, IN_MEMORY, kept, kept)):
        out, heard = tmp_path / str(number), Heard()
        with encoded(monkeypatch) as calls:
            found.append(
                bits(nt.run(make_plan(**changes), out, options=options, observer=heard), out)
            )
        asked.append(calls)
        assert not [note for note in heard.notes if "features" in note]
    assert all(one == found[0] for one in found)
    taught, scored = 2 * TRAINED, 2 * ASKED  # epochs; tasks
    if changes:
        # Each image once over base, epochs, arms and scorings; without a cache every time.
        assert asked[0] == [1] * (2 * (taught + 2 * TRIED) + 3 * scored)
        assert asked[1] == asked[2] == [1] * (TRAINED + scored)
    else:
        # The second arm's batches are those of the first, and every scoring's those of the base's.
        assert not asked[0] and asked[1] == asked[2] and sum(asked[1]) == taught + scored + TRIED
    assert asked[3] == []  # a folder answers the next run from its first batch


@pytest.mark.parametrize("changes", [{}, alone()], ids=["together", "alone"])
@pytest.mark.parametrize("stop", [1, 3])
def test_a_resumed_run_ends_in_the_same_bits_whatever_is_kept(
    changes: dict[str, Any], stop: int, make_plan: Callable[..., Plan], tmp_path: Path
) -> None:
    plan = make_plan(**changes, arms=[{"name": "gate-up", "recipe": "gate-up"}])
    straight = bits(nt.run(plan, tmp_path / "straight", options=OFF), tmp_path / "straight")
    kept, out = replace(IN_MEMORY, feature_cache=str(tmp_path / "cache")), tmp_path / "stopped"
    with pytest.raises(Interrupted):
        nt.run(plan, out, options=kept, observer=Heard(stop))
    for place, file in enumerate(sorted((tmp_path / "cache").rglob("*.features"))):
        if place % 3 == 0:
            file.unlink()
        elif place % 3 == 1:
            file.write_bytes(file.read_bytes()[:-1])  # torn, as by a power cut
    heard = Heard()
    record = nt.run(plan, out, resume=True, options=kept, observer=heard)
    assert bits(record, out) == straight
    assert any("damaged" in note for note in heard.notes)


def test_an_arm_that_trains_the_encoder_is_told_and_taught_as_ever(
    make_plan: Callable[..., Plan], tmp_path: Path
) -> None:
    arms = [{"name": name, "train": [name]} for name in ("connector", "vision.mlp")]
    arms.append({"name": "slices", "train": ["vision.attn.q"]})
    plan, heard = make_plan(arms=arms), Heard()
    found = [
        bits(nt.run(plan, tmp_path / name, options=options, observer=heard), tmp_path / name)
        for name, options in (("off", OFF), ("on", IN_MEMORY))
    ]
    assert found[0] == found[1]
    told = [note for note in heard.notes if "not kept" in note]
    assert [note.split(":")[1].strip() for note in told] == ["connector", "vision.mlp", "slices"]
    assert all("since it trains" in note for note in told)


def test_a_cache_that_can_t_be_written_stops_nothing(
    make_plan: Callable[..., Plan], tmp_path: Path
) -> None:
    plan = make_plan(arms=raw()["arms"][:1])
    straight = bits(nt.run(plan, tmp_path / "off", options=OFF), tmp_path / "off")
    (tmp_path / "taken").write_text("a file")
    for where, gib, why in (
        (tmp_path / "taken", 1.0, "can't be written"),
        (tmp_path / "small", 3e-5, "has reached its limit"),
    ):
        heard, out = Heard(), tmp_path / f"run-{where.name}"
        options = replace(IN_MEMORY, feature_cache=str(where), feature_cache_gib=gib)
        record = nt.run(plan, out, options=options, observer=heard)
        assert bits(record, out) == straight
        assert [why in note for note in heard.notes if "features" in note] == [True]


def test_another_model_s_cache_is_ignored_and_told(
    make_plan: Callable[..., Plan], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = replace(IN_MEMORY, feature_cache=str(tmp_path / "cache"))
    small = {"arms": raw()["arms"][:1], "held_out": []}
    nt.run(make_plan(**small), tmp_path / "qwen", options=options)
    plan, heard = make_plan(**small, model={"id": "pico-llava", "dtype": "float32"}), Heard()
    straight = bits(nt.run(plan, tmp_path / "off", options=OFF), tmp_path / "off")
    record = nt.run(plan, tmp_path / "llava", options=options, observer=heard)
    assert bits(record, tmp_path / "llava") == straight
    assert [note for note in heard.notes if "another model" in note]
    assert len(list((tmp_path / "cache").iterdir())) == 2


def test_weights_are_part_of_the_key(make_plan: Callable[..., Plan]) -> None:
    """A folder of features knows an encoder by its bits: one changed number makes another."""
    plan = make_plan()
    model = load_model("pico-qwen", device="cpu", dtype="float32")
    kept = run_features.KeptFeatures.at(None, 1.0, lambda text: None)
    contexts = []
    for _ in range(2):
        with kept.answering(plan, model, next(model.parameters()).device):
            contexts.append(plan.processing.feed.context)
        assert plan.processing.feed is None
    weight = model.model.visual.merger.mlp[0].weight
    weight.data[0, 0] = weight.data[0, 0].nextafter(weight.data[0, 0] + 1)
    with kept.answering(plan, model, next(model.parameters()).device):
        contexts.append(plan.processing.feed.context)
    assert contexts[0] == contexts[1] != contexts[2]


def test_a_class_that_can_t_be_fed_is_told_and_refused_alone(
    make_plan: Callable[..., Plan], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unfit(*_: Any) -> None:
        raise Unfit("its class has no get_image_features")

    monkeypatch.setattr(run_features, "try_features", unfit)
    small, heard = {"arms": raw()["arms"][:1]}, Heard()
    nt.run(make_plan(**small), tmp_path / "a", options=IN_MEMORY, observer=heard)
    told = [note for note in heard.notes if "not kept" in note]
    assert len(told) == 1 and "no get_image_features" in told[0]
    with pytest.raises(InputError, match="encode_images: alone is not possible"):
        nt.run(make_plan(**small, **alone()), tmp_path / "b", options=IN_MEMORY)


def test_what_may_change_bits_changes_an_experiment_s_digest(
    make_plan: Callable[..., Plan],
) -> None:
    def encoded_by(how: str) -> str:
        model = {"id": "pico-qwen", "dtype": "float32", "encode_images": how}
        return make_plan(model=model).digest

    assert make_plan().digest == encoded_by("auto")
    assert len({encoded_by(how) for how in ("auto", "together", "alone")}) == 3


def test_left_to_itself_it_encodes_alone_where_that_pays(
    make_plan: Callable[..., Plan], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = {"batch_size": 4, "learning_rate": 1e-3}
    again = make_plan(training=training | {"epochs": 2})
    assert not encodes_alone(again)  # nine tokens an image: too small
    monkeypatch.setattr(run_features, "_ENOUGH_TOKENS", 9)
    assert encodes_alone(again)
    assert not encodes_alone(make_plan(training=training))  # no image comes again
    short = training | {"batch_size": 3}  # the last batch of an epoch is not full
    assert not encodes_alone(make_plan(training=short))
    assert encodes_alone(make_plan(training=short | {"steps": 4}))
    one_by_one = training | {"epochs": 2, "micro_batch_size": 1}
    assert not encodes_alone(make_plan(training=one_by_one))  # each batch is as it was
    found = []
    for number, changes in enumerate(({}, alone())):
        out = tmp_path / str(number)
        with encoded(monkeypatch) as calls:
            record = nt.run(make_plan(**changes), out, options=IN_MEMORY)
        assert set(calls) == {1}
        assert len(calls) == TRAINED + 2 * ASKED
        found.append(bits(record, out))
    assert found[0] == found[1]


def test_left_to_itself_a_class_that_can_t_encode_alone_is_trained_as_ever(
    make_plan: Callable[..., Plan], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_features, "_ENOUGH_TOKENS", 9)
    tried = run_features.try_features

    def not_alone(*args: Any) -> Layout:
        return replace(tried(*args), plans=None, alone="its features have no order")

    monkeypatch.setattr(run_features, "try_features", not_alone)
    with encoded(monkeypatch) as calls:
        nt.run(make_plan(arms=raw()["arms"][:1]), tmp_path, options=IN_MEMORY)
    assert max(calls) > 1
