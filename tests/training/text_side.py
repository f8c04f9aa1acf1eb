"""What a batch of token ids asks of a model's processing."""

from __future__ import annotations

from typing import Any


class TextSide:
    """As much of a processing as token ids without images ask for."""

    name, pad_token_id, image_token_id = "tiny", 1, None

    def token_type_inputs(self, input_ids: Any) -> dict[str, Any]:
        return {}

    def pixel_inputs(self, images: Any, per_example: Any) -> dict[str, Any]:
        return {}
