"""A recommendation in sentences made by rule: what to use, and what is not known."""

from __future__ import annotations

from collections.abc import Iterator

from narrowtune.analysis.choosing import Choice
from narrowtune.analysis.recommending import Candidate, Recommendation
from narrowtune.analysis.wording import bounds, counted, listed, signed, with_bounds
from narrowtune.experiment import ArmSpec
from narrowtune.experiment.sweep import value_name

MOST_NAMED = 4


def verdict(found: Recommendation) -> str:
    """What to use, in a sentence or two."""
    if found.choice is None:
        return "Nothing is recommended: no candidate was taught and scored to the end."
    best, loss = found.choice.best, found.search.allowed_loss
    numbers = f"it learned {with_bounds(best.learning)} and held-out scores moved by "
    numbers += f"{with_bounds(best.kept)}, where {signed(-loss)} were allowed"
    if not found.choice.within:
        clearly = "clearly lose more" if best.room(loss) == "over" else "lose more, by value,"
        return (
            f"Nothing is recommended: all candidates {clearly} than allowed. {best.arm} loses "
            f"least: {numbers}. Allow more, or try lower rates, replay or a drift budget."
        )
    if not found.choice.learned:
        return (
            "Nothing is recommended: no candidate within the allowed loss clearly learned, the "
            f"best of {found.choice.of} being high by chance. {best.arm} comes first: {numbers}."
        )
    doubt = "" if best.room(loss) == "within" else "; whether it keeps to that is not clear"
    return f"Use {best.arm}: {numbers}{doubt}."


def unknown(found: Recommendation) -> list[str]:
    """What the search has not shown, the weightiest first."""
    if found.choice is None or found.spec is None:
        return []
    return [
        *_of_the_loss(found, found.choice),
        *_of_the_length(found),
        *_of_rivals(found.choice),
        *_of_the_edge(found, found.spec),
        *_of_others(found),
        "How much another seed or order of the skills would change: one was tried.",
        f"How good it is on other samples: it is the best of {found.choice.of} by these very "
        "scores, so they flatter it, the more the closer the others are. Score it on samples that "
        "no search has seen.",
    ]


def _of_the_loss(found: Recommendation, choice: Choice) -> Iterator[str]:
    if choice.within and choice.best.room(found.search.allowed_loss) == "unclear":
        yield (
            "Whether it stays within the allowed loss: the interval of its held-out change, "
            f"{bounds(choice.best.kept)}, reaches below {signed(-found.search.allowed_loss)} "
            f"points. Test more held-out samples ({choice.best.kept.n} now)."
        )
    if choice.doubtful:
        names = [f"{one.arm} ({bounds(one.kept)})" for one in choice.doubtful]
        verb = "learns" if len(names) == 1 else "learn"
        yield (
            f"Whether {_some(names)}, which {verb} more, would stay within it: by value beyond, "
            "but not clearly."
        )


def _of_the_length(found: Recommendation) -> Iterator[str]:
    if not found.whole and found.rung is not None:
        yield (
            f"What the whole training does: there was time for {found.rung.steps:.0%} of its steps "
            f"({found.steps}). More steps learn more, and may lose more."
        )


def _of_rivals(choice: Choice) -> Iterator[str]:
    if choice.rivals:
        names = [
            one.other if one.learned is None else f"{one.other} ({bounds(one.learned)})"
            for one in choice.rivals
        ]
        yield (
            f"Whether it learns more than {_some(names)}: in brackets the difference's interval, "
            "which holds 0."
        )


def _of_the_edge(found: Recommendation, spec: ArmSpec) -> Iterator[str]:
    """Where the best rate is the last one tried on either side."""
    assert found.choice is not None
    rates = {
        name: rate for name, rate in _rates(found).items() if name.partition("@")[0] == spec.family
    }
    own = spec.training.learning_rate
    if own is None or len(rates) < 2:
        return
    best, last = ("higher", "highest") if own == max(rates.values()) else ("lower", "lowest")
    if own in (max(rates.values()), min(rates.values())):
        rate = value_name(own)
        yield f"Whether a {best} rate is better: {rate} is the {last} tried of {spec.family}."


def _rates(found: Recommendation) -> dict[str, float]:
    """The learning rates of candidates that were tried, by name; read from their cells' names."""
    rates = {}
    for one in found.candidates:
        for part in one.name.partition("@")[2].split(","):
            key, _, value = part.partition("=")
            if key == "learning_rate" and one.fate != "not tried":
                rates[one.name] = float(value)
    return rates


def _of_others(found: Recommendation) -> Iterator[str]:
    early = found.of_fate("dropped")
    if early:
        short = min(one.rung.steps for one in early if one.rung is not None)
        they = "it was" if len(early) == 1 else "they were"
        yield (
            f"Whether {_named(early)} would have come back: {they} dropped after a shorter "
            f"training (from {short:.0%} of the steps)."
        )
    cut = found.of_fate("not finished")
    if cut:
        yield f"How {_named(cut)} would have ended: the time ran out."
    untried = [one for one in found.of_fate("not tried") if one.name in found.search.candidates]
    if untried:
        yield f"Anything about {_named(untried)}: there was no time to try."


def _named(candidates: list[Candidate]) -> str:
    return _some([one.name for one in candidates])


def _some(names: list[str]) -> str:
    """All names, or the first few and how many more."""
    if len(names) <= MOST_NAMED:
        return listed(names)
    first, rest = names[: MOST_NAMED - 1], len(names) - MOST_NAMED + 1
    return f"{', '.join(first)} and {counted(rest, 'other')}"
