"""The page of results: prose by hand, every table from the analysis of a finished run.

    python docs/results.py NAME RUN[,RUN] ARM:OTHER ...   # analyse runs into results/NAME.json
    python docs/build.py results.md                       # write the tables anew, as `make docs`

A table stands between `<!-- table: NAME KIND ARMS -->` and `<!-- end -->`; without arms it shows
all. Pairs of a frontier's families are asked for as ONE:OTHER. The JSON files are what
`narrowtune report RUN --json` prints of all replicates together, rounded to five digits, each ARM
compared with an OTHER, and what `narrowtune explain RUN` found where it was asked.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cells import change, percent, table
from drifted import TABLES as DRIFTED
from drifted import shown
from explained import TABLES as EXPLAINED
from frontiers import TABLES as FRONTIERS

from narrowtune.record import BASE

if TYPE_CHECKING:
    from narrowtune.analysis import Run
    from narrowtune.record import Record

HERE = Path(__file__).parent
MARK = re.compile(r"(<!-- table: (\S+) (\S+)((?: \S+)*) -->\n).*?(<!-- end -->)", re.DOTALL)
Analysis = dict[str, Any]


def results_page() -> str:
    """The page with all of its tables written anew."""
    return MARK.sub(_table, (HERE / "results.md").read_text(encoding="utf-8"))


def _table(found: re.Match[str]) -> str:
    opening, name, kind, arms, end = found.groups()
    analysis = json.loads((HERE / "results" / f"{name}.json").read_text(encoding="utf-8"))
    for kind_of_row in ("arms", "findings", "yes_no"):
        if (chosen := arms.split()) and kind_of_row in analysis:
            rows = analysis[kind_of_row]
            # In the order asked for; the base is in no list of arms, and always shown.
            asked = ("base", *chosen)
            kept = [row for row in rows if row["arm"] in asked]
            analysis[kind_of_row] = sorted(kept, key=lambda row: asked.index(row["arm"]))
    return f"{opening}\n{TABLES[kind](analysis | {'asked': arms.split()})}\n{end}"


def summary(analysis: Analysis) -> str:
    """What every arm learned and kept."""
    heads = (
        "arm", "trains", "runs", "learning", "held-out, end", "held-out, worst",
        "forgetting of skills", "skills, end", "seed noise",
    )  # fmt: skip
    rows = [
        (
            arm["arm"],
            f"{100 * arm['trained']:.1f} %",
            str(arm["runs"]),
            change(arm["learning"]),
            change(arm["held_out"]["mean"]),
            change(arm["held_out_worst"]["mean"]),
            change(arm["forgetting"]),
            change(arm["overall"]),
            "-" if arm["seed_spread"] is None else f"±{100 * arm['seed_spread']:.1f}",
        )
        for arm in analysis["arms"]
    ]
    return table(heads, rows)


def after_skill(analysis: Analysis) -> str:
    """The held-out change right after each skill, wherever in the order it stood."""
    skills = list(analysis["arms"][0]["held_out_after_skill"])
    rows = [
        (arm["arm"], *(change(arm["held_out_after_skill"][skill]["mean"]) for skill in skills))
        for arm in analysis["arms"]
    ]
    return table(("arm", *skills), rows)


def forms(analysis: Analysis) -> str:
    """The form of held-out answers: how many are foreign, and what became of the lost ones."""
    heads = (
        "arm", "after", "foreign answers", "their forms", "answers lost", "of them foreign",
        "of them begun right",
    )  # fmt: skip
    rows = [
        (
            arm["arm"] if place == 0 else "",
            one["skill"],
            change(one["share"], mark=False),
            ", ".join(f"{form} {100 * s:.0f} %" for form, s in one["forms"].items() if s >= 0.01),
            str(one["lost"]),
            percent(one["lost_foreign"]),
            percent(one["lost_begun"]),
        )
        for arm in analysis["arms"]
        for place, one in enumerate(arm["answer_forms"])
    ]
    return table(heads, rows)


def recovery(analysis: Analysis) -> str:
    """What of each clear drop came back by the end."""
    heads = ("arm", "during", "fell by", "came back", "share")
    rows = [
        (
            arm["arm"] if place == 0 else "",
            one["stage"],
            change(one["drop"]),
            change(one["regained"]),
            f"{100 * one['share']:.0f} % [{_end(one['low'])}, {_end(one['high'])}]",
        )
        for arm in analysis["arms"]
        for place, one in enumerate(arm["recovery"])
    ]
    return table(heads, rows)


def matrix(analysis: Analysis) -> str:
    """Every skill's score after every stage, of a run of one order: the accuracy matrix."""
    skills = [stage["name"] for stage in analysis["experiment"]["stages"]]
    rows = [
        (
            "base" if one["arm"] == BASE else one["arm"],
            "-" if one["arm"] == BASE else one["stage"],
            *(f"{100 * one['scores'][skill]:.0f}" for skill in skills),
            f"{100 * one['held_out']:.1f}",
        )
        for one in analysis["matrix"]
    ]
    return table(("arm", "after", *skills, "held-out, mean"), rows)


def pairs(analysis: Analysis) -> str:
    """Arms compared with each other, replicate by replicate on the same samples."""
    rows = [
        (one["arm"], one["other"], change(one["learned"]), change(one["kept"]), one["verdict"])
        for one in analysis["pairs"]
    ]
    return table(("arm", "against", "learned more by", "kept more by", "verdict"), rows)


TABLES: dict[str, Callable[[Analysis], str]] = {
    "summary": summary,
    "after-skill": after_skill,
    "forms": forms,
    "recovery": recovery,
    "matrix": matrix,
    "pairs": pairs,
    **DRIFTED,
    **EXPLAINED,
    **FRONTIERS,
}


def _end(bound: float | None) -> str:
    return "open" if bound is None or abs(bound) > 10 else f"{100 * bound:.0f}"


def analysed(folders: Sequence[Path], compared: Sequence[str]) -> Analysis:
    """The analysis of repeated runs without their single replicates, rounded."""
    from narrowtune.analysis import compare_pooled, together_to_dict
    from narrowtune.analysis.export import comparison_to_dict
    from narrowtune.analysis.frontier import frontier
    from narrowtune.analysis.frontier_export import frontier_to_dict
    from narrowtune.analysis.together import Part, together

    record, runs = together([Part(str(folder), *runs_of(folder)) for folder in folders])
    found = together_to_dict(record, runs)
    cost = {row.arm: row for one in runs for row in one.record.cost}
    found["arms"] = [arm for arm in found["arms"] if arm["arm"] in cost]  # of the others nothing
    for arm in found["arms"]:
        row = cost[arm["arm"]]
        arm["trained"] = row.trained_numel / row.total_numel
    del found["against_widest"]
    if found["drift"]:
        found["drift"]["after_stages"] = [
            shown(one) for one in found["drift"]["after_stages"] if one["arm"] != BASE
        ]
    given = [pair.split(":") for pair in compared]
    found["pairs"] = [comparison_to_dict(compare_pooled(runs, *pair)) for pair in given]
    if any(arm.of for arm in record.experiment.arms) and (curves := frontier(runs)):
        found["frontier"] = frontier_to_dict(curves)
    if len(runs) == 1:
        found["matrix"] = list(scores_of(runs[0].record))
    complete = [f"order-{one.order}/seed-{one.seed}" for one in runs]
    return rounded(
        found
        | explanations_of(folders)
        | {
            "complete": complete,
            "experiment": record.experiment.model_dump(mode="json", exclude_defaults=True),
            "environment": runs[-1].record.environment,
        }
    )


def scores_of(record: Record) -> Iterator[Analysis]:
    """Base and arms after every stage: each skill's score, and the held-out mean."""
    table: dict[tuple[str, str], dict[str, dict[str, float]]] = {}
    for row in record.scores:
        roles = table.setdefault((row.arm, row.stage), {"target": {}, "held_out": {}})
        roles[row.role][row.task] = row.value
    for (arm, stage), roles in table.items():
        held_out = roles["held_out"].values()
        mean = sum(held_out) / len(held_out) if held_out else 0.0
        yield {"arm": arm, "stage": stage, "scores": roles["target"], "held_out": mean}


def explanations_of(folders: Sequence[Path]) -> Analysis:
    """What `explain` found in runs, together; nothing where it was not asked."""
    from narrowtune.record import read_record
    from narrowtune.record.explanation import EXPLANATION_NAME, read_explanation
    from narrowtune.report.explaining import Answers, detections, findings

    found: Analysis = {}
    for folder in folders:
        place = folder / "explain"
        if not (place / EXPLANATION_NAME).exists():
            continue
        explanation = read_explanation(place)
        answers = Answers(place, read_record(folder), explanation)
        # Each task after each stage fills a report, but no table here.
        rows = [one.to_dict() for one in findings(answers) if "all" in (one.stage, one.task)]
        told = [one.to_dict() for one in detections(answers)]
        found["explained"] = explanation.model_dump(mode="json")
        found["findings"] = found.get("findings", []) + rows
        found["yes_no"] = found.get("yes_no", []) + told
    return found


def runs_of(folder: Path) -> tuple[Record, list[Run]]:
    """A run's record, and its replicates that are complete; itself where it ran once."""
    from narrowtune.analysis import Run
    from narrowtune.record import read_record
    from narrowtune.report import read_runs
    from narrowtune.report.predictions import read_samples

    record = read_record(folder)
    if not record.replicates:
        return record, [Run(record, read_samples(folder, record))]
    return record, [one for one in read_runs(folder, record) if one.record.status == "complete"]


def rounded(value: Any) -> Any:
    """The same with five digits after the point."""
    if isinstance(value, float):
        return round(value, 5)
    if isinstance(value, dict):
        return {key: rounded(one) for key, one in value.items()}
    return [rounded(one) for one in value] if isinstance(value, list) else value


def main() -> None:
    """Analyse one run."""
    if len(sys.argv) < 3:
        raise SystemExit(__doc__)
    _, name, run, *compared = sys.argv
    path = HERE / "results" / f"{name}.json"
    path.parent.mkdir(exist_ok=True)
    text = json.dumps(
        analysed([Path(one) for one in run.split(",")], compared), indent=1, ensure_ascii=False
    )
    path.write_text(text + "\n", encoding="utf-8")
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
