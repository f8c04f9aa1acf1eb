"""The proof of freezing: a hash of everything, before and after."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from narrowtune.anatomy import Region, Selection
from narrowtune.anatomy.windows import plain_tensors

Regions = Mapping[str, Region | None]


@dataclass(frozen=True)
class Snapshot:
    """Hashes of a model at one moment.

    Attributes:
        whole: SHA-256 of every parameter and buffer, by name, a tied one once. Non-persistent
            buffers count too: they reach no file, but they change what the model computes.
        rest: The same of the untrained entries of each sliced parameter.
        trained: Which parameters are trained, with which entries.
        in_checkpoint: The names that a checkpoint holds.
    """

    whole: Mapping[str, str]
    rest: Mapping[str, str]
    trained: Regions
    in_checkpoint: frozenset[str]

    @classmethod
    def of(cls, model: nn.Module, trained: Regions) -> Snapshot:
        """The model as it stands; a selection may be applied to it or not."""
        whole, rest = {}, {}
        for name, tensor in plain_tensors(model):
            whole[name] = hash_tensor(tensor)
            if (region := trained.get(name)) is not None:
                others = region.complement(tensor.shape[region.dim])
                rest[name] = hash_tensor(others.take(tensor.detach()))
        return cls(whole, rest, trained, frozenset(model.state_dict()))

    @property
    def frozen(self) -> dict[str, str]:
        """Hashes of all that is not trained, the rest of sliced parameters included."""
        others = {name: it for name, it in self.whole.items() if name not in self.trained}
        return others | dict(self.rest)

    @property
    def digest(self) -> str:
        """SHA-256 over all that a checkpoint holds: the identity of the weights."""
        return self._digest(self.whole)

    @property
    def frozen_digest(self) -> str:
        """SHA-256 over all that a checkpoint holds and that is not trained."""
        return self._digest(self.frozen)

    def _digest(self, hashes: Mapping[str, str]) -> str:
        names = sorted(hashes.keys() & self.in_checkpoint)
        return hashlib.sha256("".join(f"{n} {hashes[n]}\n" for n in names).encode()).hexdigest()


class Ledger:
    """What is frozen in a model, as it was when the ledger was opened.

    Args:
        model: The model, unwrapped; a selection may be applied to it or not.
        selection: What is trained; all else is frozen, the other entries of sliced tensors too.
    """

    def __init__(self, model: nn.Module, selection: Selection) -> None:
        self.model = model
        self.selection = selection
        self.before = self.look()

    def look(self) -> Snapshot:
        """The model as it is now."""
        return Snapshot.of(self.model, self.selection.regions)

    @property
    def frozen(self) -> int:
        """How many tensors are watched: parameters, buffers, and the rest of sliced ones."""
        return len(self.before.frozen)

    def changed(self, after: Snapshot | None = None) -> tuple[str, ...]:
        """Names of what is no longer bit-identical; empty while freezing holds."""
        return changed(self.before.frozen, (after or self.look()).frozen)


def fingerprint(model: nn.Module) -> dict[str, str]:
    """SHA-256 of every parameter and buffer, by name."""
    return dict(Snapshot.of(model, {}).whole)


def changed(before: Mapping[str, str], after: Mapping[str, str]) -> tuple[str, ...]:
    """Names whose hash differs, or that appeared or vanished; empty when freezing held."""
    names = sorted(before.keys() | after.keys())
    return tuple(name for name in names if before.get(name) != after.get(name))


def model_digest(model: nn.Module) -> str:
    """SHA-256 over the names, dtypes, shapes and bits of all that a checkpoint holds."""
    return Snapshot.of(model, {}).digest


def hash_tensor(tensor: Tensor) -> str:
    """SHA-256 of a tensor's dtype, shape and bytes: bit-identity, where -0.0 differs from 0.0."""
    digest = hashlib.sha256(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
    flat = tensor.detach().to("cpu").contiguous().reshape(-1)
    digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()
