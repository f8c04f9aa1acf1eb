"""The arms of several experiments in one list: the same arm once, others told apart by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from narrowtune.experiment import ArmSpec, Experiment
from narrowtune.experiment.sweep import cell_name

Arms = Mapping[str, ArmSpec]
"""An experiment's arms by their own names, with the names they get among all."""

Named = tuple[str, Experiment]


def arms_by_part(experiments: Sequence[Named]) -> Sequence[Arms]:
    """The arms that each experiment adds; one that an earlier one has too is left to it.

    Args:
        experiments: Each with the name of its run, which tells arms of one name apart where
            nothing simpler does.
    """
    found: list[dict[str, ArmSpec]] = [{} for _ in experiments]
    taken: set[str] = set()
    for name in dict.fromkeys(arm.name for _, one in experiments for arm in one.arms):
        for place, spec in _apart(experiments, name):
            if spec.name in taken:
                run = {"run": experiments[place][0]}
                spec = spec.model_copy(update={"name": cell_name(name, run)})
            taken.add(spec.name)
            found[place][name] = spec
    return found


def _apart(experiments: Sequence[Named], name: str) -> list[tuple[int, ArmSpec]]:
    """The arms of one name, each way of teaching once, under names that differ."""
    kept: list[tuple[int, ArmSpec, dict[str, Any]]] = []
    for place, (_, one) in enumerate(experiments):
        for arm in one.arms:
            way = _way(one, arm)
            if arm.name == name and way not in [other for _, _, other in kept]:
                kept.append((place, arm, way))
    if len(kept) == 1:
        return [(place, arm) for place, arm, _ in kept]
    ways = [way for _, _, way in kept]
    varying = [key for key in _keys(ways) if any(way.get(key) != ways[0].get(key) for way in ways)]
    simple = all(key in way for key in varying for way in ways) and "how" not in varying
    named = []
    for place, arm, way in kept:
        values = {k: way[k] for k in varying} if simple else {"run": experiments[place][0]}
        update = {
            "name": cell_name(name, values),
            "of": arm.family if "how" not in varying else None,
        }
        named.append((place, arm.model_copy(update=update)))
    return named


def _keys(ways: Sequence[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(key for way in ways for key in way))


def _way(experiment: Experiment, arm: ArmSpec) -> dict[str, Any]:
    """How an arm is taught: its training keys, by stage where they differ; all else as `how`."""
    stages = sorted(experiment.stages, key=lambda stage: stage.name)
    merged = [experiment.training.merged(one.training, arm.training).model_dump() for one in stages]
    how = arm.model_dump(exclude={"name", "of", "training", "drift", "sweep"})
    found: dict[str, Any] = {"how": how | {"drift": arm.drift or experiment.drift}}
    for key in [key for key in merged[0] if key != "micro_batch_size"]:  # it changes no result
        values = [one[key] for one in merged]
        if all(value == values[0] for value in values):
            found[key] = values[0]
        else:
            found |= {f"{one.name}.{key}": v for one, v in zip(stages, values, strict=True)}
    return found
