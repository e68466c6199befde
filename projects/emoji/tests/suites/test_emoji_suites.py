"""`hart-emoji evaluate` on a small emoji set, built from stand-ins of the real packages."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner, Result

from emoji_packages import unicode_concepts, write_packages
from hart import HartError
from hart.data import open_dataset
from hart.evaluation import Context, Features
from hart_emoji.cli import app
from hart_emoji.data import build_emoji, plan
from hart_emoji.suites import emoji_set
from hart_emoji.suites.emoji_set import EmojiSet, Opened
from hart_emoji.suites.prompts import (
    free_prompts,
    read_free_prompts,
    seen_names,
    unseen_styles,
    unseen_synonyms,
    unseen_tones,
)
from tiny import save_model

COLUMN = "(efficientnet-lite0 at 128 px)"


@pytest.fixture(scope="module")
def patch() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as patch:
        yield patch


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, patch: pytest.MonkeyPatch) -> Path:
    """The set; features of it are kept in a folder of the test."""
    folder = tmp_path_factory.mktemp("emoji")
    patch.setattr(plan, "HELD_OUT_STYLES", 0.2)
    patch.setattr(plan, "HELD_OUT_TONES", 0.4)
    patch.setattr(plan, "HELD_OUT_KEYWORDS", 0.6)
    patch.setattr(emoji_set, "default_cache", lambda: folder / "features")
    build_emoji(folder / "set", size=16, cache=write_packages(folder / "packages"))
    return folder / "set"


@pytest.fixture(scope="module")
def emoji(data: Path) -> EmojiSet:
    return EmojiSet(data, 16)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("model"))


def run(suite: str, *arguments: Any) -> Result:
    return CliRunner().invoke(app, ["evaluate", suite, *(str(argument) for argument in arguments)])


def figures(result: Result, out: Path) -> dict[str, Any]:
    assert result.exit_code == 0, result.output
    values: dict[str, Any] = json.loads((out / "figures.json").read_text())
    return values


def test_prompts_ask_for_what_training_has_seen_and_has_not(data: Path, emoji: EmojiSet) -> None:
    captions = {caption for captions in open_dataset(data, "train", 16).texts for caption in captions}
    for prompt in seen_names(emoji, 100, 0).prompts:
        (number,), row = prompt.accepted, prompt.rendering
        assert emoji.entry(number).names[0] in captions and emoji.entry(number).names[0] in prompt.text
        assert emoji.entry(number).group != "flags"
        assert row in emoji.training and emoji.tone[row] is None and emoji.concept[row] == number
    for prompt in unseen_synonyms(emoji, 100, 0).prompts:
        assert not any(prompt.text in caption.split() for caption in captions)
        assert all(prompt.text in emoji.entry(n).held_out_keywords for n in prompt.accepted)
    for group in (unseen_styles(emoji, 100, 0), unseen_tones(emoji, 100, 0)):
        assert group.prompts
        assert not set(group.texts) & captions
        for prompt in group.prompts:
            assert prompt.rendering is not None
            assert prompt.rendering not in emoji.training
            assert emoji.style_words[emoji.style[prompt.rendering]] in prompt.text
            assert emoji.slugs[prompt.accepted[0]].split("-")[-1] in prompt.text
            assert ("skin" in prompt.text) == (group.key == "tones")


def test_a_set_that_has_been_damaged_is_refused(data: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(data, tmp_path / "set")
    shard = copy / "val-0000.tar"
    shard.write_bytes(shard.read_bytes().replace(b"RIFF", b"NONE", 1))
    with pytest.raises(HartError, match=r"set: 1 image cannot be read .*: build it again"):
        EmojiSet(copy, 16)


@pytest.mark.parametrize(("size", "said"), [(16, 0), (24, 1)])
def test_images_that_are_enlarged_for_a_model_are_said(data: Path, size: int, said: int) -> None:
    notes: list[str] = []
    pipe = SimpleNamespace(image_size=size, device=torch.device("cpu"))
    options: Any = SimpleNamespace(pipeline=lambda: pipe, data=data, features="efficientnet-lite0")
    Opened.by(Context(options, data, note=notes.append))
    assert len(notes) == said and all("of 16 px are enlarged" in note for note in notes)


def test_prompts_are_those_of_the_seed(emoji: EmojiSet) -> None:
    assert seen_names(emoji, 5, 0) == seen_names(emoji, 5, 0)
    assert seen_names(emoji, 5, 0) != seen_names(emoji, 5, 1)
    assert seen_names(emoji, 3, 0).prompts == seen_names(emoji, 5, 0).prompts[:3]


def test_features_are_kept(emoji: EmojiSet, tmp_path: Path) -> None:
    class Counting:
        name, weights, seen = "mean", "1", 0

        def __call__(self, pixels: Any) -> Any:
            self.seen += len(pixels)
            return Features(pixels.float().mean(dim=(2, 3)))

    extractor = Counting()
    first = emoji.features(extractor, lambda *_: None, tmp_path)
    assert first.shape == (len(emoji), 3) and extractor.seen == len(emoji)
    assert first.equal(emoji.features(extractor, lambda *_: None, tmp_path)) and extractor.seen == len(emoji)
    extractor.weights = "2"
    emoji.features(extractor, lambda *_: None, tmp_path)
    assert extractor.seen == 2 * len(emoji)


def test_agreement(model: Path, data: Path, tmp_path: Path) -> None:
    free, out = tmp_path / "free.toml", tmp_path / "out"
    free.write_text('[fruit]\n"a juicy pear" = ["pear"]\n"a fruit" = ["pear", "peach"]\n[odd]\n"two moods" = []\n')
    arguments = ("agreement", "--model", model, "--data", data, "--limit", 6, "--resamples", 0, "--device", "cpu",
                 "--free-prompts", free, "--out", out)  # fmt: skip
    values = figures(run(*arguments), out)
    rows = values["figures"]
    concepts = values["counts"]["concepts"]
    top = f"right concept in the nearest 1 {COLUMN}"
    assert rows["names seen: chance"][top]["value"] == pytest.approx(1 / concepts)
    assert rows["free prompts: chance"][top]["value"] == pytest.approx(1.5 / concepts)
    assert values["counts"]["free"] == 3
    # every concept is among the nearest twenty of thirteen
    for group in ("names seen", "synonyms never seen", "style x concept never seen", "free prompts"):
        assert rows[f"{group}: generated"][f"right concept in the nearest 20 {COLUMN}"]["value"] == 1
    # a held-out rendering is the nearest to itself: style and tone are right, and chance is not
    for group, column in (
        ("style x concept", f"right style {COLUMN}"),
        ("style x concept", "right style (colours)"),
        ("skin tone x concept", "right skin tone (colours)"),
    ):
        own, chance = (rows[f"{group} never seen: {row}"][column]["value"]
                       for row in ("the rendering itself", "chance"))  # fmt: skip
        assert own == 1 and chance < 0.5
    assert {"names seen: codes", "names seen: codes and exact residual"} < set(rows)
    assert "names seen: the rendering itself" not in rows
    sheets = {"names.png", "synonyms.png", "styles.png", "tones.png", "free.png"}
    assert sheets <= {path.name for path in out.iterdir()}
    # what is generated is kept
    kept = (out / "names" / "images" / "000001.png").stat().st_mtime_ns
    (out / "names" / "images" / "000000.png").unlink()
    assert figures(run(*arguments), out)["figures"] == rows
    assert (out / "names" / "images" / "000001.png").stat().st_mtime_ns == kept


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[a]\n'x' = ['no-such-thing']", "no concept 'no-such-thing'"),
        ("[a]\n'x' = 'pear'", 'give tables of "prompt"'),
        ("'x' = ['pear']", 'give tables of "prompt"'),
        ("[a", "is not TOML"),
    ],
)
def test_free_prompts_of_another_form_are_refused(emoji: EmojiSet, tmp_path: Path, content: str, said: str) -> None:
    (tmp_path / "free.toml").write_text(content)
    with pytest.raises(HartError, match=said):
        free_prompts(emoji, tmp_path / "free.toml", 10, 0)


def test_sampling(model: Path, data: Path, tmp_path: Path) -> None:
    arguments = ("sampling", "--model", model, "--data", data, "--limit", 5, "--resamples", 2, "--device", "cpu",
                 "--out", tmp_path)  # fmt: skip
    some = figures(run(*arguments, "--only", "discrete-only", "--only", "diffusion-steps-1"), tmp_path)
    assert list(some["figures"]) == ["discrete-only", "diffusion-steps-1"]
    columns = {name.split(" (")[0] for name in some["figures"]["discrete-only"]}
    top = {f"right concept in the nearest {n}" for n in (1, 5, 20)}
    assert columns == {"FID", "KID", "precision", "recall", "right style", "seconds an image"} | top
    plans = [json.loads((tmp_path / name / "images" / "plan.json").read_text()) for name in some["figures"]]
    assert plans[0]["prompts"] == plans[1]["prompts"]
    assert plans[0]["sampling"]["discrete_only"] and plans[1]["sampling"]["diffusion_steps"] == 1
    # what was measured is kept, times included
    (tmp_path / "discrete-only" / "images" / "000000.png").unlink()
    more = figures(run(*arguments, "--only", "own", "--only", "discrete-only"), tmp_path)["figures"]
    assert list(more) == ["own", "discrete-only"]
    assert more["discrete-only"] == some["figures"]["discrete-only"]
    assert more["own"] != more["discrete-only"]
    # for this set alone: the same emoji in other pixels are another
    build_emoji(tmp_path / "larger", size=24, cache=write_packages(tmp_path / "packages"))
    other = run(*arguments, "--only", "discrete-only", "--data", tmp_path / "larger")
    assert figures(other, tmp_path)["figures"]["discrete-only"] != some["figures"]["discrete-only"]
    unknown = run(*arguments, "--only", "guidance")
    assert unknown.exit_code == 2 and "guidance-2.5" in unknown.stderr


def test_copies(model: Path, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    values = figures(
        run("copies", "--model", model, "--data", data, "--limit", 4, "--device", "cpu", "--out", out), out
    )
    column = "pixel distance (32 px), nearer than 95% of held-out"
    assert set(values["figures"]) == {
        "generated: names seen",
        "generated: style x concept never seen",
        "held-out renderings",
        "training images through the tokenizer",
    }
    assert values["figures"]["held-out renderings"][column]["value"] <= 0.25  # of four, at most the nearest
    column = "pixel distance (32 px), as near as 95% of copies"
    assert values["figures"]["training images through the tokenizer"][column]["value"] >= 0.75
    with Image.open(out / "styles.png") as styles:
        assert styles.width > 7 * 128
    assert (out / "nearest.png").exists()


def test_the_free_prompts_of_the_project_are_two_hundred_in_all_groups() -> None:
    tables = read_free_prompts(Path(__file__).parents[2] / "recipes" / "free_prompts.toml")
    prompts = [prompt for entries in tables.values() for prompt in entries]
    assert len(prompts) == len(set(prompts)) == 200
    asked = {slug for entries in tables.values() for slugs in entries.values() for slug in slugs}
    assert asked - unicode_concepts() == {"man-beard", "person-beard"}, "captions call them otherwise"
