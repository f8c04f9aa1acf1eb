"""What of an experiment's base is quantised: that which no arm trains."""

from __future__ import annotations

from narrowtune.models.quantization import check_quantization, quantization_for
from narrowtune.models.skeleton import build_skeleton, load_config
from narrowtune.record import Quantization
from narrowtune.runner.plan import Plan


def planned_quantization(plan: Plan, kind: str) -> Quantization | None:
    """The matrices that no arm trains, and no term of `model.unquantized` names.

    One base for all arms, so that they are compared on the same one.

    Args:
        plan: With its arms.
        kind: `none` or `nf4`.

    Raises:
        InputError: It can't be on this machine, or nothing is left.
    """
    spec = plan.experiment.model
    check_quantization(kind)
    stays = {f"arm {arm.name}": arm.needs for arm in plan.arms}
    if spec.unquantized:
        stays["unquantized"] = plan.anatomy.select(spec.unquantized).trained
    skeleton = build_skeleton(load_config(plan.model, spec.revision, spec.trust_remote_code))
    return quantization_for(skeleton, plan.anatomy, kind, stays)
