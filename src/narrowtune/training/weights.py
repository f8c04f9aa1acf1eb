"""The trained weights as the optimiser sees them: fp32, whatever the model computes in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn


class TrainedWeights:
    """fp32 masters of the trained parameters, and nothing for the frozen ones.

    An fp32 parameter is its own master. A bf16 parameter gets an fp32 copy that the optimiser
    moves: bf16 has 8 bits of mantissa, so updates below 1/256 of a weight would be lost.

    Args:
        named: Trained parameters of the model, by name.
        offloaded: Keep the masters, and with them gradients and the optimiser's moments, in the
            machine's memory (ZeRO-Offload, arXiv 2101.06840): an accelerator then holds weights
            and one micro-batch's gradients in the model's dtype. On a CPU they lie there anyway.
    """

    def __init__(self, named: Sequence[tuple[str, nn.Parameter]], offloaded: bool = False) -> None:
        self.names = [name for name, _ in named]
        self._model = [parameter for _, parameter in named]
        self.masters = [_master(parameter, offloaded) for parameter in self._model]
        self._reached: set[str] = set()

    @property
    def unreached(self) -> tuple[str, ...]:
        """Names of the parameters that no gradient has come to yet."""
        return tuple(name for name in self.names if name not in self._reached)

    @property
    def numel(self) -> int:
        """How many numbers are trained."""
        return sum(master.numel() for master in self.masters)

    def collect(self) -> None:
        """Add the gradients of a micro-batch to the masters', in fp32, and free the model's."""
        for name, parameter, master in zip(self.names, self._model, self.masters, strict=True):
            if parameter.grad is None:
                continue
            self._reached.add(name)
            if parameter.grad.is_sparse:  # of a tied embedding in a batch without any loss
                parameter.grad = parameter.grad.to_dense()
            if parameter is master:
                continue
            gradient = parameter.grad.to(master.device, master.dtype)
            master.grad = gradient if master.grad is None else master.grad.add_(gradient)
            parameter.grad = None

    def clip(self, max_norm: float) -> float:
        """Scale the gradients to an L2 norm of at most `max_norm`; the norm before."""
        return float(nn.utils.clip_grad_norm_(self.masters, max_norm, foreach=True))

    @torch.no_grad()
    def write_back(self) -> None:
        """Round the masters into the model's own dtype."""
        for parameter, master in zip(self._model, self.masters, strict=True):
            if parameter is not master:
                parameter.copy_(master)

    def groups(self, decay: float) -> list[dict[str, Any]]:
        """The masters as an optimiser takes them: matrices, which decay, and what does not.

        A bias of experts is a matrix, one row an expert: by its name it is none.
        """
        named = list(zip(self.names, self.masters, strict=True))
        matrices = [master for name, master in named if _decays(name, master)]
        vectors = [master for name, master in named if not _decays(name, master)]
        groups: list[dict[str, Any]] = [
            {"params": matrices, "weight_decay": decay},
            {"params": vectors, "weight_decay": 0.0},
        ]
        return [group for group in groups if group["params"]]

    def are_finite(self) -> bool:
        """Whether no master holds a NaN or an infinity."""
        return all(bool(master.isfinite().all()) for master in self.masters)

    def tensors(self) -> dict[str, Tensor]:
        """The masters by parameter name."""
        return {
            name: master.detach() for name, master in zip(self.names, self.masters, strict=True)
        }

    @torch.no_grad()
    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Set masters and model from what `tensors` gave earlier."""
        for name, master in zip(self.names, self.masters, strict=True):
            master.copy_(tensors[name])
        self.write_back()


def _master(parameter: nn.Parameter, offloaded: bool) -> nn.Parameter:
    device = torch.device("cpu") if offloaded else parameter.device
    if parameter.dtype == torch.float32 and parameter.device == device:
        return parameter
    return nn.Parameter(parameter.detach().to(device, torch.float32, copy=True))


def _decays(name: str, master: nn.Parameter) -> bool:
    return master.ndim > 1 and not name.endswith("bias")
