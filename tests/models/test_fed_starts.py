"""Common starts of prompts, their image features asked for instead of computed: the same bits."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

sys.path.append(str(Path(__file__).parents[1] / "data"))
import tiny_processors as tiny
from fed_models import counted, deepstack, feed_of, rows_of, tried

from narrowtune.data import sharing
from narrowtune.data.batches import Batches
from narrowtune.data.encoding import encode_prompt
from narrowtune.data.feature_store import GIB, FeatureStore
from narrowtune.models.generation import watched_answers
from narrowtune.models.processing import load_processing
from narrowtune.models.skeleton import load_config, model_class


@pytest.mark.parametrize("alone", [False, True])
@pytest.mark.parametrize("name", ["qwen2_5_vl", "qwen3_vl", "llava", "llava_onevision"])
def test_starts_find_kept_features(name, alone, tmp_path, monkeypatch):
    monkeypatch.setattr(sharing, "LEAST_START", 8)
    folder = tmp_path / name
    folder = deepstack(folder) if name == "qwen3_vl" else tiny.write_family(folder, name)
    processing = load_processing(str(folder))
    torch.manual_seed(0)
    model = model_class(load_config(str(folder)))(load_config(str(folder))).eval()
    rows = rows_of(processing, [[picture(tmp_path, number)] for number in (0, 1, 2) * 5])
    layout = tried(model, processing, rows[:2])
    prompts = [encode_prompt(row.example, processing) for row in rows]

    def answers():
        asked = Batches(prompts, processing, 10, "left")
        found = watched_answers(model, processing, asked, 3, lambda logits: logits)
        assert list(asked.starts.tried.values()) == [True]
        return found

    expected = answers()
    processing.feed = feed_of(model, processing, layout, FeatureStore(GIB), alone)
    with counted(model) as calls, processing.feed.feeding():
        for turn in range(2):
            for (one, seen), (other, known) in zip(answers(), expected, strict=True):
                assert one == other
                if not alone:  # alone, images may differ in last bits
                    assert torch.equal(seen, known)
            assert bool(calls) is not bool(turn)
            calls.clear()
    processing.feed = None


def picture(folder, number):
    path = folder / f"{number}.png"
    if not path.exists():
        image = Image.linear_gradient("L").resize((84, 60 + 30 * number)).rotate(37 * number)
        image.convert("RGB").save(path)
    return path
