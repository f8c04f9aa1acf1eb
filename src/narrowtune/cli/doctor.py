"""`doctor`: what this machine offers a run."""

from __future__ import annotations

import json as json_module
from typing import Annotated

import typer


def doctor_command(
    json: Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")] = False,
) -> None:
    """Versions, devices, the dtype that `auto` means here, with its reason."""
    import torch

    from narrowtune.models.loading import choose_dtype, default_device
    from narrowtune.runner.environment import environment

    device = default_device()
    facts = environment(torch.device(device), 1)
    facts["dtype"] = str(choose_dtype("auto", device))
    facts["dtype_reason"] = _reason(device, facts["cpu_bfloat16"])
    if json:
        typer.echo(json_module.dumps(facts, indent=1))
        return
    for key, value in facts.items():
        shown = (
            ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else value
        )
        typer.echo(f"{key:>14}  {shown}")


def _reason(device: str, cpu_bfloat16: bool) -> str:
    if device != "cpu":
        return "bfloat16 on an accelerator, with fp32 masters of the trained weights"
    exact = "float32 on CPU: exact and reproducible; "
    if cpu_bfloat16:
        return exact + "set model.dtype to bfloat16 for speed"
    return exact + "bfloat16 is several times slower here, this CPU has no instructions for it"
