"""The SmolLM2 example's converters, on rows written here; nothing is downloaded."""

from __future__ import annotations

import importlib
import json
import sys
import zipfile
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from narrowtune.experiment import load_experiment

FOLDER = Path(__file__).parents[2] / "examples" / "smollm2"


def script(name: str) -> ModuleType:
    """One of the example's files; they stand alone in a folder that is no package."""
    if str(FOLDER) not in sys.path:
        sys.path.insert(0, str(FOLDER))
    return importlib.import_module(name)


prepare, benchmarks, rows = script("prepare_data"), script("fetch_benchmarks"), script("rows")


def prompt(row: dict[str, Any]) -> str:
    return row["messages"][-2]["content"]


def answer(row: dict[str, Any]) -> str:
    return row["messages"][-1]["content"]


def test_svamp_answer_is_its_calculation() -> None:
    item = {"ID": "chal-1", "Body": "A pack costs 76 dollars", "Question": "How much?"}
    row = prepare.svamp_row({**item, "Equation": "( 76.0 - 25.0 )", "Answer": 51.0})
    assert answer(row) == "76 - 25 = 51"
    assert prompt(row).startswith("A pack costs 76 dollars. How much?\n")


@pytest.mark.parametrize(
    ("equation", "by_hand"),
    [
        ("( ( 8.0 + 3.0 ) - 4.0 )", "(8 + 3) - 4"),
        ("( 100.0 / 2.5 )", "100 / 2.5"),
        ("( 6.0 * ( 2.0 + 1.0 ) )", "6 * (2 + 1)"),
    ],
)
def test_an_equation_is_written_as_by_hand(equation: str, by_hand: str) -> None:
    assert prepare.calculation(equation) == by_hand


def test_gsm8k_keeps_the_final_number_alone() -> None:
    row = prepare.gsm8k_row("x", {"question": "How many?", "answer": "2*3=<<2*3=6>>6\n#### 1,200"})
    assert answer(row) == "1200"
    with pytest.raises(ValueError, match="####"):
        prepare.gsm8k_row("x", {"question": "How many?", "answer": "6"})


@pytest.mark.parametrize(
    ("line", "word"), [("0 What is an atom ?\n", "description"), ("5 When ?", "number")]
)
def test_trec_class_becomes_a_word(line: str, word: str) -> None:
    row = prepare.trec_row("x", line)
    assert answer(row) == word
    assert prompt(row).startswith(line.strip()[2:])


def test_trec_refuses_an_unknown_class() -> None:
    with pytest.raises(ValueError, match="'7'"):
        prepare.trec_row("x", "7 What ?")


def test_banking_label_is_spoken_words() -> None:
    row = prepare.banking_row("x", {"text": "Where is my card?", "category": "card_arrival"})
    assert answer(row) == "card arrival"


@pytest.mark.parametrize(
    ("section", "context"),
    [("", "We asked. Many did."), ("RESULT", "Many did."), ("NONE", "Many did.")],
)
def test_pubmedqa_asks_about_its_abstract_or_a_section(section: str, context: str) -> None:
    item = {"LABELS": ["METHODS", "RESULTS"], "CONTEXTS": ["We asked.", "Many did."]}
    row = prepare.pubmed_row(
        "x", {**item, "QUESTION": "Did they?", "final_decision": "maybe"}, section
    )
    assert answer(row) == "maybe"
    assert prompt(row) == f"{context}\n\nDid they?\n{prepare.PUBMED_HINT}"


def test_pubmedqa_s_halves_are_its_authors(tmp_path: Path) -> None:
    item = {"LABELS": ["A"], "CONTEXTS": ["b"], "QUESTION": "c", "final_decision": "yes"}
    (tmp_path / "ori_pqal.json").write_text(json.dumps({name: item for name in "123"}))
    (tmp_path / "test_ground_truth.json").write_text(json.dumps({"2": "yes"}))
    split = prepare.SKILLS["pubmedqa-results"](tmp_path, 0)
    assert [row["id"] for row in split.train] == ["pubmedqa-1", "pubmedqa-3"]
    assert [row["id"] for row in split.test] == ["pubmedqa-2"]


def test_a_test_question_is_never_trained_on() -> None:
    train = [rows.chat("a", "Why?", "x"), rows.chat("b", "Who?", "y")]
    assert prepare.without(train, [rows.chat("c", "why ?", "z")]) == [train[1]]


def test_choices_hold_the_answer() -> None:
    with pytest.raises(ValueError, match="not among"):
        rows.chat("a", "Why?", "x", choices=["y", "z"])


def test_subsample_is_the_seed_s() -> None:
    many = [rows.chat(str(number), "Why?", "x") for number in range(20)]
    assert rows.subsample(many, 5, 1) == rows.subsample(many, 5, 1) != rows.subsample(many, 5, 2)
    assert sorted(map(id, rows.subsample(many, None, 3))) == sorted(map(id, many))


def test_prepare_data_writes_chats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data" / "trec").mkdir(parents=True)
    (tmp_path / "data" / "trec" / "TREC.train.all").write_bytes(
        b"4 Where is Caf\xe9 Z ?\n0 How ?\n"
    )
    (tmp_path / "data" / "trec" / "TREC.test.all").write_bytes(b"0 How ?\n")
    words = ["--data", str(tmp_path / "data"), "--out", str(tmp_path / "out"), "--skills", "trec"]
    monkeypatch.setattr(sys, "argv", ["prepare_data.py", *words])
    prepare.main()
    lines = (tmp_path / "out" / "trec" / "train.jsonl").read_text(encoding="utf-8").splitlines()
    (row,) = map(json.loads, lines)  # "How ?" stands in the test
    assert "Café" in prompt(row)
    assert answer(row) == "place"


@pytest.mark.parametrize("hint", ["SVAMP_HINT", "NUMBER_HINT", "TREC_HINT", "PUBMED_HINT"])
def test_a_bare_row_does_not_say_how_to_answer(hint: str) -> None:
    asked = rows.chat("1", f"Answer with care. How many?\n{getattr(prepare, hint)}", "3")
    assert prepare.bare(asked)["messages"][0]["content"] == "Answer with care. How many?"
    assert prepare.bare(asked)["messages"][1] == asked["messages"][1]
    banking = rows.chat("1", f"My card is gone.\n{prepare.BANKING_HINT}", "lost card")
    assert prepare.bare(banking)["messages"][0]["content"].endswith("request to the bank is this?")


def test_prepare_data_names_a_missing_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["--data", str(tmp_path), "--out", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", ["prepare_data.py", *words])
    with pytest.raises(SystemExit, match="svamp, trec"):
        prepare.main()


def test_arc_choice_is_its_text() -> None:
    choices = {"text": ["ice", "steam"], "label": ["1", "2"]}
    row = benchmarks.arc_row(
        0, {"id": "q", "question": "Hot?", "choices": choices, "answerKey": "2"}
    )
    assert (prompt(row), answer(row), row["choices"]) == ("Hot?", "steam", ["ice", "steam"])


def test_hellaswag_is_cleaned() -> None:
    endings = ["[substeps] Dry  it.", "b", "c", "d"]
    item = {"activity_label": "Washing", "ctx": "A man [title] Wash", "endings": endings}
    row = benchmarks.hellaswag_row(0, {**item, "label": "0"})
    assert prompt(row).endswith("Washing: A man. Wash")
    assert answer(row) == row["choices"][0] == "Dry it."


def test_piqa_and_boolq() -> None:
    row = benchmarks.piqa_row(3, {"goal": "Open it", "sol1": "pull", "sol2": "push", "label": 1})
    assert (prompt(row), answer(row), row["choices"]) == ("Open it", "push", ["pull", "push"])
    row = benchmarks.boolq_row(3, {"passage": "P.", "question": "is it so", "answer": False})
    assert (answer(row), row["choices"]) == ("no", ["yes", "no"])
    assert "Is it so?" in prompt(row)


def test_winogrande_and_mmlu() -> None:
    item = {"sentence": "Al met Bo; _ fell.", "option1": "Al", "option2": "Bo", "answer": "2"}
    row = benchmarks.winogrande_row(3, item)
    assert answer(row) == "Al met Bo; Bo fell."
    assert row["choices"] == ["Al met Bo; Al fell.", "Al met Bo; Bo fell."]
    exam = {"question": " Which? ", "subject": "law", "choices": ["a", "b"], "answer": 1}
    row = benchmarks.mmlu_row(4, exam)
    assert (row["id"], prompt(row), answer(row)) == ("mmlu-law-4", "Which?", "b")


def test_every_subject_of_mmlu_is_read(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    with zipfile.ZipFile(tmp_path / "some.whl", "w") as archive:
        for subject in ("law", "art"):
            item = {"question": "?", "subject": subject, "choices": ["a", "b"], "answer": 0}
            table, sink = pa.Table.from_pylist([item]), pa.BufferOutputStream()
            with pa.ipc.new_stream(sink, table.schema) as stream:
                stream.write_table(table)
            name = benchmarks.DATASETS.format(f"hails/mmlu_no_train/{subject}/test")
            archive.writestr(name, sink.getvalue().to_pybytes())
            archive.writestr(name.replace("/test/", "/dev/"), b"")
        assert [row["id"] for row in benchmarks.read(archive, "mmlu", 0)] == [
            "mmlu-art-0",
            "mmlu-law-0",
        ]


def test_lambada_choices_are_the_word_and_others_last_words() -> None:
    items = [{"query": f"passage {word} and", "answers_text": [word]} for word in "abcdefgh"]
    made = benchmarks.lambada_rows(items, seed=0)
    assert made == benchmarks.lambada_rows(items, seed=0)
    for row, item in zip(made, items, strict=True):
        assert answer(row) == item["answers_text"][0]
        assert len(set(row["choices"])) == 4
        assert item["query"] in prompt(row)
    assert len({row["choices"].index(answer(row)) for row in made}) > 1


def test_a_wheel_on_disk_is_used_as_it_is(tmp_path: Path) -> None:
    packages = script("packages")
    with zipfile.ZipFile(tmp_path / "some_data-1.0-py3-none-any.whl", "w") as archive:
        archive.writestr("some_data/file.txt", "hello")
    with packages.wheel("some-data", "1.0", tmp_path) as archive:
        assert packages.member(archive, "some_data/file.txt") == b"hello"
        with pytest.raises(SystemExit, match="holds no"):
            packages.member(archive, "some_data/other.txt")


def test_shipped_sequences_differ_in_their_arms_alone() -> None:
    folder = FOLDER.parents[1] / "experiments" / "smollm2"
    main, more = (load_experiment(folder / f"{name}.yaml") for name in ("experiment", "more_arms"))
    assert main.model_copy(update={"arms": ()}) == more.model_copy(update={"arms": ()})
    assert not {arm.name for arm in main.arms} & {arm.name for arm in more.arms}
    skills = {stage.name for stage in main.stages}
    assert len(main.replicates) == 3
    for skill in skills:  # at another place in each order
        assert len({one.order.index(skill) for one in main.replicates}) == 3
    assert {Path(task.test).stem for task in main.held_out} == {*benchmarks.ARROW, "lambada"}
    assert {Path(stage.train).parts[-2] for stage in main.stages} <= set(prepare.SKILLS)
