"""Pretrains a bundled model from its seed: vision tower, then captions, then the mixture.

    python pretraining/pretrain.py --model pico-qwen --out src/narrowtune/models/bundled/pico-qwen

Stopped and started again with the same `--work`, it goes on from its last checkpoint.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import build
import language_stage
import pools
import prompts
import torch
import tower_stage
from log import Log

from narrowtune.pico import HELD_OUT, TARGETS

PLANS = {  # steps of stage 1, its learning rate, then stages 2 and 3
    "pico-qwen": (3500, 1.5e-3, language_stage.Plan(500, 4200, 1e-3)),
    "pico-llava": (5000, 1.5e-3, language_stage.Plan(500, 4200, 1e-3)),
}
SEEING = ("model.visual.", "model.vision_tower.", "model.multi_modal_projector.")


def tower(model: Any, name: str, pool: pools.Pool, work: Path, seed: int, log: Log) -> None:
    """Stage 1, or its result from an earlier start."""
    path = work / f"{name}-tower.pt"
    if not path.exists():
        steps, peak, _ = PLANS[name]
        fresh = pools.fresh_pool(seed, 60)
        heads = tower_stage.teach(model, pool, fresh, steps, peak, log)
        torch.save({"model": model.state_dict(), "heads": heads.state_dict()}, path)
    taught = torch.load(path)["model"]
    model.load_state_dict({k: v for k, v in taught.items() if k.startswith(SEEING)}, strict=False)


def held_out_part(pool: pools.Pool) -> pools.Pool:
    """The pictures that the language model may see: those of no target skill."""
    kept = [index for index, task in enumerate(pool.tasks) if task not in TARGETS]
    return pools.Pool(
        [pool.tasks[index] for index in kept],
        pool.images[kept],
        pool.labels[kept],
        pool.letters[kept],
        [pool.questions[index] for index in kept],
    )


def material(
    model: Any, tokenizer: Any, pool: pools.Pool, drills: tuple[int, int]
) -> language_stage.Material:
    """Questions of a pool and some drills, with the features of the pictures."""
    rows = prompts.rows_of(tokenizer, pool)
    rows = prompts.join(rows, prompts.list_rows(tokenizer, pool, drills[1]))
    rows = prompts.join(rows, prompts.drills(tokenizer, *drills))
    return language_stage.Material(rows, language_stage.features(model, pool))


def language(
    model: Any, tokenizer: Any, name: str, pool: pools.Pool, chosen: argparse.Namespace, log: Log
) -> None:
    """Stages 2 and 3; the best model so far stands in the output folder."""
    path, plan, best = chosen.work / f"{name}-words.pt", PLANS[name][2], [0.0]
    at = language_stage.begin(model, plan)
    data = material(model, tokenizer, held_out_part(pool), (20_000, chosen.seed))
    fresh = material(model, tokenizer, pools.fresh_pool(chosen.seed, 60), (100, chosen.seed + 1))

    def keep(at: language_stage.Progress, told: dict[str, float]) -> None:
        mean = sum(told[task] for task in HELD_OUT) / len(HELD_OUT)
        log(f"  held-out mean {mean:.1f}, least {min(told[task] for task in HELD_OUT):.0f}")
        state = {"model": model.state_dict(), "optimizer": at.optimizer.state_dict()}
        torch.save(state | {"step": at.step, "best": max(best[0], mean)}, path)
        if mean > best[0]:
            best[0] = mean
            build.write(model, tokenizer, name, chosen.out)

    if path.exists():
        saved = torch.load(path)
        model.load_state_dict(saved["model"])
        at.optimizer.load_state_dict(saved["optimizer"])
        at.step, best[0] = saved["step"], saved["best"]
    language_stage.teach(model, language_stage.Lesson(data, fresh, plan), at, log, keep)


def main() -> None:
    """Runs all stages."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=sorted(PLANS), required=True)
    parser.add_argument("--out", type=Path, required=True, help="folder of the finished model")
    parser.add_argument("--work", type=Path, default=Path("build/pretraining"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    chosen.work.mkdir(parents=True, exist_ok=True)
    log = Log(chosen.work / f"{chosen.model}.log")
    pool = pools.training_pool(chosen.seed, chosen.work / f"pool-{chosen.seed}.pickle")
    log(f"{chosen.model}: {len(pool.images)} pictures")
    model, tokenizer = build.build(chosen.model, chosen.seed)
    tower(model, chosen.model, pool, chosen.work, chosen.seed, log)
    language(model, tokenizer, chosen.model, pool, chosen, log)


if __name__ == "__main__":
    main()
