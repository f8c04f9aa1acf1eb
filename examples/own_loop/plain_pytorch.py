"""narrowtune's selection under a loop of your own.

python examples/own_loop/plain_pytorch.py MODEL OUT [TERM...]
"""

import sys
from collections.abc import Sequence

import torch
from texts import TEXTS
from transformers import AutoTokenizer

import narrowtune as nt

TERMS = ["language.mlp.gate", "language.mlp.up"]


def main(name: str, out: str, terms: Sequence[str] = TERMS) -> None:
    model, tokenizer = nt.load(name, device="cpu"), AutoTokenizer.from_pretrained(nt.resolve(name))

    selection = nt.Anatomy.of(model).select(terms)
    ledger = nt.Ledger(model, selection)
    trained = selection.apply(model)

    optimizer = torch.optim.AdamW([p for _, p in trained], lr=1e-3, weight_decay=0.1)
    for text in TEXTS:
        tokens = tokenizer(text, return_tensors="pt").input_ids
        loss = model(input_ids=tokens, labels=tokens).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    print(f"loss {loss.item():.3f}; frozen tensors changed: {ledger.changed() or 'none'}")
    nt.Delta.of(ledger, base=name).save(f"{out}/delta.safetensors")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3:] or TERMS)
