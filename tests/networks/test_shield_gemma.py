"""Judging prompts, with a tiny random language model in ShieldGemma's layout."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from hart.errors import HartError
from hart.networks.shield_gemma import GUIDELINES, ShieldGemma
from hart.serving.checkers import prompt_checker
from hart.serving.schemas import ApiError
from language_models import save_language_model

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("shield")
    save_language_model(path)
    tokenizer: Any = AutoTokenizer.from_pretrained(path)
    tokenizer.add_tokens(["Yes", "No"])
    tokenizer.chat_template = "{{ messages[0]['content'] }}|{{ guideline }}?"
    tokenizer.save_pretrained(path)
    return path


def test_the_probability_is_that_of_yes_over_yes_and_no(folder: Path) -> None:
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    network: Any = AutoModelForCausalLM.from_pretrained(folder)
    ids = torch.tensor([tokenizer.encode("a cat|be kind?", add_special_tokens=False)])
    with torch.no_grad():
        logits = network(ids).logits[0, -1]
    yes, no = (logits[tokenizer.convert_tokens_to_ids(word)].exp() for word in ("Yes", "No"))
    assert ShieldGemma(str(folder), CPU).probability("a cat", "be kind") == pytest.approx(float(yes / (yes + no)))


def test_a_prompt_is_refused_from_the_threshold_on(folder: Path) -> None:
    model = ShieldGemma(str(folder), CPU, threshold=1.0)
    assert model.violated("a cat") is None
    found = {name: model.probability("a cat", guideline) for name, guideline in GUIDELINES.items()}
    strictest = max(found, key=found.__getitem__)
    assert ShieldGemma(str(folder), CPU, threshold=found[strictest]).violated("a cat") == strictest
    assert ShieldGemma(str(folder), CPU, threshold=0.0).violated("a cat") == next(iter(GUIDELINES))


def test_other_models_are_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    save_language_model(tmp_path)
    with pytest.raises(HartError, match="is not ShieldGemma"):
        ShieldGemma(str(tmp_path), CPU)
    with pytest.raises(ApiError, match="prompts cannot be checked; the server's log") as said:
        prompt_checker(str(tmp_path), "cpu")("a cat")
    assert str(tmp_path) in caplog.text and str(tmp_path) not in str(said.value), "clients see no path of the server"


def test_code_in_a_repository_is_neither_run_nor_asked_about(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    (tmp_path / "own.py").write_text("raise SystemExit")
    values = json.loads((tmp_path / "config.json").read_text())
    own = {"model_type": "own", "auto_map": {"AutoConfig": "own.Own"}}
    (tmp_path / "config.json").write_text(json.dumps(values | own))
    monkeypatch.setattr("builtins.input", lambda _: "y")
    with pytest.raises(HartError, match="contains custom code"):
        ShieldGemma(str(tmp_path), CPU)


def test_the_server_asks_it(folder: Path) -> None:
    checker = prompt_checker(str(folder), "cpu")
    said = checker("a cat")
    assert said is None or said.startswith("the prompt asks for something that this server does not generate: ")
