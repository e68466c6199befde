"""What `hart generate` writes, where, and what it says about prompts."""

from __future__ import annotations

import io
import json
import os
import warnings
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from command_line import outputs, refused, run, run_in_process
from hart import HartPipeline, __version__
from hart.commands.console import NumberedFiles, prompt_notes, slug
from hart.commands.generate import read_prompts
from hart.errors import PromptWarning
from hart.generation.metadata import ImageSettings, read_record, save_png
from hart.inference.components import Components
from processes import CONTEXT
from waiting import PATIENCE

LONG = "a red apple on a table"  # of letters alone, 12 tokens end inside it


def written(*arguments: Any) -> list[Path]:
    return outputs(run("generate", *arguments))


def test_generate_writes_one_png_an_image_named_after_prompt_and_seed(text_model: Path, tmp_path: Path) -> None:
    paths = outputs(
        run("generate", "A red apple!", "a cat", "--model", text_model, "-n", 2, "--seed", 5, "--out", tmp_path)
    )
    names = ["000-a-red-apple-5.png", "001-a-red-apple-6.png", "002-a-cat-7.png", "003-a-cat-8.png"]
    assert paths == [tmp_path / name for name in names]
    assert sorted(tmp_path.iterdir()) == paths
    expected = HartPipeline.from_pretrained(str(text_model), device="cpu")(
        ["A red apple!", "a cat"], num_images_per_prompt=2, seed=5
    )
    for path, image in zip(paths, expected.images, strict=True):
        with Image.open(path) as written:
            assert written.tobytes() == image.tobytes()


def test_images_carry_prompt_seed_model_and_settings(text_model: Path, tmp_path: Path) -> None:
    (path,) = outputs(run("generate", "café", "--model", text_model, "--seed", 9, "--guidance", 2, "--top-k", 0,
                        "--top-p", 0.9, "--no-gumbel-smoothing", "--maskgit-steps", 2, "--diffusion-steps", 3,
                        "--discrete-only", "--negative-prompt", "a dog", "--size", 8, "--device", "cpu",
                        "--dtype", "bf16", "--out", tmp_path), notes=True)  # fmt: skip
    with Image.open(path) as image:
        chunks = image.text  # type: ignore[attr-defined]
    assert chunks["prompt"] == "café"
    assert chunks["seed"] == "9"
    assert chunks["model"] == str(text_model)
    assert chunks["Software"] == f"hart {__version__}"
    assert json.loads(chunks["settings"]) == {
        "sampling": {
            "guidance_scale": 2.0,
            "top_k": None,
            "top_p": 0.9,
            "gumbel_smoothing": False,
            "maskgit_steps": 2,
            "diffusion_steps": 3,
            "discrete_only": True,
            "unguided_scales": 0,
            "greedy_scales": 0,
        },
        "size": 8,
        "device": "cpu",
        "dtype": "bfloat16",
        "speed": None,
        "cache": None,
        "negative_prompt": "a dog",
        "random_weights": False,
        "loras": [],
        "lora_scale": 1.0,
        "batch": None,
        "edit": None,
        "mix": None,
    }


def test_prompts_come_from_the_file_too(text_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("./-").write_text("\ufeffa dog\n\n  a house  \n", encoding="utf-8")
    paths = outputs(run("generate", "a cat", "--prompts-file", "./-", "--model", text_model, "--out", "new/out"))
    assert [read_record(path).prompt for path in paths] == ["a cat", "a dog", "a house"]


def test_a_table_of_prompts_is_not_taken_line_by_line(tmp_path: Path) -> None:
    table = tmp_path / "prompts.CSV"
    table.write_text('id,prompt\n1,"a cat, asleep"\n')
    assert refused(run("generate", "--prompts-file", table, "--out", tmp_path / "out")) == (
        f"error: {table}: is a table: write its prompts into a text file, one per line"
    )


def test_prompts_come_from_standard_input_and_the_same_ones_continue(text_model: Path, tmp_path: Path) -> None:
    command = ("generate", "a cat", "--prompts-file", "-", "--model", text_model, "--out", tmp_path)
    sent = "\ufeffa dog\r\n\n  café\n-".encode()
    paths = outputs(run(*command, sent=sent))
    assert [read_record(path).prompt for path in paths] == ["a cat", "a dog", "café", "-"]
    again = run(*command, sent=sent)
    assert (again.exit_code, again.stdout) == (0, ""), "nothing is missing"


@pytest.mark.parametrize(
    ("prompts", "sent", "said"),
    [
        (("--prompts-file", "-"), b"\n \n", "standard input: holds no prompt"),
        (("--prompts-file", "-"), b"\xff\xfe\x00\x80", "standard input: is not UTF-8 text"),
        (("a dog", "-"), b"a cat", "standard input, which only hart generate --prompts-file reads"),
    ],
)
def test_what_is_sent_and_cannot_be_read_is_said(
    tmp_path: Path, prompts: tuple[str, ...], sent: bytes, said: str
) -> None:
    assert said in refused(run("generate", *prompts, "--out", tmp_path / "out", sent=sent))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--guidance", -1), "error: --guidance must be at least 0, not -1.0"),
        (("--size", "10x"), "error: --size: '10x': give pixels"),
        (("--aspect", "1:99"), "error: --aspect: '1:99': give width:height"),
        (("--like", "none.png"), "error: none.png: no such file"),
        (("--c2pa-certificate", "none", "--c2pa-key", "none"), "none: no such file"),
    ],
)
def test_a_wrong_option_is_said_by_its_name_before_prompts_are_waited_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, options: tuple[object, ...], said: str
) -> None:
    def waited(_: str) -> list[str]:
        raise AssertionError("prompts were read")

    monkeypatch.setattr("hart.commands.generate.read_prompts", waited)
    assert said in refused(run("generate", "--prompts-file", "-", *options, "--out", tmp_path))


def test_prompts_of_a_pipe_are_sent_to_standard_input(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    said = refused(run("generate", "--prompts-file", tmp_path / "pipe", "--out", tmp_path / "out"))
    assert "not a regular file: send prompts to standard input, with --prompts-file -" in said


def test_a_person_at_a_terminal_is_told_that_prompts_are_waited_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    terminal = io.TextIOWrapper(io.BytesIO(b"a cat\na dog\n"))
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr("sys.stdin", terminal)
    assert read_prompts("-") == ["a cat", "a dog"]
    assert "note: type prompts, one per line; Ctrl-D" in capsys.readouterr().err


def test_a_class_model_takes_numbers(class_model: Path, tmp_path: Path) -> None:
    paths = outputs(run("generate", "3", "0", "--model", class_model, "--out", tmp_path))
    assert [path.name for path in paths] == ["000-3-0.png", "001-0-1.png"]
    assert "by number" in refused(run("generate", "a cat", "--model", class_model, "--out", tmp_path))


def test_a_grid_comes_after_the_images_and_records_them(text_model: Path, tmp_path: Path) -> None:
    paths = outputs(run("generate", "a cat", "a dog", "-n", 3, "--batch-size", 2, "--grid", "--model", text_model,
                        "--out", tmp_path))  # fmt: skip
    assert len(paths) == 7
    with Image.open(paths[-1]) as sheet:
        assert sheet.width > sheet.height > 2 * 8  # two rows of three
        said = sheet.info
    records = [read_record(path) for path in paths[:-1]]
    assert json.loads(said["images"]) == [{"prompt": record.prompt, "seed": record.seed} for record in records]
    assert ImageSettings.from_dict(json.loads(said["settings"])) == records[0].settings.replace(batch=None)
    assert said["model"] == str(text_model) and "trainedAlgorithmicMedia" in said["XML:com.adobe.xmp"]
    assert "is a contact sheet" in refused(run("generate", "--like", paths[-1], "--out", tmp_path))


def test_random_weights_need_a_configuration_only(text_model: Path, tmp_path: Path) -> None:
    paths = outputs(
        run("generate", "cat", "--random-weights", "--model", text_model / "config.json", "--out", tmp_path)
    )
    again = outputs(run("generate", "--like", paths[0], "--out", tmp_path / "again"))
    assert paths[0].read_bytes() == again[0].read_bytes()


def test_nothing_is_written_over_and_names_sort_as_they_were_written(text_model: Path, tmp_path: Path) -> None:
    options = ("--model", text_model, "--out", tmp_path)
    first = written("a cat", *options, "-n", 2, "--seed", 3)
    kept = [path.read_bytes() for path in first]
    later = written("a cat", *options, "-n", 2, "--seed", 3, "--guidance", 1)
    later += written("--like", first[1], "--guidance", 5, "--out", tmp_path)
    assert [path.read_bytes() for path in first] == kept
    assert [path.name for path in first + later] == [
        "000-a-cat-3.png", "001-a-cat-4.png", "002-a-cat-3.png", "003-a-cat-4.png", "004-a-cat-4.png",
    ]  # fmt: skip
    assert sorted(tmp_path.iterdir()) == first + later
    assert read_record(later[-1]).settings.sampling.guidance_scale == 5


def test_grids_and_reconstructions_get_new_names_too(text_model: Path, tmp_path: Path) -> None:
    options = ("--model", text_model, "--out", tmp_path)
    grids = [written("a cat", *options, "--grid")[-1] for _ in range(2)]
    assert [path.name for path in grids] == ["grid-a-cat-0.png", "grid-a-cat-0-2.png"]
    names = [run("reconstruct", grids[0], *options).stdout.split()[0] for _ in range(2)]
    assert [Path(name).name[:4] for name in names] == ["002-", "003-"]
    assert "many for one sheet" in refused(run("generate", "a cat", *options, "-n", 10**9, "--grid"))


def test_a_single_image_may_have_a_name(text_model: Path, tmp_path: Path) -> None:
    named, options = tmp_path / "new" / "cat.png", ("--model", text_model)
    assert written("a cat", *options, "--out", named) == [named]
    assert read_record(named).prompt == "a cat"
    content = named.read_bytes()
    assert "nothing is overwritten" in refused(run("generate", "a dog", *options, "--out", named))
    (again,) = outputs(run("generate", "--like", named, "--out", tmp_path / "again.png"))
    assert named.read_bytes() == content == again.read_bytes()
    folder = tmp_path / "folder.png"
    folder.mkdir()
    assert written("a cat", *options, "--out", folder)[0].parent == folder


@pytest.mark.parametrize(
    ("prompts", "name"),
    [
        (["A red apple!"], "a-red-apple"),
        (["\U0001f438 in \u96ea"], "frog-in-\u96ea"),
        (["..."], "image"),
        (["x" * 99], "x" * 40),
        (["an owl", "a penguin"], "an-owl-a-penguin"),
        (["an owl", "a penguin in a tall black hat"], "an-owl-a-penguin-in-a-tall-black-hat"),
        (["x" * 99, "y" * 99], f"{'x' * 19}-{'y' * 19}"),
    ],
)
def test_names_of_files_say_what_was_asked_for(prompts: list[str], name: str) -> None:
    assert slug(*prompts) == name


def test_files_that_others_put_there_meanwhile_are_passed_over(tmp_path: Path) -> None:
    image, target = Image.new("RGB", (4, 4)), tmp_path / "elsewhere.txt"
    target.write_text("kept")
    files = NumberedFiles(tmp_path, 3)
    (tmp_path / "000-x.png").symlink_to(target)  # planted
    (tmp_path / "001-x.png").mkdir()
    path = files.write("x", lambda path: save_png(path, image, overwrite=False))
    assert path.name == "002-x.png"
    assert target.read_text() == "kept"
    gone = tmp_path / "gone"
    gone.mkdir()
    files = NumberedFiles(gone, 1)
    gone.rmdir()
    gone.write_text("a file where the folder was")
    with pytest.raises(OSError):
        files.write("x", lambda path: save_png(path, image, overwrite=False))


def test_processes_that_write_into_one_folder_lose_nothing(text_model: Path, tmp_path: Path) -> None:
    command, results = ("generate", "a cat", "-n", "5", "--model", text_model, "--out", tmp_path), CONTEXT.Queue()
    processes = [CONTEXT.Process(target=run_in_process, args=(command, results)) for _ in range(2)]
    for process in processes:
        process.start()
    codes, said = zip(*(results.get(timeout=PATIENCE) for _ in processes), strict=True)
    printed = "".join(said).splitlines()
    assert codes == (0, 0)
    assert sorted(printed) == sorted(str(path) for path in tmp_path.iterdir())
    assert len(set(printed)) == 10


def test_images_are_printed_as_they_are_written_and_a_stop_says_how_many(
    text_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, calls = Components.images, iter(range(3))

    def stops_at_the_third(self: Components, *given: Any) -> Any:
        if next(calls) == 2:
            raise KeyboardInterrupt
        return images(self, *given)

    monkeypatch.setattr(Components, "images", stops_at_the_third)
    result = run("generate", "a cat", "-n", 40, "--model", text_model, "--out", tmp_path)
    assert result.exit_code == 130
    assert result.stdout.split() == [str(path) for path in sorted(tmp_path.iterdir())]
    assert result.stderr == f"stopped: 2 of 40 in {tmp_path}\n"


def test_memory_does_not_grow_with_what_is_asked_for(
    text_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stops(self: Components, *given: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Components, "images", stops)
    for count in (10**9, 2**62):
        result = run("generate", "a cat", "-n", count, "--model", text_model, "--out", tmp_path)
        assert result.stderr == f"stopped: 0 of {count} in {tmp_path}\n"
    for options, said in (
        (("-n", 10**30), "num_images_per_prompt"),
        (("--batch-size", 10**12), "batch_size"),
        (("--size", 10**12), "size"),
        (("--top-k", 10**30), "error: --top-k must be at most"),
        (("--top-k", -3), "error: --top-k must be at least 0"),
        (("--seed", 2**64), "seed 18446744073709551616: give a whole number"),
    ):
        assert said in refused(run("generate", "a cat", "--model", text_model, "--out", tmp_path, *options))


@pytest.mark.parametrize(
    ("prompts", "said"),
    [
        (["a cat"], []),
        ([LONG], ['is longer than the text encoder reads: "a table" is left out']),
        (["a \u043a\u043e\u0442", "a cat"], ['does not know "\u043a\u043e\u0442"']),
        (["a", "red", "apple"], ['3 prompts of one word each; to generate them as one: hart generate "a red apple"']),
        (["\u201ca", "cat\u201d"], ['hart generate "a cat"']),
        (["apple", "a cat"], []),
        (["a cat", __file__], ["is a file, but is used as a prompt", "is longer than"]),
    ],
)
def test_notes_on_prompts(text_model: Path, tmp_path: Path, prompts: list[str], said: list[str]) -> None:
    result = run("generate", *prompts, "-n", 2, "--model", text_model, "--out", tmp_path)
    assert result.exit_code == 0
    assert len(result.stdout.splitlines()) == len(list(tmp_path.iterdir())) == 2 * len(prompts)
    lines = result.stderr.splitlines()
    assert len(lines) == len(said)
    assert all(line.startswith("note: ") and words in line for line, words in zip(lines, said, strict=True))


def test_a_note_is_said_once_however_often_its_prompt_is_read(capsys: pytest.CaptureFixture[str]) -> None:
    with prompt_notes():
        for words in ("inked", "inked", "by"):
            warnings.warn(f'"{words}" was in no caption', PromptWarning, stacklevel=1)
    assert capsys.readouterr().err.splitlines() == [f'note: "{words}" was in no caption' for words in ("inked", "by")]


@pytest.mark.parametrize(
    ("place", "kind"),
    [("--prompts-file", "device"), ("--prompts-file", "folder"), ("--lora", "fifo"), ("--model", "fifo")],
)
def test_what_is_no_file_is_refused_without_waiting(text_model: Path, tmp_path: Path, place: str, kind: str) -> None:
    thing = tmp_path / "thing"
    if kind == "fifo":
        os.mkfifo(thing)
    elif kind == "device":
        thing.symlink_to("/dev/zero")
    else:
        thing.mkdir()
    options = (() if place == "--model" else ("--model", text_model)) + (place, thing)
    assert str(thing) in refused(run("generate", "a cat", *options, "--out", tmp_path / "out"))


def test_names_that_are_no_utf8_are_written_and_printed(text_model: Path, tmp_path: Path) -> None:
    folder = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9")
    result = run("generate", "a cat", "--model", text_model, "--out", folder)
    assert result.exit_code == 0, result.output
    assert result.stdout_bytes.strip() == os.fsencode(folder) + b"/000-a-cat-0.png"
