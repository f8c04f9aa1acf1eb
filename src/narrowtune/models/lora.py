"""Low-rank adapters beside chosen matrices, by PEFT: put on, trained, saved, merged, taken off."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from narrowtune.errors import InputError

if TYPE_CHECKING:
    from peft import PeftModel


@dataclass(frozen=True)
class Rank:
    """The shape of adapters, in PEFT's terms.

    Attributes:
        rank: Inner dimension of each pair of matrices.
        alpha: The change is scaled by alpha / rank, or by alpha / sqrt(rank) if `rank_stabilised`.
        dropout: On an adapter's input, while training.
        rank_stabilised: Of rsLoRA (arXiv 2312.03732).
        dora: Magnitudes apart from directions (arXiv 2402.09353).
    """

    rank: int = 16
    alpha: float = 32.0
    dropout: float = 0.0
    rank_stabilised: bool = False
    dora: bool = False

    def numel(self, rows: int, columns: int) -> int:
        """How many numbers adapt a matrix of these sizes."""
        return self.rank * (rows + columns) + (rows if self.dora else 0)


def adaptable(model: nn.Module, names: Iterable[str]) -> list[str]:
    """Those of these parameters that an adapter can stand for: untied matrices of linear layers.

    Args:
        model: The model, or its skeleton on the meta device.
        names: Whole parameters, as `named_parameters` gives them.
    """
    owners = [name for name, _ in model.named_parameters()]  # a tied one once
    linear = {f"{name}.weight" for name, one in model.named_modules() if type(one) is nn.Linear}
    tied = _shared(model)
    return [name for name in names if name in linear and name in owners and name not in tied]


class Adapters:
    """Adapters on a model, until they are merged.

    The model is changed in place and can be called as before; with its adapters new it computes
    bit by bit what it did (B starts at zero).

    Args:
        model: The model; all of its own parameters are frozen by this.
        names: What is adapted, each `adaptable`.
        shape: Of the adapters.
        seed: Draws A.

    Raises:
        InputError: PEFT is not installed.
    """

    def __init__(self, model: nn.Module, names: Sequence[str], shape: Rank, seed: int) -> None:
        modules = [re.escape(name.removesuffix(".weight")) for name in names]
        config = _peft().LoraConfig(
            r=shape.rank,
            lora_alpha=shape.alpha,
            lora_dropout=shape.dropout,
            use_rslora=shape.rank_stabilised,
            use_dora=shape.dora,
            # A list of names would match their ends too: another tower's layers.
            target_modules=rf"(?:{'|'.join(modules)})",
        )
        torch.manual_seed(seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of PEFT's use of transformers
            self._wrapped: PeftModel = _peft().get_peft_model(model, config)
        self.named = [(name, one) for name, one in model.named_parameters() if one.requires_grad]

    def save(self, folder: Path, base: str) -> None:
        """Write a folder that `PeftModel.from_pretrained(model, folder)` reads.

        Args:
            folder: Where to.
            base: Name of the model that the adapters belong on.
        """
        for config in self._wrapped.peft_config.values():
            config.base_model_name_or_path = base
        self._wrapped.save_pretrained(str(folder), save_embedding_layers=False)

    def merge(self) -> None:
        """Add the adapters to the matrices they stand beside, in place, and take them off."""
        wrapped: Any = self._wrapped
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            wrapped.merge_and_unload()


def _shared(model: nn.Module) -> set[str]:
    """Names of parameters that stand at several places."""
    places: dict[int, list[str]] = {}
    for name, one in model.named_parameters(remove_duplicate=False):
        places.setdefault(id(one), []).append(name)
    return {name for names in places.values() if len(names) > 1 for name in names}


def _peft() -> Any:
    try:
        import peft
    except ImportError as error:
        raise InputError(
            "method lora needs the package peft, which is not installed: "
            "pip install 'narrowtune[lora]'"
        ) from error
    return peft
