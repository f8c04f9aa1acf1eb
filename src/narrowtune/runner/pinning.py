"""An experiment that starts from the base of another, whichever arms it has."""

from __future__ import annotations

from collections.abc import Iterator

from narrowtune.anatomy import TensorInfo
from narrowtune.experiment import Experiment
from narrowtune.runner.plan import Plan


def with_base_pinned(plan: Plan) -> Experiment:
    """The plan's experiment, its quantised base as it is now even when arms are taken away.

    What an arm trains is not quantised; `model.unquantized` says so where the arm is gone.
    """
    if plan.quantization is None:
        return plan.experiment
    terms = tuple(dict.fromkeys(_terms(plan)))
    model = plan.experiment.model.model_copy(update={"unquantized": terms})
    return plan.experiment.model_copy(update={"model": model})


def _terms(plan: Plan) -> Iterator[str]:
    """Of all that arms or terms keep as it is: words where a word names nothing that is packed."""
    assert plan.quantization is not None
    packed = {f"{path}.weight" for path in plan.quantization.modules}
    words = {one.term for one in plan.anatomy.parameters if one.name in packed}
    for tensor in _needed(plan):
        plain = tensor.slices is None and tensor.term not in words
        yield tensor.term if plain else f"name:{tensor.name}"


def _needed(plan: Plan) -> Iterator[TensorInfo]:
    named = plan.experiment.model.unquantized
    needs = {name for arm in plan.arms for name in arm.needs}
    needs |= {*plan.anatomy.select(named).trained} if named else set()
    blocks = tuple(f"{name}." for name in needs)
    for tensor in plan.anatomy.parameters:
        if tensor.name in needs or tensor.name.startswith(blocks):
            yield tensor
