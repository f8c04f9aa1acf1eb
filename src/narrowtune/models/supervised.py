"""The output head at chosen positions only, for any model class.

A vision-language batch has hundreds of prompt positions for one answer token, and its head
makes a row of 150,000 numbers for each. Only the rows that a loss or a score reads are computed:
a hook on the model's output embedding hands it just those hidden states, so no model class
needs a case of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


def supervised_logits(
    model: nn.Module, inputs: Mapping[str, Tensor], predicts: Tensor, **options: Any
) -> Tensor:
    """Logits at the positions marked in `predicts`, in row-major order.

    Args:
        model: A transformers model with an output head (`get_output_embeddings`).
        inputs: Keyword arguments of its forward, without labels.
        predicts: Bool, [batch, tokens]; True where the next token's logits are wanted.
        options: Further keyword arguments of the forward.

    Returns:
        Float, [number of True in `predicts`, vocabulary].
    """
    logits: Tensor = output_at(model, inputs, predicts, use_cache=False, **options).logits
    return logits.reshape(-1, logits.shape[-1])


def output_at(
    model: nn.Module, inputs: Mapping[str, Tensor], predicts: Tensor, **options: Any
) -> Any:
    """The model's whole output (its cache too), with logits only where `predicts` is True.

    Args:
        model: A transformers model with an output head.
        inputs: Keyword arguments of its forward, without labels.
        predicts: Bool, [batch, tokens]; may be False everywhere, which spares the head.
        options: Further keyword arguments of the forward.
    """
    with _head_at(output_head(model), predicts):
        return model(**inputs, **options)


def predicting(supervised: Tensor) -> Tensor:
    """Marks the position before each supervised token: the one whose logits predict it.

    Args:
        supervised: Bool, [batch, tokens]; True on the tokens that are learned. A token at
            position 0 has no predecessor and must not be supervised.
    """
    shifted = torch.zeros_like(supervised)
    shifted[:, :-1] = supervised[:, 1:]
    return shifted


def output_head(model: nn.Module) -> nn.Module:
    """The module that turns hidden states into logits.

    Raises:
        TypeError: If the model class has none: it is no language model.
    """
    source: Any = model
    head = source.get_output_embeddings() if hasattr(source, "get_output_embeddings") else None
    if not isinstance(head, nn.Module):
        raise TypeError(f"{type(model).__name__} has no output head")
    return head


@contextmanager
def _head_at(head: nn.Module, positions: Tensor) -> Iterator[None]:
    def gather(_module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        hidden, *rest = args  # [batch, tokens, hidden] -> [1, chosen, hidden]
        return (hidden[positions.to(hidden.device)].unsqueeze(0), *rest)

    handle = head.register_forward_pre_hook(gather)
    try:
        yield
    finally:
        handle.remove()
