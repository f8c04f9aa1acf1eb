"""Questions on the same image taught together, under `transformers.Trainer`.

A data set whose items are lists of samples, one list an image: the trainer shuffles images, and
narrowtune's collator passes each of them through the model once for all its questions.

python examples/own_loop/packed_questions.py MODEL DATA OUT [TERM...]
"""

import sys
from collections.abc import Sequence

from transformers import Trainer, TrainingArguments

import narrowtune as nt
from narrowtune.data import encode_all, read_examples
from narrowtune.models.packed import attending_by_segments
from narrowtune.models.processing import load_processing
from narrowtune.training.collator import PackingCollator, together

TERMS = ["language.mlp.gate", "language.mlp.up"]


def main(name: str, data: str, out: str, terms: Sequence[str] = TERMS) -> None:
    model, processing = nt.load(name, device="cpu"), load_processing(name)
    samples = encode_all(read_examples(data), processing)
    images = together(samples, processing.image_token_id, most=8)

    selection = nt.Anatomy.of(model).select(terms)
    ledger = nt.Ledger(model, selection)
    selection.apply(model)

    arguments = TrainingArguments(
        out,
        learning_rate=1e-3,
        weight_decay=0.1,
        per_device_train_batch_size=2,  # images: with all their questions, up to 16 samples
        num_train_epochs=2,
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
    )
    collator = PackingCollator(model, processing)
    trainer = Trainer(model, arguments, train_dataset=images, data_collator=collator)
    with attending_by_segments(model):  # nothing is computed from question to question
        trainer.train()

    print(f"{len(samples)} samples in {len(images)} items")
    print(f"frozen tensors changed: {ledger.changed() or 'none'}")
    nt.Delta.of(ledger, base=name).save(f"{out}/delta.safetensors")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4:] or TERMS)
