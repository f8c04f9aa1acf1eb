"""Fixtures of the harness tests: models in memory, task folders, no cache outside the test."""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterator
from pathlib import Path

import datasets
import pytest
from torch import nn

sys.path.append(str(Path(__file__).parent))
sys.path.append(str(Path(__file__).parent.parent / "data"))
sys.path.append(str(Path(__file__).parent.parent / "evaluation"))

from harness_tasks import write_lm_eval, write_lmms_eval
from tiny_processors import TEXT, make_tokenizer
from transformers import LlamaConfig, LlamaForCausalLM
from wide_models import Tiny, with_wide_weights

from narrowtune.models.loading import load_model
from narrowtune.models.processing import Processing, load_processing
from narrowtune.models.skeleton import load_config


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Data sets are cached for this session alone."""
    folder = tmp_path_factory.mktemp("datasets")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_DATASETS_CACHE", str(folder))
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", folder)
        yield


@pytest.fixture(scope="session")
def lm_tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_lm_eval(tmp_path_factory.mktemp("lm"))


@pytest.fixture(scope="session")
def lmms_tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_lmms_eval(tmp_path_factory.mktemp("lmms"))


@pytest.fixture(scope="session")
def llama() -> Tiny:
    """A tiny Llama that has no chat template and opens every text with a token of its own."""
    config = LlamaConfig(**TEXT)
    tokenizer = make_tokenizer(None, bos_token="<s>")
    return Tiny(
        with_wide_weights(LlamaForCausalLM(config)), Processing("llama", tokenizer, None, config)
    )


@pytest.fixture(scope="session")
def pico() -> Tiny:
    return Tiny(
        load_model("pico-qwen", device="cpu", dtype="float32"), load_processing("pico-qwen")
    )


@pytest.fixture(scope="session")
def plain_pico(pico: Tiny) -> Tiny:
    """pico-qwen read as a base model: words alone, no chat template."""
    tokenizer = copy.deepcopy(pico.processing.tokenizer)
    tokenizer.chat_template = None
    return Tiny(pico.model, Processing("plain", tokenizer, None, load_config("pico-qwen")))


@pytest.fixture
def fresh_llama(llama: Tiny) -> nn.Module:
    """A copy to be trained or marked."""
    return copy.deepcopy(llama.model)
