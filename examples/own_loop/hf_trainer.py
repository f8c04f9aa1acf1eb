"""narrowtune's selection under `transformers.Trainer`.

python examples/own_loop/hf_trainer.py MODEL OUT [TERM...]
"""

import sys
from collections.abc import Sequence

from texts import TEXTS
from transformers import AutoTokenizer, DataCollatorForLanguageModeling, Trainer, TrainingArguments

import narrowtune as nt

TERMS = ["language.mlp.gate", "language.mlp.up"]


def main(name: str, out: str, terms: Sequence[str] = TERMS) -> None:
    model, tokenizer = nt.load(name, device="cpu"), AutoTokenizer.from_pretrained(nt.resolve(name))
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token

    selection = nt.Anatomy.of(model).select(terms)
    ledger = nt.Ledger(model, selection)
    selection.apply(model)

    arguments = TrainingArguments(
        out,
        learning_rate=1e-3,
        weight_decay=0.1,
        per_device_train_batch_size=4,
        num_train_epochs=2,
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
    )
    Trainer(
        model,
        arguments,
        train_dataset=[tokenizer(text) for text in TEXTS],
        data_collator=DataCollatorForLanguageModeling(tokenizer, mlm=False),
    ).train()

    print(f"frozen tensors changed: {ledger.changed() or 'none'}")
    nt.Delta.of(ledger, base=name).save(f"{out}/delta.safetensors")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3:] or TERMS)
