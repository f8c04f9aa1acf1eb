"""narrowtune's selection under TRL's `SFTTrainer` (pip install trl).

python examples/own_loop/trl_sft.py MODEL OUT [TERM...]
"""

import sys
from collections.abc import Sequence

from datasets import Dataset
from texts import TEXTS
from transformers import AutoTokenizer
from trl import SFTConfig, SFTTrainer

import narrowtune as nt

TERMS = ["language.mlp.gate", "language.mlp.up"]


def main(name: str, out: str, terms: Sequence[str] = TERMS) -> None:
    model, tokenizer = nt.load(name, device="cpu"), AutoTokenizer.from_pretrained(nt.resolve(name))

    selection = nt.Anatomy.of(model).select(terms)
    ledger = nt.Ledger(model, selection)
    selection.apply(model)

    arguments = SFTConfig(
        out,
        learning_rate=1e-3,
        weight_decay=0.1,
        per_device_train_batch_size=4,
        num_train_epochs=2,
        use_cpu=True,
        bf16=False,
        report_to=[],
        disable_tqdm=True,
    )
    SFTTrainer(
        model,
        arguments,
        train_dataset=Dataset.from_dict({"text": TEXTS}),
        processing_class=tokenizer,
    ).train()

    print(f"frozen tensors changed: {ledger.changed() or 'none'}")
    nt.Delta.of(ledger, base=name).save(f"{out}/delta.safetensors")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3:] or TERMS)
