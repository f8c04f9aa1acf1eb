"""Quantities over orders and seeds, recovery and paired tests, against numbers worked by hand."""

from __future__ import annotations

import pytest

from narrowtune.analysis import (
    Run,
    Sample,
    Samples,
    compare_pooled,
    from_best,
    paired_tests,
    pool,
    pooled_headline,
    pooled_to_dict,
    recoveries,
    summarise,
)
from narrowtune.experiment import ArmSpec, Experiment, ModelSpec, StageSpec, TaskSpec
from narrowtune.record import BASE, Cost, Record, ReplicateRow, Score

N = 100


def run_of(
    rows: dict[tuple[str, str], dict[str, int]],
    order: tuple[str, ...] = ("s1", "s2", "s3"),
    number: int = 1,
    seed: int = 0,
) -> Run:
    """A run from how many of 100 answers are right; which ones is decided by a fixed shuffle."""
    held = ("h1", "h2")
    scores, samples = [], {}
    for (arm, stage), tasks in rows.items():
        for task, right in tasks.items():
            value = right / N
            scores.append(
                Score(
                    arm=arm, stage=stage, task=task, metric="exact", value=value, n=N,
                    role="held_out" if task in held else "target", task_version="1",
                    stderr=(value * (1 - value) / (N - 1)) ** 0.5,
                )
            )  # fmt: skip
            samples[arm, stage, task] = {
                str(i): Sample(
                    str(i), str(i * 37 % N < right), ("True",), float(i * 37 % N < right)
                )
                for i in range(N)
            }
    arms = dict.fromkeys(arm for arm, _ in rows if arm != BASE)
    experiment = Experiment(
        model=ModelSpec(id="m"),
        stages=tuple(StageSpec(name=s, train="t", test="t") for s in order),
        held_out=tuple(TaskSpec(name=task, test="t") for task in held),
        arms=tuple(ArmSpec(name=arm, recipe="full") for arm in arms),
    )
    record = Record(status="complete", digest="d", scores=tuple(scores), experiment=experiment)
    return Run(record, Samples(samples), number, seed)


def whole(arm: str, stages: dict[str, tuple[int, int, int, int, int]]):
    names = ("s1", "s2", "s3", "h1", "h2")
    return {(arm, stage): dict(zip(names, row, strict=True)) for stage, row in stages.items()}


BASE_ROW = {(BASE, BASE): {"s1": 0, "s2": 10, "s3": 20, "h1": 80, "h2": 90}}
FALLS_AND_RECOVERS = BASE_ROW | whole(
    "a", {"s1": (60, 10, 20, 40, 50), "s2": (50, 70, 20, 60, 70), "s3": (30, 60, 80, 60, 70)}
)
OTHER_ORDER = BASE_ROW | whole(
    "a", {"s3": (0, 10, 70, 80, 90), "s1": (50, 10, 70, 50, 60), "s2": (40, 80, 60, 70, 80)}
)


@pytest.fixture
def runs() -> list[Run]:
    return [
        run_of(FALLS_AND_RECOVERS, number=1),
        run_of(OTHER_ORDER, ("s3", "s1", "s2"), number=2),
    ]


def test_every_quantity_by_hand(runs: list[Run]) -> None:
    pooled = pool(runs, "a")
    # Learning: (60, 60, 60) and, in the other order, (50, 70, 50).
    assert pooled.learning and pooled.learning.value == pytest.approx((0.6 + 170 / 300) / 2)
    # Earlier skills: s1 60 to 30, s2 70 to 60; and s3 70 to 60, s1 50 to 40.
    assert pooled.forgetting and pooled.forgetting.value == pytest.approx(-(0.2 + 0.1) / 2)
    assert pooled.overall and pooled.overall.value == pytest.approx(
        ((30 + 50 + 60) / 300 + (40 + 70 + 40) / 300) / 2
    )
    assert pooled.held_out and pooled.held_out.mean.value == pytest.approx(-(0.2 + 0.1) / 2)
    assert pooled.held_out.sum.value == pytest.approx(2 * -(0.2 + 0.1) / 2)
    assert pooled.held_out_worst
    assert pooled.held_out_worst.mean.value == pytest.approx(-(0.4 + 0.3) / 2)
    assert pooled.after_skill["s1"].mean.value == pytest.approx(-(0.4 + 0.3) / 2)
    assert pooled.after_skill["s3"].mean.value == pytest.approx(-(0.2 + 0.0) / 2)
    assert [one.mean.value for one in pooled.after_stage] == pytest.approx([-0.2, -0.25, -0.15])
    assert pooled.runs == 2 and pooled.learning.runs == 2


def test_best_is_the_highest_row_before_the_end() -> None:
    rows = BASE_ROW | whole(
        "a", {"s1": (60, 10, 20, 80, 90), "s2": (75, 70, 20, 80, 90), "s3": (30, 60, 80, 80, 90)}
    )
    run = run_of(rows)
    found = from_best(run.record, "a", run.samples)
    # s1 stood best after s2, 75; s2 after its own stage, 70.
    assert found and found.value == pytest.approx(-(0.45 + 0.10) / 2)


def test_recovery_by_hand(runs: list[Run]) -> None:
    one, other = runs
    (found,) = recoveries([one], "a")
    assert (found.stage, found.drop.value) == ("s1", pytest.approx(-0.4))
    assert found.regained.value == pytest.approx(0.2)
    assert found.share == pytest.approx(0.5)
    assert found.low < 0.5 < found.high and found.high - found.low < 0.4
    (second,) = recoveries([other], "a")  # s3 did no harm, s1 took 30, s2 gave 20 back
    assert second.share == pytest.approx(2 / 3)
    (both,) = recoveries(runs, "a")
    assert both.share == pytest.approx(0.4 / 0.7)


def test_a_drop_inside_the_noise_has_no_recovery() -> None:
    rows = BASE_ROW | whole(
        "a", {"s1": (60, 10, 20, 79, 89), "s2": (50, 70, 20, 80, 90), "s3": (30, 60, 80, 80, 90)}
    )
    assert recoveries([run_of(rows)], "a") == ()


def test_what_the_last_stage_lost_cannot_come_back() -> None:
    rows = BASE_ROW | whole(
        "a", {"s1": (60, 10, 20, 80, 90), "s2": (50, 70, 20, 80, 90), "s3": (30, 60, 80, 20, 20)}
    )
    assert recoveries([run_of(rows)], "a") == ()


def test_seeds_of_one_order_give_the_noise_of_training_again() -> None:
    first = run_of(FALLS_AND_RECOVERS, seed=0)
    again = run_of(FALLS_AND_RECOVERS | whole("a", {"s3": (30, 60, 80, 64, 74)}), seed=1)
    assert pool([first], "a").seed_spread is None
    assert pool([first, again], "a").seed_spread == pytest.approx(0.04 / 2**0.5)


def test_an_arm_counts_only_where_it_went_to_the_end(runs: list[Run]) -> None:
    half = run_of({key: row for key, row in OTHER_ORDER.items() if key[1] != "s2"},
                  ("s3", "s1", "s2"))  # fmt: skip
    assert pool([runs[0], half], "a") == pool([runs[0]], "a")
    nothing = pool([half], "a")
    assert nothing.runs == 0 and nothing.learning is None and not nothing.finished


def test_arms_are_compared_replicate_by_replicate() -> None:
    kept = whole(
        "b", {"s1": (60, 10, 20, 80, 90), "s2": (50, 70, 20, 80, 90), "s3": (30, 60, 80, 80, 90)}
    )
    found = compare_pooled([run_of(FALLS_AND_RECOVERS | kept)], "b", "a")
    assert found.kept and found.kept.value == pytest.approx(0.2)
    assert found.learned and found.learned.value == 0.0
    assert found.verdict == "ahead"


def test_paired_tests_count_flips() -> None:
    run = run_of(FALLS_AND_RECOVERS)
    found = {one.task: one for one in paired_tests(run.record, run.samples, ("a", "s3"))}
    h1 = found["h1"]
    assert (h1.lost, h1.gained) == (20, 0)
    assert h1.mcnemar == pytest.approx(2 / 2**20)
    assert h1.holm == pytest.approx(2 * h1.mcnemar)  # of five, three are surer and one alike
    assert h1.bootstrap[0] < -0.2 < h1.bootstrap[1] < 0
    assert h1.change.low < -0.2 < h1.change.high < 0


def test_the_word_lost_is_kept_for_clear_changes() -> None:
    same = [run_of(FALLS_AND_RECOVERS, seed=seed) for seed in (0, 1, 2)]
    assert "lost 20.0 points" in pooled_headline(same[0].record, same)
    calm = [run_of(BASE_ROW | whole("a", dict.fromkeys(("s1", "s2", "s3"), (60, 60, 60, 79, 90))))]
    text = pooled_headline(calm[0].record, calm)
    assert "no clear change" in text and "lost" not in text


def test_export_holds_every_replicate(runs: list[Run]) -> None:
    found = pooled_to_dict(runs[0].record, runs)
    assert [one["order"] for one in found["replicates"]] == [["s1", "s2", "s3"], ["s3", "s1", "s2"]]
    (arm,) = found["arms"]
    assert arm["held_out"]["mean"]["runs"] == 2
    assert arm["recovery"][0]["share"] == pytest.approx(0.4 / 0.7)
    assert found["replicates"][0]["arms"][0]["tests"][0]["task"] == "s1"


def test_without_base_a_drop_in_the_first_stage_is_unknown(runs: list[Run]) -> None:
    def without(run: Run) -> Run:
        kept = tuple(score for score in run.record.scores if score.arm != BASE)
        return Run(run.record.model_copy(update={"scores": kept}), run.samples, run.order)

    found = recoveries([without(run) for run in runs], "a")
    # s1 stands second in the other order alone: 85 to 55 there, 65 in the end.
    assert [one.stage for one in found] == ["s1"]
    assert found[0].drop.value == pytest.approx(-0.3)


def test_a_stage_without_a_test_is_taught_and_not_scored(runs: list[Run]) -> None:
    one = runs[0]
    first, second, third = one.record.experiment.stages
    stages = (first, second.model_copy(update={"test": None}), third)
    scores = tuple(score for score in one.record.scores if score.task != "s2")
    record = one.record.model_copy(
        update={
            "experiment": one.record.experiment.model_copy(update={"stages": stages}),
            "scores": scores,
            "cost": (
                Cost(
                    arm="a",
                    stage="s2",
                    seconds=1,
                    steps=1,
                    samples=1,
                    tokens=1,
                    supervised_tokens=1,
                    samples_per_second=1,
                    peak_bytes=1,
                    trained_numel=1,
                    total_numel=2,
                ),
            ),
        }
    )
    pooled = pool([Run(record, one.samples)], "a")
    assert pooled.finished
    assert pooled.learning and pooled.learning.value == pytest.approx(0.6)
    assert pooled.forgetting and pooled.forgetting.value == pytest.approx(-0.3)
    (row,) = summarise(record)
    assert row.finished and row.stages_done == ("s1", "s2", "s3")


def test_the_headline_counts_each_arms_runs_and_complete_replicates() -> None:
    rows = FALLS_AND_RECOVERS | {
        ("b", stage): tasks for (arm, stage), tasks in FALLS_AND_RECOVERS.items() if arm == "a"
    }
    both, alone = run_of(rows, seed=0), run_of(rows, seed=1)
    kept = tuple(s for s in alone.record.scores if (s.arm, s.stage) != ("b", "s3"))
    half = Run(alone.record.model_copy(update={"scores": kept}), alone.samples, 1, 1)
    status = [("complete", 0), ("interrupted", 1)]
    replicates = tuple(
        ReplicateRow(name=f"r{n}", order=("s1",), seed=n, status=how, digest="d")
        for how, n in status
    )
    record = both.record.model_copy(
        update={
            "status": "interrupted",
            "replicates": replicates,
            "experiment": both.record.experiment.model_copy(update={"seeds": (0, 1)}),
        }
    )
    text = pooled_headline(record, [both, half])
    assert "b (over 1 of them) learned" in text
    assert "1 of 2 replicates" in text


def test_other_versions_of_a_task_do_not_compare(runs: list[Run]) -> None:
    one = runs[0]
    scores = [
        score.model_copy(update={"task_version": "2"}) if score.arm == BASE else score
        for score in one.record.scores
    ]
    record = one.record.model_copy(update={"scores": tuple(scores)})
    pooled = pool([Run(record, one.samples)], "a")
    assert pooled.learning is None and pooled.held_out is None
    assert pooled.forgetting is not None  # both ends are of the same version
