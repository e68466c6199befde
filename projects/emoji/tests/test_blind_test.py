"""A blind test shows every image once, in an order that tells nothing, and keeps what each was in the key."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from hart import HartError, HartPipeline
from hart_emoji import blind_test
from hart_emoji.cli import app
from tiny import save_model


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """What a set says of its concepts: five to ask for, and a flag."""
    names = ("apple", "cat", "owl", "pear", "dog")
    concepts = {name: {"names": [name], "group": "objects", "held_out_keywords": []} for name in names}
    concepts["flag-x"] = {"names": ["flag of X"], "group": "flags", "held_out_keywords": []}
    (tmp_path / "concepts.json").write_text(json.dumps(concepts))
    return tmp_path


def test_images_of_all_models_are_shuffled_and_the_key_names_them(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blind_test, "PAGE", 6)
    models = [str(save_model(tmp_path / name)) for name in ("one", "two")]
    out = tmp_path / "blind"
    arguments = ["blind-test", str(out), "--data", str(data), "--count", "5", "--seed", "3"]
    arguments += [word for model in models for word in ("--model", model)]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    key = [line.split("\t") for line in (out / "key.tsv").read_text().splitlines()]
    assert [number for number, _, _ in key] == [str(number) for number in range(1, 11)]
    prompts = blind_test.blind_prompts(data, 5, 3)
    assert sorted(prompts) == ["a cat", "a dog", "a pear", "an apple", "an owl"]
    assert sorted((model, prompt) for _, model, prompt in key) == sorted((m, p) for m in models for p in prompts)
    assert len({model for _, model, _ in key[:5]}) == 2
    assert sorted(path.name for path in out.iterdir()) == ["key.tsv", "sheet-1.png", "sheet-2.png"]
    # the image under a number is the one that the key says
    _, model, prompt = key[0]
    image = HartPipeline.from_pretrained(model, device="cpu")(prompt, seed=prompts.index(prompt)).images[0]
    with Image.open(out / "sheet-1.png") as sheet:
        expected = blind_test.contact_sheet([[image]] * 6, [str(number) for number in range(1, 7)])
        box = (0, 0, sheet.width // 3, sheet.height // 2)
        assert expected.size == sheet.size and expected.crop(box).tobytes() == sheet.crop(box).tobytes()
    again = CliRunner().invoke(app, arguments)
    assert again.exception is not None and "holds a blind test already" in str(again.exception) + again.output


def test_models_that_cannot_be_shown_together_are_refused_before_any_image(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(HartPipeline, "__call__", lambda *_, **__: pytest.fail("generated"))
    model = str(save_model(tmp_path / "one"))
    for other, said in (("emoji", "differ in size"), (str(tmp_path / "two"), "there is no such folder")):
        with pytest.raises(HartError, match=said):
            blind_test.write_blind_test(tmp_path / "blind", data, [model, other], 2, 0, lambda *_: None)


def test_other_seeds_ask_for_others(data: Path) -> None:
    assert blind_test.blind_prompts(data, 3, 0) == blind_test.blind_prompts(data, 3, 0)
    assert len({tuple(blind_test.blind_prompts(data, 3, seed)) for seed in range(5)}) > 1
    with pytest.raises(HartError, match="5 concepts to ask for, not 6: lower --count"):
        blind_test.blind_prompts(data, 6, 0)
