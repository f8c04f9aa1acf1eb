"""A release, laid out as it is published, becomes files that teach what they ask."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from string import ascii_uppercase
from typing import Any

import pytest
import releases
from releases import contents, lines

from narrowtune.data import check_file, read_examples
from narrowtune.data.overlap import find_overlaps
from narrowtune.data.prepare import DATASETS, Manifest, read_manifest
from narrowtune.evaluation.metrics import METRICS, misfits

Prepare = Callable[..., Manifest]
LAID_OUT: dict[str, tuple[str, Callable[[Path], Path]]] = {
    "cub200": ("cub200", releases.cub200),
    "pathvqa": ("pathvqa", releases.pathvqa),
    "textvqa as JSON": ("textvqa", releases.textvqa_json),
    "textvqa as parquet": ("textvqa", releases.textvqa_parquet),
    "timeclock": ("timeclock", releases.timeclock),
}


def prompt(row: dict[str, Any]) -> str:
    image, text = row["messages"][0]["content"]
    assert image["type"] == "image"
    return str(text["text"])


@pytest.mark.parametrize("layout", LAID_OUT)
def test_what_comes_out_is_sound(layout: str, tmp_path: Path, prepare: Prepare) -> None:
    name, lay_out = LAID_OUT[layout]
    made = prepare(name, lay_out(tmp_path / "release"))
    out = tmp_path / "out"
    metric = DATASETS[name].metric
    assert metric in METRICS
    files = {split: out / f"{split}.jsonl" for split in ("train", "test")}
    for path in files.values():
        assert check_file(path, unique_ids=True) == []
        assert misfits(metric, read_examples(path)) == []
    rows = {split: read_examples(path) for split, path in files.items()}
    assert made.rows == {split: len(examples) for split, examples in rows.items()}
    assert find_overlaps({"skill": rows["train"]}, {"skill": rows["test"]}) == []
    # Trained on in the very form that is asked for.
    forms = {
        example.prompt[-1].text.splitlines()[-1] for split in rows.values() for example in split
    }
    assert len(forms) == 1 and forms.pop().startswith("Answer ")


@pytest.mark.parametrize("layout", LAID_OUT)
def test_the_same_comes_out_again(layout: str, tmp_path: Path, prepare: Prepare) -> None:
    name, lay_out = LAID_OUT[layout]
    release = lay_out(tmp_path / "release")
    prepare(name, release, "one")
    prepare(name, release, "other")
    assert contents(tmp_path / "one") == contents(tmp_path / "other")


@pytest.mark.parametrize("layout", LAID_OUT)
def test_the_manifest_tells_what_was_made(layout: str, tmp_path: Path, prepare: Prepare) -> None:
    name, lay_out = LAID_OUT[layout]
    made = prepare(name, lay_out(tmp_path / "release"), seed=3)
    found = contents(tmp_path / "out")
    assert made.complete and read_manifest(tmp_path / "out") == made
    assert made.files == {
        file: found[file] for file in ("test.jsonl", "train.jsonl", "left-out.jsonl")
    }
    assert (made.metric, made.origin) == (DATASETS[name].metric, "a local folder")
    assert made.parameters == {"seed": 3, "limit": None}
    images = {file: value for file, value in found.items() if file.startswith("images/")}
    assert images and all(Path(file).stem == value for file, value in images.items())
    # The tiny release is not the published one, and that is said.
    assert sum("published are" in note for note in made.notes) == 2


def test_birds_are_asked_with_26_lettered_species(tmp_path: Path, prepare: Prepare) -> None:
    prepare("cub200", releases.cub200(tmp_path / "release"))
    rows = lines(tmp_path / "out/train.jsonl") + lines(tmp_path / "out/test.jsonl")
    assert len(rows) == 60
    for row in rows:
        question, *options, form = prompt(row).splitlines()
        assert question == "Which species is the bird in this image?"
        assert form == "Answer with the option's letter from the given choices directly."
        species = [
            option.removeprefix(f"{letter}. ")
            for letter, option in zip(ascii_uppercase, options, strict=True)
        ]
        assert len(set(species)) == 26
        image = int(row["id"].rpartition("-")[2]) - 1
        right = species[ascii_uppercase.index(row["messages"][1]["content"])]
        assert right == f"Kind {image // 2 + 1} Finch"
        assert row["choices"] == list(ascii_uppercase)


def test_the_seed_and_the_image_decide_the_distractors(tmp_path: Path, prepare: Prepare) -> None:
    release = releases.cub200(tmp_path / "release")
    prepare("cub200", release, "all")
    prepare("cub200", release, "some", limit=7)
    prepare("cub200", release, "otherwise", seed=1)
    whole = {row["id"]: row for row in lines(tmp_path / "all/train.jsonl")}
    some = lines(tmp_path / "some/train.jsonl")
    assert len(some) == 7 and all(row == whole[row["id"]] for row in some)
    other = {row["id"]: row for row in lines(tmp_path / "otherwise/train.jsonl")}
    assert whole.keys() == other.keys()
    assert sum(prompt(whole[key]) == prompt(other[key]) for key in whole) == 0
    letters = [row["messages"][1]["content"] for row in whole.values()]
    assert len(set(letters)) > 10


def test_counts_are_digits(tmp_path: Path, prepare: Prepare) -> None:
    served = releases.pixmo_count(tmp_path / "release", "http://127.0.0.1:9")
    for data in served.values():  # as somebody who has the images already would put them there
        name = hashlib.sha256(data).hexdigest()
        releases.write(tmp_path / "release/images" / f"{name}.jpg", data)
    made = prepare("pixmo-count", tmp_path / "release")
    assert (made.rows, made.left_out) == ({"test": 3, "train": 6}, {"test": 0, "train": 0})
    row = lines(tmp_path / "out/train.jsonl")[3]
    assert prompt(row) == "How many people are in this image?\nAnswer with a number."
    assert row["messages"][1]["content"] == "5"
    assert misfits("number", read_examples(tmp_path / "out/train.jsonl")) == []


def test_pathology_keeps_its_words_and_one_file_per_image(tmp_path: Path, prepare: Prepare) -> None:
    made = prepare("pathvqa", releases.pathvqa(tmp_path / "release"))
    assert made.rows == {"test": 6, "train": 12}
    assert len(list((tmp_path / "out/images").rglob("*.jpg"))) == 6
    row = lines(tmp_path / "out/train.jsonl")[7]
    assert row["id"] == "pathvqa-train-00007"
    assert prompt(row).startswith("what is shown?\n") and "references" not in row
    assert row["messages"][1]["content"] == "renal cortex"


def test_text_answers_are_ten_and_the_commonest_is_taught(tmp_path: Path, prepare: Prepare) -> None:
    prepare("textvqa", releases.textvqa_json(tmp_path / "json"), "one")
    prepare("textvqa", releases.textvqa_parquet(tmp_path / "parquet"), "other")
    one, other = (contents(tmp_path / out) for out in ("one", "other"))
    assert one == other, "both layouts hold the same data"
    row = lines(tmp_path / "one/test.jsonl")[0]
    assert row["messages"][1]["content"] == row["references"][0] == "dakota digital"
    assert sorted(row["references"]).count("dakota digital") == 4 and len(row["references"]) == 10
    assert prompt(row).endswith("\nAnswer the question using a single word or phrase.")
    example = read_examples(tmp_path / "one/test.jsonl")[0]
    assert sorted(example.references) == sorted(releases.ANSWERS_OF_TEN)
    assert METRICS["vqa"].score("Dakota", example.references) == pytest.approx(0.9)


def test_clocks_say_hours_and_minutes(tmp_path: Path, prepare: Prepare) -> None:
    made = prepare("timeclock", releases.timeclock(tmp_path / "release"))
    assert made.rows == {"test": 3, "train": 9}
    times = [row["messages"][1]["content"] for row in lines(tmp_path / "out/test.jsonl")]
    assert times == ["01:00", "01:05", "12:55"]


def test_a_limit_draws_from_the_whole_split(tmp_path: Path, prepare: Prepare) -> None:
    release = releases.cub200(tmp_path / "release")
    made = prepare("cub200", release, limit=5)
    assert made.rows == {"test": 5, "train": 5}
    first = [f"cub200-{number:05d}" for number in (1, 3, 5, 7, 9)]
    assert [row["id"] for row in lines(tmp_path / "out/train.jsonl")] != first


def test_training_images_that_the_test_shows_are_left_out(tmp_path: Path, prepare: Prepare) -> None:
    """Found by their pixels: the test's copy is the same picture in another file format."""
    release = releases.timeclock(tmp_path / "release")
    from PIL import Image

    with Image.open(release / "train/1-05/1.jpg") as image:
        image.save(release / "test/12-55/0.jpg", "PNG")
    made = prepare("timeclock", release)
    assert (made.rows, made.left_out) == ({"test": 3, "train": 8}, {"test": 0, "train": 1})
    assert lines(tmp_path / "out/left-out.jsonl") == [
        {"split": "train", "id": "timeclock-train-00004", "reason": "the test shows its image"}
    ]
    assert any("1 rows of the train split were left out" in note for note in made.notes)


def test_rows_that_teach_nothing_are_left_out_and_listed(tmp_path: Path, prepare: Prepare) -> None:
    rows = [
        {"image": releases.cell(1), "question": "what?", "answer": "a cell"},
        {"image": releases.cell(2), "question": "what?", "answer": " . "},
        {"image": {"bytes": None, "path": None}, "question": "what?", "answer": "a cell"},
        {"image": {"bytes": releases.jpeg(3)[:200], "path": None}, "question": "w?", "answer": "x"},
    ]
    releases.shard(tmp_path / "release", "train", rows)
    releases.shard(tmp_path / "release", "test", [rows[0] | {"image": releases.cell(9)}])
    made = prepare("pathvqa", tmp_path / "release")
    assert made.left_out == {"test": 0, "train": 3}
    reasons = [row["reason"] for row in lines(tmp_path / "out/left-out.jsonl")]
    assert reasons[:2] == ["its answer '.' holds no word", "it has no image or no question"]
    assert reasons[2].startswith("image images/") and "cannot be read" in reasons[2]
    assert len(list((tmp_path / "out/images").rglob("*.jpg"))) == 2
