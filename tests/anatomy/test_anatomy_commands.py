"""`inspect`, `select` and what MODEL may be, as a user types them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from anatomy_models import LLAVA_ONEVISION_7B, QWEN2_5_VL_7B, TINY, model_folder, tiny_config
from typer.testing import CliRunner

from narrowtune.anatomy import Anatomy
from narrowtune.cli.inspect import inspect_command, select_command
from narrowtune.errors import InputError
from narrowtune.models.skeleton import (
    BUNDLED,
    build_skeleton,
    load_config,
    model_class,
    resolve,
)

app = typer.Typer(pretty_exceptions_enable=False)
app.command("inspect")(inspect_command)
app.command("select")(select_command)


def run(*arguments: str) -> str:
    """What a command prints on stdout; its error, if any, is raised."""
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def problem(model: str) -> str:
    """The one thing that is wrong with a MODEL."""
    with pytest.raises(InputError) as caught:
        build_skeleton(load_config(model))
    (told,) = caught.value.problems
    return told


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder that holds the config of a 7B model and nothing else."""
    return model_folder(tmp_path_factory.mktemp("qwen"), QWEN2_5_VL_7B)


@pytest.fixture(scope="module")
def tied(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder with the config of a small model whose head is tied."""
    folder = tmp_path_factory.mktemp("tied")
    return model_folder(folder, {"model_type": "qwen2", **TINY["qwen2"]})


def test_inspect_prints_json_that_is_the_anatomy(qwen: str) -> None:
    assert json.loads(run("inspect", qwen, "--json")) == Anatomy.of(load_config(qwen)).to_dict()


def test_inspect_shows_towers_parts_and_recipes(qwen: str) -> None:
    shown = run("inspect", qwen)
    assert "Qwen2_5_VLForConditionalGeneration" in shown
    for word in ("language", "vision", "connector", "mlp.gate", "attn.qkv", "gate-up"):
        assert word in shown
    assert f"{2 * 28 * 3584 * 18944:,}" in shown


def test_inspect_tells_ties_and_recipes_that_are_not_there(tied: str) -> None:
    shown = run("inspect", tied)
    assert "language.head is tied to language.embed" in shown
    assert "not available" in shown


def test_inspect_shows_what_no_table_knows(tmp_path: Path) -> None:
    shown = run("inspect", model_folder(tmp_path, {"model_type": "gemma3n_text"}))
    assert "model.altup_projections.{0-2}.weight" in shown


def test_inspect_and_select_show_slices(tmp_path: Path) -> None:
    phi = model_folder(tmp_path, {"model_type": "phi3", "num_hidden_layers": 2})
    assert "mlp.gate_up" in run("inspect", phi) and "mlp.gate " in run("inspect", phi)
    shown = run("select", phi, "language.mlp.gate")
    assert "language.mlp.gate (slices of mlp.gate_up): 50,331,648 parameters" in shown


def test_select_prints_json_with_the_promised_keys(qwen: str) -> None:
    told = json.loads(run("select", qwen, "gate-up", "--keep", "language.mlp.up", "--json"))
    assert {row["part"] for row in told["trained"]} == {"mlp.gate"}
    assert told["trained_numel"] == sum(row["numel"] for row in told["trained"])
    assert told["trained_numel"] == 28 * 3584 * 18944
    assert all(row["slices"] is None for row in told["trained"])
    assert told["frozen"] + len(told["trained"]) == 729


def test_select_shows_every_tensor_layers_shortened(qwen: str) -> None:
    shown = run("select", qwen, "language.mlp.gate[:-4]", "language.mlp.gate[27:]")
    assert "model.language_model.layers.{0-23,27}.mlp.gate_proj.weight\n" in shown
    assert "in 25 tensors" in shown


def test_select_says_what_a_tie_does(tied: str) -> None:
    assert "note: language.head is tied to language.embed" in run("select", tied, "language.head")


def test_select_raises_every_problem(qwen: str) -> None:
    with pytest.raises(InputError) as caught:
        run("select", qwen, "gate-upp", "language.mlp.gates")
    assert len(caught.value.problems) == 2


@pytest.mark.parametrize("name", BUNDLED)
def test_bundled_names_are_models(name: str) -> None:
    assert resolve(name) == str(BUNDLED[name])
    assert Anatomy.of(load_config(name)).towers == ("language", "vision", "connector")


def test_a_model_that_is_none_is_told_what_is_missing(tmp_path: Path) -> None:
    assert "config.json is missing" in problem(str(tmp_path))
    file = tmp_path / "model.gguf"
    file.touch()
    assert "is a file" in problem(str(file))
    assert "there is no folder" in problem(str(tmp_path / "nowhere"))
    assert "did you mean 'pico-qwen'" in problem("pico-qwn")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{", "cannot be read as JSON"),
        ("[]", "names no 'model_type'"),
        ('{"hidden_size": 8}', "names no 'model_type'"),
        ('{"model_type": "qwen2_5_vll"}', "did you mean 'qwen2_5_vl'"),
        ('{"model_type": "mine", "auto_map": {}}', "which only --trust-remote-code runs"),
        ('{"model_type": "llama", "hidden_size": "many"}', "is no valid config"),
        ('{"model_type": "clip"}', "no class that writes text"),
        ('{"model_type": "llama", "hidden_act": "relux"}', "cannot be built from this config"),
    ],
)
def test_a_config_that_cannot_be_used_is_refused_in_one_sentence(
    tmp_path: Path, text: str, told: str
) -> None:
    (tmp_path / "config.json").write_text(text, encoding="utf-8")
    sentence = problem(str(tmp_path))
    assert told in sentence
    assert "\n" not in sentence


def test_an_unreachable_hub_is_one_clear_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants
    import transformers.utils.hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(transformers.utils.hub, "is_offline_mode", lambda: True)
    sentence = problem("someone/some-model")
    assert "cannot get the config of 'someone/some-model'" in sentence
    assert "pico-qwen" in sentence and "\n" not in sentence


def test_building_leaves_the_config_as_it_was() -> None:
    config = tiny_config("llava_onevision")
    before = config.to_dict()
    build_skeleton(config)
    assert config.to_dict() == before


def test_image_and_text_classes_are_found(tmp_path: Path) -> None:
    vision = load_config(model_folder(tmp_path, LLAVA_ONEVISION_7B))
    assert model_class(vision).__name__ == "LlavaOnevisionForConditionalGeneration"
    assert model_class(tiny_config("mistral")).__name__ == "MistralForCausalLM"
