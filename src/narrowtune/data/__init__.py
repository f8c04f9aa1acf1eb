"""Data files, loss masks and batches. Reading and checking a file needs no torch."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from narrowtune.data.example import Example, ImagePart, Message, Part, TextPart
from narrowtune.data.formats import (
    check_file,
    read_checked,
    read_examples,
    read_rows,
    scan_file,
)

if TYPE_CHECKING:
    from narrowtune.data.batching import Batch, collate
    from narrowtune.data.encoding import Encoded, encode, encode_all, encode_prompt, show_mask
    from narrowtune.data.order import epoch_order, order_digest

# Those that import torch, or are only wanted beside it, are fetched when first asked for.
_LATER = {
    "Batch": "batching",
    "Encoded": "encoding",
    "collate": "batching",
    "encode": "encoding",
    "encode_all": "encoding",
    "encode_prompt": "encoding",
    "epoch_order": "order",
    "order_digest": "order",
    "show_mask": "encoding",
}

__all__ = [
    "Batch",
    "Encoded",
    "Example",
    "ImagePart",
    "Message",
    "Part",
    "TextPart",
    "check_file",
    "collate",
    "encode",
    "encode_all",
    "encode_prompt",
    "epoch_order",
    "order_digest",
    "read_checked",
    "read_examples",
    "read_rows",
    "scan_file",
    "show_mask",
]


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_LATER[name]}"), name)
