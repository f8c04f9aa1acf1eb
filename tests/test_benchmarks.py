"""The comparison with other people's trainers, at a size of seconds: it must not rot.

That the contestants' losses agree is `compete`'s own condition; what it would print is no matter
here.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

import pytest
from torch import nn

sys.path.append(str(Path(__file__).parents[1]))  # benchmarks is no installed package

from benchmarks.contestants import CONTESTANTS, OURS
from benchmarks.models import Shape, copy_of, drawn_model, processing_of
from benchmarks.peak_memory import peak_above_model
from benchmarks.peers import check, compete
from benchmarks.scenes import SCENES, Lesson, Scene, lesson
from benchmarks.stopwatch import shares
from benchmarks.turns import Turns

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")
TINY = {"llava": Shape("LLaVA-OneVision", "pico-llava", {}), "qwen": Shape("Qwen", "pico-qwen", {})}
ASKED = (
    Scene("two questions per image", (84,), questions=2, rows=4),
    Scene("text only", (), rows=3, prompt=(5, 30)),
)


def prepared(shape: str, scene: Scene, arm: str, folder: Path) -> tuple[nn.Module, Lesson]:
    place = TINY[shape].write(folder / "model")
    return drawn_model(place), lesson(scene, arm, processing_of(place), folder, steps=3)


@pytest.mark.parametrize(
    ("shape", "scene", "arm"),
    [
        ("llava", ASKED[0], "language"),
        ("qwen", ASKED[0], "gate-up"),
        ("qwen", ASKED[1], "attention"),
    ],
    ids=["llava", "qwen", "text"],
)
def test_contestants_compute_the_same(shape: str, scene: Scene, arm: str, tmp_path: Path) -> None:
    model, taught = prepared(shape, scene, arm, tmp_path)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    match = compete(model, taught, CONTESTANTS)
    assert set(match.results) == {one.name for one in CONTESTANTS}
    for result in match.results.values():
        assert len(result.losses) == 3 and len(result.timing.cpu) == 1
        assert result.losses[2] < result.losses[0]  # the same batch again: it learns
    assert all(before[name].equal(tensor) for name, tensor in model.state_dict().items())
    flops = {name: result.flops for name, result in match.results.items()}
    assert flops["narrowtune"] <= flops["TRL best"] < flops["TRL default, head as on GPU"]
    assert flops["TRL best"] < flops["HF Trainer"] < flops["TRL default, CPU"]


def test_rows_of_an_image_start_alike(tmp_path: Path) -> None:
    _, taught = prepared("qwen", ASKED[0], "gate-up", tmp_path)
    starts = [row.input_ids[: 14 + 9] for row in taught.rows]  # a lead of 14, an image of 9
    assert len(set(starts)) == 1 and len({row.input_ids for row in taught.rows}) == 4
    assert len({row.example.images for row in taught.rows}) == 2


def test_other_losses_are_refused() -> None:
    same = {one.name: [2.0, 1.0] for one in CONTESTANTS}
    check(CONTESTANTS, same)
    with pytest.raises(AssertionError, match="different losses"):
        check(CONTESTANTS, {**same, "HF Trainer": [2.0, 1.0001]})
    with pytest.raises(AssertionError, match="different losses"):
        check(CONTESTANTS, {**same, "narrowtune LoRA": [2.0001, 1.0]})


def test_where_the_time_goes(tmp_path: Path) -> None:
    model, taught = prepared("qwen", ASKED[0], "gate-up", tmp_path)
    found = shares(model, "gate-up", partial(OURS.train, model, taught))
    assert sum(found.values()) == pytest.approx(1)
    idle = [part for part, share in found.items() if share <= 0]
    assert not idle


def test_turns_are_steps() -> None:
    said: list[str] = []

    def loop(name: str, on_step: object) -> None:
        for number in range(2):
            said.append(f"{name}{number}")
            on_step(float(number))

    first, second = Turns(partial(loop, "a")), Turns(partial(loop, "b"))
    assert [turn.step() for turn in (first, second, second, first)] == [0.0, 0.0, 1.0, 1.0]
    assert said == ["a0", "b0", "b1", "a1"]
    first.finish()
    second.finish()


def test_a_loops_error_is_raised_at_its_turn() -> None:
    def broken(_on_step: object) -> None:
        raise ValueError("of the loop")

    with pytest.raises(ValueError, match="of the loop"):
        Turns(broken).step()


def test_copies_share_what_is_frozen() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    own = copy_of(model, {"0.weight"})
    assert own[1].weight is model[1].weight and own[0].bias is model[0].bias
    assert own[0].weight is not model[0].weight and own[0].weight.equal(model[0].weight)


@pytest.mark.slow
def test_peak_memory_of_a_process_of_its_own(tmp_path: Path) -> None:
    place = TINY["qwen"].write(tmp_path / "model"), tmp_path
    text = next(n for n, scene in enumerate(SCENES) if not scene.sides)
    peak = peak_above_model(place, text, "gate-up", CONTESTANTS.index(OURS))
    assert 0 < peak < 2**30
