"""`hart edit`, `hart vary` and `hart mix`."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from PIL import Image

from command_line import outputs, refused, run
from edited_images import LEFT, SIDE, mask_of, picture
from hart import HartPipeline
from hart.generation.metadata import EditSource, MixSettings, read_record


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    picture().save(tmp_path / "cat.png")
    mask_of(*LEFT).save(tmp_path / "mask.png")
    return tmp_path / "cat.png", tmp_path / "mask.png"


def test_edit_writes_what_the_pipeline_draws_and_where_from(
    text_model: Path, files: tuple[Path, Path], tmp_path: Path
) -> None:
    image, mask = files
    options = ("--model", text_model, "--seed", 3, "--out", tmp_path / "out")
    first, second = outputs(run("edit", image, "a dog", "--mask", mask, "--top-k", 5, "-n", 2, *options))
    assert [path.name for path in (first, second)] == ["000-a-dog-3.png", "001-a-dog-4.png"]
    pipe = HartPipeline.from_pretrained(text_model, device="cpu")
    expected = pipe.edit(picture(), mask_of(*LEFT), "a dog", seed=3, top_k=5, num_images_per_prompt=2).images
    for path, drawn in zip((first, second), expected, strict=True):
        with Image.open(path) as written:
            assert written.tobytes() == drawn.tobytes()
    digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in files]
    assert read_record(first).settings.edit == EditSource("cat.png", digests[0], "mask.png", digests[1])
    assert "was made from cat.png, which it does not hold" in refused(run("generate", "--like", first, *options[:2]))
    (unsaid,) = outputs(run("edit", image, "--mask", mask, *options))
    assert unsaid.name == "002-cat-3.png"
    (followed,) = outputs(run("edit", image, "a dog", "--source-prompt", "a cat", *options))
    source = read_record(followed).settings.edit
    assert source is not None
    assert (source.source_prompt, source.kept_scales, source.followed_scales) == ("a cat", 0, 3)
    (lent,) = outputs(run("edit", image, "a dog", "--mask", mask, "--style", mask, *options))
    drawn = pipe.edit(picture(), mask_of(*LEFT), "a dog", style=mask_of(*LEFT), seed=3).images[0]
    with Image.open(lent) as written:
        assert written.tobytes() == drawn.tobytes()
    source = read_record(lent).settings.edit
    assert source is not None and (source.style, source.style_strength) == ("mask.png", 1)
    larger = run("edit", image, "a dog", "--size", "16x8", *options)
    (wide,) = outputs(larger, notes=True)
    assert "at 16x8 things come out stretched" in larger.stderr, "under a mask too"
    with Image.open(wide) as written:
        assert written.size == (2 * SIDE, SIDE)


def test_vary_and_mix(text_model: Path, files: tuple[Path, Path], tmp_path: Path) -> None:
    options = ("--model", text_model, "--seed", 2, "--out", tmp_path / "out")
    pipe = HartPipeline.from_pretrained(text_model, device="cpu")
    (varied,) = outputs(run("vary", files[0], "--kept-scales", 1, *options))
    (styled,) = outputs(run("vary", files[0], "a dog", "--style-strength", 2, *options))
    (mixed,) = outputs(run("mix", "a cat", "a dog", "--weights", "0,0.5,1,1", *options))
    for path, drawn in (
        (varied, pipe.vary(picture(), kept_scales=1, seed=2)),
        (styled, pipe.vary(picture(), "a dog", style_strength=2, seed=2)),
        (mixed, pipe.mix(["a cat", "a dog"], [0, 0.5, 1, 1], seed=2)),
    ):
        with Image.open(path) as written:
            assert written.tobytes() == drawn.images[0].tobytes()
    source = read_record(styled).settings.edit
    assert source is not None and (source.kept_scales, source.style_strength) == (0, 2)
    assert read_record(mixed).settings.mix == MixSettings("a dog", (0, 0.5, 1, 1))
    again = outputs(run("generate", "--like", mixed, "--out", tmp_path / "again"))
    assert again[0].read_bytes() == mixed.read_bytes()
    assert [mixed.name, again[0].name] == ["002-a-cat-a-dog-2.png", "000-a-cat-a-dog-2.png"]
    other = run("generate", "a hat", "--like", mixed, "--out", tmp_path / "other")
    assert other.exit_code == 0
    assert other.stderr == 'note: --like: the image mixes two prompts, and so do these: the second is "a dog"\n'
    smaller = run("mix", "a cat", "a dog", "--size", 4, "--model", text_model, "--out", tmp_path / "4")
    assert smaller.exit_code == 0 and "at 4x4 things come out stretched" in smaller.stderr
    picture(12, 8).save(tmp_path / "wide.png")
    wider = run("vary", tmp_path / "wide.png", "--model", text_model, "--out", tmp_path / "12")
    assert wider.exit_code == 0 and "at 12x8 things come out stretched" in wider.stderr
    assert " px, the result " not in wider.stderr
    picture(24, 24).save(tmp_path / "photo.png")
    smaller = run("vary", tmp_path / "photo.png", "--model", text_model, "--out", tmp_path / "24")
    assert smaller.exit_code == 0 and f"photo.png has 24x24 px, the result {SIDE}x{SIDE}" in smaller.stderr
    picture(24, 16).save(tmp_path / "photo.png")
    wide = run("vary", tmp_path / "photo.png", "--model", text_model, "--out", tmp_path / "24x16")
    assert "for good images keep to a trained size, and resize before or after" in wide.stderr
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a cat")
    for more in ((), ("--prompts-file", prompts)):
        done = run("generate", "--like", mixed, "--size", 4, *more, "--out", tmp_path / "smaller")
        said = refused(done, notes=bool(more))
        assert said.startswith("error: --like: the image mixes two prompts over 4 scales, and images of 4x4 have 2: ")


def test_a_mask_that_redraws_nothing_is_remarked_on(text_model: Path, files: tuple[Path, Path], tmp_path: Path) -> None:
    mask_of().save(tmp_path / "black.png")
    done = run("edit", files[0], "a dog", "--mask", tmp_path / "black.png", "--model", text_model, "--out", tmp_path)
    assert done.exit_code == 0 and done.stderr.startswith("note: the image stays as it is: no part of its mask")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("edit", "none.png", "a cat"), "none.png"),
        (("edit", "cat.png", "a cat"), "nothing to redraw"),
        (("edit", "cat.png", "a cat", "--lora-scale", 2), "give --lora too"),
        (("edit", "cat.png", "a cat", "--mask", "cat.png", "--kept-scales", 9), "kept_scales 9"),
        (("edit", "cat.png", "a cat", "--mask", "cat.png", "--followed-scales", 1), "requires --source-prompt"),
        (("edit", "cat.png", "--source-prompt", "a cat"), "describes the image as it is: give PROMPT too"),
        (("mix", "a cat", "a dog", "--weights", "0,x"), "--weights[1]: expected a number"),
        (("mix", "a cat", "a dog", "--weights", "0,1"), "give 4 from 0 to 1"),
        (("mix", "a cat", "a dog", "--weights", "0,0,nan,1"), "--weights[2] must be a finite number"),
        (("mix", "a cat", "a dog", "--weights", "0,1", "--switch", 1), "either --weights or --switch"),
    ],
)
def test_what_cannot_be_done_is_one_line(
    text_model: Path,
    files: tuple[Path, Path],
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[object, ...],
    said: str,
) -> None:
    monkeypatch.chdir(files[0].parent)
    given = set(Path().iterdir())
    assert said in refused(run(*arguments, "--model", text_model))
    assert set(Path().iterdir()) == given, "no empty folder is left"


@pytest.mark.parametrize("command", ["edit", "vary"])
def test_a_canvas_that_is_too_large_is_refused_before_it_is_made(
    text_model: Path, files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    def laid_out(*_: object) -> None:
        raise AssertionError("the image was laid on its canvas")

    monkeypatch.setattr("hart.inference.memory.free_memory", lambda _: 0)
    monkeypatch.setattr("hart.inference.editing.laid_out", laid_out)
    assert "of memory besides the model" in refused(run(command, files[0], "a dog", "--model", text_model))
