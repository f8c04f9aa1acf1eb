"""Gradients of an embedding that is tied to the head, without a second tensor of that size.

The head's gradient is dense: every token's row has a share in every loss. The embedding's own share
is in the rows of the batch's tokens alone, and PyTorch would write it as a dense tensor too, to add
the two into a third. Written as rows (`sparse` of `torch.nn.Embedding`) it is added in place.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from narrowtune.models.supervised import output_head


@contextmanager
def tied_rows_alone(model: nn.Module) -> Iterator[None]:
    """While the context lasts, a trained tied embedding's gradient is its rows', added in place.

    Its sum is the same but for rounding. A batch without any loss at the head leaves it sparse.
    """
    embedding = _tied(model)
    if embedding is None:
        yield
        return
    embedding.sparse = True
    try:
        yield
    finally:
        embedding.sparse = False


def _tied(model: Any) -> nn.Embedding | None:
    """The embedding, if it is a plain one, trained, and its weight the head's too."""
    try:
        found, head = model.get_input_embeddings(), output_head(model)
    except (AttributeError, NotImplementedError, TypeError):
        return None
    # Exactly this class: others scale what they look up, or look up parts.
    if type(found) is not nn.Embedding or found.sparse or found.scale_grad_by_freq:
        return None
    tied = found.weight is getattr(head, "weight", None)
    return found if tied and found.weight.requires_grad else None
