"""What a harness cannot do here is said before training starts, in one sentence."""

from __future__ import annotations

import copy
import importlib.util
from functools import partial

import pytest
from harness_tasks import MULTIPLE_CHOICE, OPEN, OWN_JUDGE, SHOWN, rows, write_rows, write_task

from narrowtune.errors import InputError
from narrowtune.evaluation.harness import Asked, hub, lm_eval, lmms_eval, open_task

GATED = """
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: "{{choices[gold]}}"
generation_kwargs: {max_new_tokens: 5, temperature: 0.7, do_sample: true}
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
"""


@pytest.fixture(scope="session")
def odd_tasks(tmp_path_factory):
    """Task files that cannot be run, each for a reason of its own."""
    folder = tmp_path_factory.mktemp("odd")
    data = write_rows(folder, "questions", rows(4))
    write_task(folder, "odd_long", OPEN.replace("5}", "5000}"), data)
    write_task(folder, "odd_code", "unsafe_code: true" + OPEN, data)
    write_task(folder, "odd_column", OPEN.replace("{{question}}", "{{queston[0][0]}}"), data)
    write_task(
        folder,
        "odd_module",
        OPEN.replace("{{question}}", "x") + "\nprocess_docs: !function odd.gone\n",
        data,
    )
    (folder / "odd.py").write_text("import a_package_nobody_has\n")
    write_task(folder, "odd_tagged", "tag: odd_tag" + OPEN, data)
    write_task(folder, "odd_shots", "num_fewshot: 0" + MULTIPLE_CHOICE, data)
    (folder / "odd_remote.yaml").write_text(
        f"task: odd_remote\ndataset_path: nobody/nothing-here\ntest_split: test{OPEN}"
    )
    return folder


@pytest.fixture(scope="session")
def odd_pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("odd-pictures")
    data = write_rows(folder, "questions", [row | {"image": "gone.png"} for row in rows(4)])
    (folder / "utils.py").write_text(
        "def pictures(doc):\n    return ['film.mp4']\n"
        "def question(doc, lmms_eval_specific_kwargs=None):\n    return doc['question']\n"
        "def judge(doc, results):\n    raise OSError('no judge answers')\n"
        "def mean(rows):\n    return 0\ndef most(rows):\n    return 0\n"
    )
    write_task(folder, "odd_sampled", GATED, data)
    write_task(folder, "odd_film", OWN_JUDGE, data, SHOWN)
    write_task(
        folder,
        "odd_rounds",
        "output_type: generate_until_multi_round" + OPEN.replace("output_type: generate_until", ""),
        data,
    )
    write_task(folder, "odd_judge", OWN_JUDGE, data, "doc_to_text: question\n")
    return folder


def refusal(tiny, **asked):
    with pytest.raises(InputError) as told:
        open_task(Asked(**asked), tiny.processing)
    (problem,) = told.value.problems
    return problem


LM_EVAL = [
    ({"task": "own_choice", "metric": "acc_nrom"}, "no metric 'acc_nrom'; did you mean 'acc_norm'"),
    ({"task": "own_open", "metric": "exact_match,strict"}, "no filter 'strict'"),
    ({"task": "own_text"}, "its metrics (word_perplexity) are not means over samples"),
    ({"task": "own_choice", "max_new_tokens": 4}, "generates nothing"),
    (
        {"task": "own_choice", "chat_template": True},
        "chat_template is asked for, and llama has none",
    ),
    ({"task": "own_even_pair"}, "name its tasks one by one: own_choice, own_blank"),
]


@pytest.mark.parametrize(("asked", "said"), LM_EVAL, ids=lambda value: str(value)[:30])
def test_lm_eval_tasks_asked_for_wrongly(llama, lm_tasks, asked, said):
    assert said in refusal(llama, harness="lm-eval", include_path=lm_tasks, **asked)


ODD = [
    ({"task": "odd_long"}, "answers of up to 5000 tokens, and llama has 512 positions"),
    ({"task": "odd_code"}, "runs code that the model writes"),
    ({"task": "odd_column"}, "cannot be built: UndefinedError: 'queston' is undefined"),
    ({"task": "odd_module"}, "needs the package a_package_nobody_has, which is not installed"),
    ({"task": "odd_tag"}, "is a tag, not a task"),
    ({"task": "odd_shots", "num_fewshot": 2}, "allows no num_fewshot but 0"),
]


@pytest.mark.parametrize(("asked", "said"), ODD, ids=lambda value: str(value)[:30])
def test_lm_eval_tasks_that_cannot_be_run(llama, odd_tasks, asked, said):
    assert said in refusal(llama, harness="lm-eval", include_path=odd_tasks, **asked)


LMMS_EVAL = [
    ({"task": "see_choice", "metric": "exact_match"}, "no metric 'exact_match'"),
    ({"task": "see_open", "num_fewshot": 2}, "leave num_fewshot out"),
    ({"task": "see_open", "chat_template": True}, "leave chat_template out"),
    ({"task": "see_open", "max_new_tokens": 2000}, "leaves no room for 2000 new ones"),
]


@pytest.mark.parametrize(("asked", "said"), LMMS_EVAL, ids=lambda value: str(value)[:30])
def test_lmms_eval_tasks_asked_for_wrongly(pico, lmms_tasks, asked, said):
    with pytest.raises(InputError) as told:
        open_task(Asked("lmms-eval", include_path=lmms_tasks, **asked), pico.processing)
    assert said in told.value.problems[0]


ODD_PICTURES = [
    ("odd_sampled", "asks for sampled answers or beams"),
    ("odd_film", "shows video; only images and text are shown here"),
    ("odd_rounds", "asks for generate_until_multi_round"),
]


@pytest.mark.parametrize(("task", "said"), ODD_PICTURES)
def test_lmms_eval_tasks_that_cannot_be_run(pico, odd_pictures, task, said):
    assert said in refusal(pico, harness="lmms-eval", include_path=odd_pictures, task=task)


@pytest.mark.parametrize(
    ("harness", "folder", "asked", "meant"),
    [
        ("lm-eval", "lm_tasks", "own_choise", "own_choice"),
        ("lmms-eval", "lmms_tasks", "see_opn", "see_open"),
    ],
)
def test_a_name_that_nobody_has(pico, request, monkeypatch, harness, folder, asked, meant):
    """Looked for in the own folder alone: reading a harness's thousands of files takes seconds."""
    adapter = {"lm-eval": lm_eval, "lmms-eval": lmms_eval}[harness]
    small = partial(adapter._manager, defaults=False)
    monkeypatch.setattr(adapter, "_manager", lambda path, defaults: small(path))
    path = request.getfixturevalue(folder)
    said = refusal(pico, harness=harness, task=asked, include_path=path)
    assert f"{harness} has no task {asked!r}; did you mean {meant!r}" in said


@pytest.mark.slow
@pytest.mark.parametrize(
    ("harness", "asked", "meant"),
    [("lm-eval", "arc_esay", "arc_easy"), ("lmms-eval", "mmstr", "mmstar")],
)
def test_the_nearest_of_all_tasks_of_a_harness(pico, harness, asked, meant):
    assert meant in refusal(pico, harness=harness, task=asked)


@pytest.mark.parametrize("harness", ["lm-eval", "lmms-eval"])
def test_a_harness_that_is_not_installed(llama, harness, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        "narrowtune.evaluation.harness.opening.find_spec",
        lambda name: None if name.endswith("_eval") else find(name),
    )
    assert f"pip install 'narrowtune[{harness}]'" in refusal(llama, harness=harness, task="any")


def test_a_folder_that_is_not_there(llama, tmp_path):
    said = refusal(llama, harness="lm-eval", task="own_open", include_path=tmp_path / "gone")
    assert "is no folder" in said


def test_data_on_a_hub_that_cannot_be_reached_is_told_without_retries(
    llama, odd_tasks, monkeypatch
):
    import huggingface_hub.constants as constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # nothing listens there
    hub.reachable.cache_clear()
    before = constants.HF_HUB_OFFLINE
    said = refusal(llama, harness="lm-eval", task="odd_remote", include_path=odd_tasks)
    hub.reachable.cache_clear()
    assert "not in this machine's cache and cannot be fetched" in said
    assert "nobody/nothing-here" in said
    assert before == constants.HF_HUB_OFFLINE


def test_a_hub_that_answers_is_there(monkeypatch):
    """Any answer, a refusal too, means that it can be reached."""
    import threading
    from http.server import BaseHTTPRequestHandler, HTTPServer

    class Refuses(BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.send_error(403)

        def log_message(self, *args):
            pass

    server = HTTPServer(("127.0.0.1", 0), Refuses)
    threading.Thread(target=server.handle_request, daemon=True).start()
    hub.reachable.cache_clear()
    assert hub.reachable(f"http://127.0.0.1:{server.server_port}")
    server.server_close()
    assert not hub.reachable(f"http://127.0.0.1:{server.server_port}/closed")


@pytest.mark.parametrize("task", ["own_choice", "own_open"])
def test_what_lm_eval_would_cut_is_refused(llama, lm_tasks, task):
    """One position less than the longest request takes is told; exactly as many is enough."""
    few = 20 if task == "own_choice" else 5
    asked = Asked("lm-eval", task, include_path=lm_tasks, max_new_tokens=None if few == 20 else 4)
    tight = copy.copy(llama.processing)
    tight.max_length = few
    with pytest.raises(InputError, match="requests do not fit") as told:
        open_task(asked, tight)
    assert "lm-eval would cut" in str(told.value) and f"the {few} positions" in str(told.value)
    longest = int(str(told.value).split("the longest takes ")[1].split(";")[0])
    tight.max_length = longest - 1
    with pytest.raises(InputError, match="requests do not fit"):
        open_task(asked, tight)
    tight.max_length = longest
    assert open_task(asked, tight).size == 12
