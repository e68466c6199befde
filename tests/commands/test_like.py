"""`hart generate --like` and `--lora`: images generated again."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from command_line import outputs, refused, run
from hart.checkpoint.loading import load_model
from hart.generation.metadata import read_record
from hart.inference import speed
from helpers import store_adapter


def test_like_draws_the_same_file_again(text_model: Path, tmp_path: Path) -> None:
    """Images that were generated three at a time; the tests below are about single ones."""
    paths = outputs(run("generate", "a cat", "a dog", "-n", 2, "--seed", 3, "--batch-size", 3, "--guidance", 3,
                      "--dtype", "bf16", "--model", text_model, "--out", tmp_path), notes=True)  # fmt: skip
    for path in paths:
        (again,) = outputs(run("generate", "--like", path, "--out", tmp_path / "again"), notes=True)
        assert again.read_bytes() == path.read_bytes()


def test_like_changes_what_is_given(text_model: Path, class_model: Path, tmp_path: Path) -> None:
    (path,) = outputs(run("generate", "cat", "--seed", 3, "--guidance", 3, "--model", text_model, "--out", tmp_path))
    old = read_record(path)
    (other,) = outputs(run("generate", "dog", "--like", path, "--top-k", 5, "--out", tmp_path / "2"))
    new = read_record(other)
    assert (new.prompt, new.seed, new.model) == ("dog", 3, old.model)
    assert new.settings.sampling == old.settings.sampling.replace(top_k=5)
    more = outputs(run("generate", "--like", path, "-n", 2, "--out", tmp_path / "3"))
    assert [(read_record(p).prompt, read_record(p).seed) for p in more] == [("cat", 3), ("cat", 4)]
    assert more[0].read_bytes() == path.read_bytes()
    (large,) = outputs(run("generate", "--like", path, "--size", 16, "--out", tmp_path / "5"), notes=True)
    (wide,) = outputs(run("generate", "--like", large, "--aspect", "4:1", "--out", tmp_path / "5"), notes=True)
    assert read_record(wide).settings.size == "32x8", "as large as that square"
    (moved,) = outputs(run("generate", "2", "--like", path, "--model", class_model, "--out", tmp_path / "4"))
    assert read_record(moved).model == str(class_model)


def test_settings_that_are_given_win_over_those_of_a_level(
    text_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(speed, "LEVELS", {"draft": speed.Speed(unguided_scales=2, diffusion_steps=2)})
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a cat")

    def generated(*options: object) -> Path:
        result = run("generate", *options, "--out", tmp_path / f"{len(list(tmp_path.iterdir()))}")
        assert "approximate unless asked otherwise: 2 diffusion steps" in result.stderr
        return Path(result.stdout.strip())

    at_level = ("--model", text_model, "--speed", "draft")
    path = generated("a cat", *at_level, "--diffusion-steps", 3)
    sampling = read_record(path).settings.sampling
    assert (sampling.unguided_scales, sampling.diffusion_steps) == (2, 3)
    assert generated("--like", path).read_bytes() == path.read_bytes()
    of_job = generated("--prompts-file", prompts, *at_level)
    assert read_record(of_job).settings.sampling == sampling.replace(diffusion_steps=2)


def test_an_adapter_draws_along_and_is_recorded(
    text_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("peft")
    store_adapter(load_model(text_model).hart, tmp_path / "adapter", alpha=2, value=0.2)
    options = ("a cat", "--model", text_model, "--guidance", 0, "--lora", tmp_path / "adapter")
    (plain,) = outputs(run("generate", *options[:-2], "--out", tmp_path / "1"))
    (path,) = outputs(run("generate", *options, "--lora-scale", 4, "--out", tmp_path / "2"))
    assert path.read_bytes() != plain.read_bytes()
    settings = read_record(path).settings
    assert (settings.loras, settings.lora_scale) == ((str(tmp_path / "adapter"),), 4)
    (again,) = outputs(run("generate", "--like", path, "--out", tmp_path / "3"))
    assert again.read_bytes() == path.read_bytes()
    (off,) = outputs(run("generate", "--like", path, "--lora-scale", 0, "--out", tmp_path / "4"))
    assert Image.open(off).tobytes() == Image.open(plain).tobytes()
    assert "adapter" in refused(run("generate", "a cat", "--model", text_model, "--lora", tmp_path, "--out", tmp_path))
    monkeypatch.chdir(tmp_path)
    (mixed,) = outputs(run("mix", "a cat", "a dog", "--model", text_model, "--lora", "adapter", "--out", "5"))
    assert read_record(mixed).settings.loras == (str(tmp_path / "adapter"),), "wherever it is generated again"


def test_like_says_that_the_model_of_an_image_is_gone(text_model: Path, tmp_path: Path) -> None:
    moved = shutil.copytree(text_model, tmp_path / "model")
    (path,) = outputs(run("generate", "cat", "--model", moved, "--out", tmp_path / "1"))
    moved.rename(tmp_path / "elsewhere")
    said = refused(run("generate", "--like", path, "--out", tmp_path / "2"))
    assert said == f"error: --like: the image was made by {moved}, where no model is any more: give it with --model"
    (again,) = outputs(run("generate", "--like", path, "--model", tmp_path / "elsewhere", "--out", tmp_path / "2"))
    assert Image.open(again).tobytes() == Image.open(path).tobytes()


def test_like_refuses_images_that_say_nothing(tmp_path: Path) -> None:
    plain, text, jpeg = (tmp_path / name for name in ("plain.png", "notes.txt", "served.jpg"))
    Image.new("RGB", (4, 4)).save(plain)
    Image.new("RGB", (4, 4)).save(jpeg)
    text.write_text("no image")
    assert "lacks prompt" in refused(run("generate", "--like", plain, "--out", tmp_path))
    assert "is JPEG: only PNG files hold settings" in refused(run("generate", "--like", jpeg, "--out", tmp_path))
    assert "not an image" in refused(run("generate", "--like", text, "--out", tmp_path))
    assert "no such file" in refused(run("generate", "--like", tmp_path / "none.png", "--out", tmp_path))


@pytest.mark.parametrize("settings", ["{", '{"sampling": 3, "size": 8, "device": "cpu", "dtype": "float32"}'])
def test_like_refuses_damaged_settings(tmp_path: Path, settings: str) -> None:
    chunks = PngInfo()
    for name, value in {"prompt": "cat", "seed": "1", "model": "m", "settings": settings, "Software": "hart 0"}.items():
        chunks.add_text(name, value)
    Image.new("RGB", (4, 4)).save(tmp_path / "bad.png", pnginfo=chunks)
    assert "settings" in refused(run("generate", "--like", tmp_path / "bad.png", "--out", tmp_path))


def test_like_says_when_another_version_drew_the_image(text_model: Path, tmp_path: Path) -> None:
    (path,) = outputs(run("generate", "cat", "--model", text_model, "--out", tmp_path))
    with Image.open(path) as image:
        chunks = PngInfo()
        for name, value in image.text.items():  # type: ignore[attr-defined]
            chunks.add_text(name, "hart 0.0.1" if name == "Software" else value)
        image.save(path, pnginfo=chunks)
    result = run("generate", "--like", path, "--out", tmp_path / "again")
    assert result.exit_code == 0
    assert "0.0.1" in result.stderr
