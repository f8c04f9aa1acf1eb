"""Fast forward passes of the vision towers over equally large images.

The Qwen2.5-VL tower of transformers attends image by image in a Python loop; images of one size can
be stacked instead. `check` shows that the result is the same.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

PATCH, MERGE = 14, 2
CELLS = 9


def pixels(images: Tensor) -> Tensor:
    """uint8 images (B, 84, 84, 3) as the image processors normalise them: (B, 3, 84, 84)."""
    return (images.permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.5


def patches(images: Tensor) -> Tensor:
    """Normalised images as Qwen's rows of patches: (B, 36, 3 * 2 * 14 * 14)."""
    count, cells = len(images), images.shape[1] // (PATCH * MERGE)
    split = pixels(images).reshape(count, 3, cells, MERGE, PATCH, cells, MERGE, PATCH)
    rows = split.permute(0, 2, 5, 3, 6, 1, 4, 7).unsqueeze(6)
    return rows.expand(-1, -1, -1, -1, -1, -1, 2, -1, -1).reshape(count, -1, 6 * PATCH * PATCH)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions; x is (B, heads, S, head_dim)."""
    left, right = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-right, left), dim=-1) * sin


def attend(attention: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Attention within each image of a stack; x is (B, S, width)."""
    count, length, width = x.shape
    joined = attention.qkv(x).view(count, length, 3, attention.num_heads, -1)
    q, k, v = joined.permute(2, 0, 3, 1, 4).unbind(0)
    q, k = rotate(q, cos, sin).to(v.dtype), rotate(k, cos, sin).to(v.dtype)
    # Written out: on a CPU the fused kernel's backward pass in bfloat16 is several times slower.
    scores = (q @ k.transpose(-1, -2)).float() * attention.scaling
    mixed = scores.softmax(-1).to(v.dtype) @ v
    return attention.proj(mixed.transpose(1, 2).reshape(count, length, width))


def positions(visual: Any, cells: int) -> tuple[Tensor, Tensor]:
    """Cosine and sine of the rows and columns of one image's patches, in merged order."""
    steps = torch.arange(cells * MERGE).view(cells, MERGE)
    rows = steps[:, None, :, None].expand(cells, cells, MERGE, MERGE).reshape(-1)
    columns = steps[None, :, None, :].expand(cells, cells, MERGE, MERGE).reshape(-1)
    device = next(visual.parameters()).device
    index = torch.stack((rows, columns), dim=-1).to(device)
    return visual.rotary_pos_emb(torch.zeros(1, device=device), index)


def see_qwen(model: Any, images: Tensor) -> Tensor:
    """The nine output tokens of each image: (B, 9, width)."""
    visual, rows = model.model.visual, patches(images)
    count, length, size = rows.shape
    x = functional.linear(rows, visual.patch_embed.proj.weight.view(-1, size))
    cos, sin = positions(visual, 3)
    for block in visual.blocks:
        x = x + attend(block.attn, block.norm1(x), cos, sin)
        x = x + block.mlp(block.norm2(x))
    return visual.merger(x.reshape(count * length, -1)).view(count, CELLS, -1)


def see_llava(model: Any, images: Tensor) -> Tensor:
    """The nine projected tokens of each image: (B, 9, width)."""
    tower, projector = model.model.vision_tower, model.model.multi_modal_projector
    return projector(tower(pixels(images), output_hidden_states=True).hidden_states[-1])


def arrange_llava(model: Any, seen: Tensor) -> Tensor:
    """The 21 tokens that LLaVA-OneVision shows its language model: whole image, then rows."""
    count, _, width = seen.shape
    newline = model.model.image_newline.to(seen.dtype).view(1, 1, 1, width)
    rows = torch.cat((seen.view(count, 3, 3, width), newline.expand(count, 3, 1, width)), dim=2)
    return torch.cat((seen, rows.reshape(count, 12, width)), dim=1)


def see(model: Any, images: Tensor) -> Tensor:
    """The nine tokens of each image, whichever the family."""
    return see_qwen(model, images) if hasattr(model.model, "visual") else see_llava(model, images)


def arrange(model: Any, seen: Tensor) -> Tensor:
    """The image tokens as they stand in the prompt."""
    return seen if hasattr(model.model, "visual") else arrange_llava(model, seen)


def check(model: Any, images: Tensor) -> float:
    """The largest difference from the model's own forward pass over the same images."""
    with torch.no_grad():
        mine = arrange(model, see(model, images))
        if hasattr(model.model, "visual"):
            grid = torch.tensor([[1, 6, 6]] * len(images))
            own = model.model.get_image_features(patches(images).flatten(0, 1), grid)
        else:
            twice = torch.stack((pixels(images),) * 2, dim=1)
            sizes = torch.tensor([[84, 84]] * len(images))
            own = model.model.get_image_features(twice, sizes)
    return float((mine.flatten(0, 1) - torch.cat(list(own.pooler_output))).abs().max())
