"""First half of the alignment: the projector learns to write picture patches as words.

    python align.py --model model/untrained --data data --out model/words --work WORK

Nothing but the projector is trained, and neither the encoder nor the language model runs while it
is: the encoder's features are computed once and kept in WORK, and of the language model only its
table of words is needed. A picture's projected patches are averaged and pulled towards the row (for
a name of several tokens, the mean of the rows) of its name in that table, and away from the other
names' (cross-entropy over the cosines). The second half, through the language model, is
`narrowtune run alignment.yaml`.

Interrupted, it goes on from WORK's last checkpoint.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from build_model import save
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoModelForImageTextToText, AutoProcessor

from narrowtune.data import read_examples
from narrowtune.data.images import open_image

TEMPERATURE = 0.07
PATCHES = 24  # of a picture, drawn anew at every step: cheaper, and no patch is relied upon
SAVE_EVERY = 100
MEASURED = ("cifar10", "emoji_names")


@dataclass
class Pictures:
    """Features of pictures and the names they bear.

    Attributes:
        features: (pictures, patches, width) in bfloat16.
        names: The place of each picture's name in the list of all names.
        photo: Which pictures are photographs, the others being emoji.
    """

    features: Tensor
    names: Tensor
    photo: Tensor


def gather(model: Any, processor: Any, file: Path, names: dict[str, int], keep: Path) -> Pictures:
    """The pictures of a data file, their features from `keep` where they lie there already.

    Names met for the first time are added to `names`.
    """
    examples = read_examples(file)
    answers = [example.messages[-1].text for example in examples]
    places = torch.tensor([names.setdefault(answer, len(names)) for answer in answers])
    photo = torch.tensor([example.id.startswith("cifar10") for example in examples])
    ids = [example.id for example in examples]
    if keep.exists() and (kept := torch.load(keep))["ids"] == ids:
        return Pictures(kept["features"], places, photo)
    pictures = [open_image(example.images[0]) for example in examples]
    features = see(model, processor, pictures)
    keep.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"ids": ids, "features": features}, keep)
    return Pictures(features, places, photo)


@torch.no_grad()
def see(model: Any, processor: Any, pictures: Sequence[Any], batch: int = 32) -> Tensor:
    """What the projector is given for these pictures: (pictures, patches, width), bfloat16."""
    parts = []
    for start in range(0, len(pictures), batch):
        pixels = processor.image_processor(pictures[start : start + batch], return_tensors="pt")
        with torch.autocast("cpu", dtype=torch.bfloat16):
            states = model.model.vision_tower(
                pixels["pixel_values"], output_hidden_states=True
            ).hidden_states
        layers = [states[layer][:, 1:] for layer in model.config.vision_feature_layer]
        parts.append(torch.cat(layers, dim=-1).bfloat16())
    return torch.cat(parts)


def standardise(projector: Any, features: Tensor, size: float) -> None:
    """Starts the projector on features of mean 0 and deviation 1, writing rows of a word's size.

    The layers' states differ fortyfold in scale, and a LLaVA's projector has no norm of its own.
    """
    sample = features[:: max(1, len(features) // 500)].float().flatten(0, 1)
    mean, deviation = sample.mean(dim=0), sample.std(dim=0) + 1e-6
    with torch.no_grad():
        for linear in (projector.linear_1, projector.linear_2):
            nn.init.normal_(linear.weight, std=linear.in_features**-0.5)
            nn.init.zeros_(linear.bias)
        projector.linear_1.weight /= deviation
        projector.linear_1.bias -= projector.linear_1.weight @ mean
        written = projector(sample[:2000])
        projector.linear_2.weight *= size / written.norm(dim=-1).mean()


def word_rows(model: Any, processor: Any, names: Sequence[str]) -> Tensor:
    """For each name the mean of its tokens' rows in the language model's table: (names, width)."""
    table = model.get_input_embeddings().weight.detach().float()
    ids = [processor.tokenizer(name, add_special_tokens=False)["input_ids"] for name in names]
    return torch.stack([table[tokens].mean(dim=0) for tokens in ids])


def loss_of(projector: Any, features: Tensor, names: Tensor, rows: Tensor) -> Tensor:
    """Cross-entropy of the right name by cosine, and the distance to its row, in parts of its size.

    Args:
        projector: The model's.
        features: (B, patches, width) of the encoder.
        names: (B,) places of the right rows.
        rows: (names, width) of the language model's table.
    """
    written = projector(features.float()).mean(dim=1)
    right = rows[names]
    apart = (written - right).square().sum(-1) / right.square().sum(-1)
    return functional.cross_entropy(closeness(written, rows) / TEMPERATURE, names) + apart.mean()


def closeness(written: Tensor, rows: Tensor) -> Tensor:
    """Cosines between what is written and every name, both seen from the names' mean."""
    middle = rows.mean(dim=0)
    ours = functional.normalize(written - middle, dim=-1)
    return ours @ functional.normalize(rows - middle, dim=-1).T


@torch.no_grad()
def told(projector: Any, pictures: Pictures, rows: Tensor, allowed: Tensor) -> float:
    """The share of pictures whose nearest row, among the allowed names', is their own."""
    right = 0
    for start in range(0, len(pictures.names), 64):
        seen = slice(start, start + 64)
        written = projector(pictures.features[seen].float()).mean(dim=1)
        near = closeness(written, rows)[:, allowed].argmax(dim=-1)
        right += int((allowed[near] == pictures.names[seen]).sum())
    return right / len(pictures.names)


def batch_of(pictures: Pictures, size: int, step: int, seed: int) -> tuple[Tensor, Tensor]:
    """Half photographs, half emoji, and some patches of each; the same for the same step."""
    draw = torch.Generator().manual_seed(seed * 1_000_003 + step)
    chosen = []
    for kind in (pictures.photo, ~pictures.photo):
        (places,) = kind.nonzero(as_tuple=True)
        chosen.append(places[torch.randint(len(places), (size // 2,), generator=draw)])
    picked = torch.cat(chosen)
    patches = torch.randperm(pictures.features.shape[1], generator=draw)[:PATCHES]
    return pictures.features[picked][:, patches], pictures.names[picked]


def teach(model: Any, pictures: Pictures, rows: Tensor, steps: int, keep: Path) -> None:
    """Trains the projector for so many steps, from the checkpoint in `keep` if there is one."""
    projector = model.model.multi_modal_projector
    optimizer = torch.optim.AdamW(projector.parameters(), lr=1e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=1e-3, total_steps=steps, pct_start=0.05
    )
    state: dict[str, Any] = {"projector": projector, "optimizer": optimizer, "schedule": schedule}
    first = 0
    if keep.exists() and (saved := torch.load(keep))["steps"] == steps:
        first = saved["step"]
        for name, part in state.items():
            part.load_state_dict(saved[name])
    began = time.monotonic()
    for step in range(first, steps):
        features, names = batch_of(pictures, 64, step, seed=0)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = loss_of(projector, features, names, rows)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        if (step + 1) % SAVE_EVERY == 0 or step + 1 == steps:
            seconds = time.monotonic() - began
            print(f"step {step + 1}/{steps} loss {loss.item():.3f} {seconds:.0f} s", flush=True)
            parts = {name: part.state_dict() for name, part in state.items()}
            torch.save(parts | {"step": step + 1, "steps": steps}, keep)


def main() -> None:
    arguments = _parse()
    if not (arguments.data / "alignment" / "train.jsonl").is_file():
        raise SystemExit(
            f"{arguments.data} has no alignment/train.jsonl: run prepare_data.py first"
        )
    torch.manual_seed(0)
    torch.set_num_threads(arguments.threads)
    model = AutoModelForImageTextToText.from_pretrained(arguments.model, dtype=torch.float32).eval()
    processor = AutoProcessor.from_pretrained(arguments.model)
    names: dict[str, int] = {}

    def pictures(file: str) -> Pictures:
        keep = arguments.work / "features" / f"{Path(file).stem}.pt"
        return gather(model, processor, arguments.data / file, names, keep)

    taught = pictures("alignment/train.jsonl")
    measured = {name: pictures(f"held_out/{name}.jsonl") for name in MEASURED}
    rows = word_rows(model, processor, list(names))
    standardise(model.model.multi_modal_projector, taught.features, float(rows.norm(dim=-1).mean()))

    def report(when: str) -> None:
        for name, seen in measured.items():
            share = told(model.model.multi_modal_projector, seen, rows, seen.names.unique())
            among = len(seen.names.unique())
            print(f"{when}: {name} {100 * share:.1f} % by the nearest of {among} words", flush=True)

    report("before")
    teach(model, taught, rows, arguments.steps, arguments.work / "words.pt")
    report("after")
    save(model, processor, arguments.out, f"taught {arguments.steps} steps of words by align.py")
    print(f"{arguments.out}: ready for narrowtune run alignment.yaml", file=sys.stderr)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, required=True, help="the folder of build_model.py")
    parser.add_argument("--data", type=Path, required=True, help="the folder of prepare_data.py")
    parser.add_argument("--out", type=Path, required=True, help="the model folder to make")
    parser.add_argument("--work", type=Path, required=True, help="features and checkpoints")
    parser.add_argument("--steps", type=int, default=800, help="batches of 64 pictures (800)")
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


if __name__ == "__main__":
    main()
