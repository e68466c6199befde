"""The command `hart` through its entry point: one line for every error, and what a process of its own does."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from command_line import refused, run
from hart import HartPipeline, __version__
from hart.evaluation.suites.core import SUITES
from waiting import PATIENCE

GOLDEN = Path(__file__).parent / "golden"


def test_bad_input_is_one_line_and_exit_code_2(text_model: Path, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("x")
    model = ("--model", text_model, "--out", tmp_path / "out")
    cases: list[tuple[tuple[Any, ...], str]] = [
        (("generate",), "--prompts-file"),
        (("generate", "cat", "--model", "no-such-model", "--out", tmp_path), "unknown model 'no-such-model'"),
        (("generate", "cat", "--model", "hart-0.7b-256", "--out", tmp_path), "--random-weights"),
        (("generate", "cat", "--model", tmp_path, "--out", tmp_path), "no model here"),
        (("generate", "cat", "--model", text_model, "--out", file / "out"), "cannot write there"),
        (("generate", "cat", *model, "--size", 1001), "size 1001"),
        (("generate", "cat", *model, "--device", "toaster"), "unknown device"),
        (("generate", "cat", *model, "--seed", -1), "error: --seed must be at least 0, not '-1'"),
        (("generate", "cat", *model, "-n", 1.5), "error: -n/--images-per-prompt: expected a whole number, got '1.5'"),
        (("generate", "cat", *model, "--guidance", "x"), "error: --guidance: expected a number, got 'x'"),
        (("generate", "cat", *model, "--cache", "int4"), "error: --cache: 'int4' is not one of"),
        (("generate", "cat", *model, "--maskgit-steps", 99), "maskgit_steps"),
        (("generate", "--prompts-file", tmp_path, *model), str(tmp_path)),
        (("generate", "cat", "--no-such-option"), "--no-such-option"),
        (("generate", "-5 apples", *model), "No such option: -5; a text that begins with - goes last, after --; see"),
        (("vary", "cat.png", "--best-of", 4), "No such option: --best-of; see --help"),
        (("vary", "cat.png", "--sed", 3), "No such option: --sed (Possible options: --seed"),
        (("generate", "--apples for 5"), "No such option: --apples for 5; a text that begins with - goes last, after"),
        (("edit", "cat.png", "--mask=a.png", "--mask=b.png"), "'--mask': takes one file, and is given more than once"),
        (("generate", "cat", *model, "--lora", tmp_path, "--lora-scale", 50), "--lora-scale must be at most 10, not"),
        (("reconstruct", tmp_path / "none.png", *model), "no such file"),
        (("reconstruct", file, *model), "not an image"),
        (("reconstruct", *model), "Missing argument"),
        (("mix", "a cat"), "Missing argument 'second'; usage: "),
        (("mix", "cat", "dog", "-n", 2, "--out", "cat.png"), "this command writes more: give a folder"),
        (("convert", text_model, file / "own"), "cannot write there"),
        (("verify", GOLDEN / "var-c2i", "--device", "tpu"), "unknown device 'tpu'"),
        (("train", "transformer", tmp_path / "none.toml", "--out", tmp_path / "run"), "none.toml"),
        (("no-such-command",), "no-such-command"),
        (
            ("generate", "cat", "dog", *model[:2], "--out", "cat.png"),
            "names one image, and this command writes more: give a folder",
        ),
        (("generate", "cat", *model[:2], "--out", "cat.png", "--grid"), "this command writes more: give a folder"),
        (("generate", "--prompts-file", file, "--out", "cat.png"), "this command writes more: give a folder"),
        *(
            (("mix", "cat", "dog", "--out", f"cat.{kind}"), "images are written as PNG: give cat.png, or a folder")
            for kind in ("jpg", "webp", "TIFF", "tif", "bmp", "gif", "avif")
        ),
    ]
    given = set(tmp_path.iterdir())
    for arguments, message in cases:
        assert message in refused(run(*arguments)), arguments
    assert set(tmp_path.iterdir()) == given, "a command that refuses leaves no folder"


@pytest.mark.parametrize("group", [(), ("evaluate",), ("data",)])
def test_a_group_without_a_command_lists_its_commands(group: tuple[str, ...]) -> None:
    alone, asked = run(*group), run(*group, "-h")
    assert (alone.exit_code, asked.exit_code) == (2, 0)
    assert alone.stderr == asked.stdout == run(*group, "--help").stdout
    assert "Commands:" in asked.stdout


def test_an_address_of_the_hub_that_is_none_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also of commands that need no hub: with some of these libraries cannot be imported."""
    # in this order: the library takes the address when it is imported, and would keep it for all other tests
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://host:notaport")
    monkeypatch.setenv("HF_ENDPOINT", "http://host:notaport")
    assert "HF_ENDPOINT 'http://host:notaport': is not the address" in refused(run("verify", GOLDEN))
    assert run("verify", "--help").exit_code == 0


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (("generate", "cat", "--lora", "/absent"), "/absent: no such folder"),
        (("mix", "cat", "dog", "--lora", "/absent"), "/absent: no such folder"),
        (("generate", "--prompts-file", "prompts.txt", "--lora", "/absent"), "/absent: no such folder"),
        (("generate", "cat", "--best-of", 2, "--scorer", "ada"), "give clip:SOURCE"),
        (("generate", "cat", "--best-of", 2, "--scorer", "clip:/absent"), "'/absent': there is no such folder"),
        (("generate", "cat", "--scorer", "clip:/absent"), "give --best-of too"),
        (("generate", "cat", "--out", "prompts.txt/out"), "cannot write"),
    ],
)
def test_what_is_not_there_is_said_before_a_model_is_opened(
    command: tuple[Any, ...], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prompts.txt").write_text("cat")
    monkeypatch.setattr(HartPipeline, "from_pretrained", lambda *_, **__: pytest.fail("opened"))
    assert said in refused(run(command[0], "--out", tmp_path / "out", *command[1:]))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("below", [".", "images"])
def test_a_link_to_a_drive_that_is_not_there_is_no_folder_to_write_in(below: str, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "drive")
    said = refused(run("generate", "cat", "--model", "none", "--out", tmp_path / "link" / below))
    assert "cannot write there (No such file or directory): choose another folder" in said


@pytest.mark.skipif(sys.platform == "win32", reason="keeps the working directory")
def test_a_working_directory_that_is_gone_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    for given in (("--lora", "mine"), ("--out", "out"), ("--out", tmp_path / "out"), ()):
        said = refused(run("generate", "cat", *given))
        assert said == "error: the working directory no longer exists: change to another"


@pytest.mark.parametrize(
    "command",
    [
        ("generate", "cat", "--model"),
        ("convert",),
        ("evaluate", "tokenizer", "--data"),
        ("data", "encode"),
    ],
)
def test_a_folder_without_permission_is_called_that(
    command: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, allowed = tmp_path / "theirs", os.access
    folder.mkdir()
    # as it is for others than root, who may read everything
    monkeypatch.setattr(os, "access", lambda path, *how, **more: path != folder and allowed(path, *how, **more))
    more = {"convert": (tmp_path / "own",), "data": (tmp_path / "set", "--tokenizer", "emoji")}.get(command[0], ())
    result = run(*command, folder, *more, *(("--out", tmp_path / "out") if command[0] == "evaluate" else ()))
    assert refused(result).removeprefix("error: ").strip() == f"{folder}: no permission to read it"


def interrupted(*_: Any, **__: Any) -> None:
    raise KeyboardInterrupt


def terminated(*_: Any, **__: Any) -> None:
    signal.raise_signal(signal.SIGTERM)


@pytest.mark.parametrize(("happens", "code"), [(interrupted, 130), (terminated, 143)], ids=["Ctrl-C", "SIGTERM"])
def test_a_signal_ends_with_one_line(
    text_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, happens: Callable[..., None], code: int
) -> None:
    monkeypatch.setattr(HartPipeline, "__call__", happens)
    before = signal.getsignal(signal.SIGTERM)
    result = run("generate", "cat", "--model", text_model, "--out", tmp_path)
    assert result.exit_code == code
    assert result.output.strip() == f"stopped: 0 of 1 in {tmp_path}"
    assert signal.getsignal(signal.SIGTERM) is before


def failing_with(error: BaseException) -> Any:
    def call(*_: Any, **__: Any) -> None:
        raise error

    return call


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB."),
        RuntimeError("MPS backend out of memory (MPS allocated: 9 GB)"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        MemoryError(),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
    ],
    ids=["cuda", "mps", "cublas", "python", "system"],
)
def test_too_little_memory_says_what_to_do(
    text_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    monkeypatch.setattr(HartPipeline, "__call__", failing_with(error))
    message = refused(run("generate", "a cat", "--model", text_model, "--out", tmp_path))
    assert "out of memory" in message
    for way_out in ("--batch-size 1", "-n", "--dtype bfloat16", "--device cpu"):
        assert way_out in message


def test_too_little_memory_on_a_cpu_is_noticed_while_generating_and_while_loading(
    class_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the allocator's real error."""

    def allocate(*_: Any, **__: Any) -> None:
        torch.empty(10**15)

    with monkeypatch.context() as patched:
        patched.setattr(HartPipeline, "__call__", allocate)
        assert "out of memory" in refused(run("generate", "1", "--model", class_model, "--out", tmp_path))
    monkeypatch.setattr(torch, "load", allocate)
    assert "out of memory" in refused(run("info", GOLDEN / "var-c2i"))


def test_a_fault_of_ours_keeps_its_traceback(text_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(HartPipeline, "__call__", failing_with(RuntimeError("shapes do not match")))
    result = run("generate", "a cat", "--model", text_model, "--out", tmp_path)
    assert result.exit_code == 1
    assert isinstance(result.exception, RuntimeError)


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False, timeout=PATIENCE)


def test_ctrl_c_before_the_program_is_imported_leaves_no_traceback() -> None:
    code = (
        "import builtins, hart.__main__ as program\n"
        "def stopped(*_, **__): raise KeyboardInterrupt\n"
        "builtins.__import__ = stopped\n"
        "program.main()"
    )
    done = python("-c", code)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


WITHOUT_TORCH = """
import os, sys
from hart.cli import app

for line in sys.argv[1:]:
    code, _, words = line.partition(" ")
    if code == "complete":
        os.environ.update(_HART_COMPLETE="complete_bash", COMP_WORDS=words, COMP_CWORD=str(len(words.split()) - 1))
    try:
        app([] if code == "complete" else words.split(), prog_name="hart")
    except SystemExit as stop:
        assert str(stop.code) == code.replace("complete", "0"), (line, stop.code)
    os.environ.pop("_HART_COMPLETE", None)
    heavy = {"torch", "transformers", "PIL", "numpy", "rich"} & set(sys.modules)
    assert not heavy, (line, heavy)
"""


def test_help_completion_and_wrong_arguments_do_not_wait_for_torch() -> None:
    groups, rest = ("data", "evaluate"), ("info", "convert", "verify", "serve", "benchmark", "train")
    commands = ("generate", "edit", "vary", "mix", "reconstruct", *rest, *groups)
    lines = (
        "0 --help",
        "0 --version",
        *(f"0 {command} --help" for command in (*commands, "data encode", *(f"evaluate {suite}" for suite in SUITES))),
        "complete hart gen",
        "complete hart evaluate gen",
        "complete hart generate --neg",
        "2 ",
        "2 no-such-command",
        "2 generate",
        "2 generate --no-such-option",
        "2 generate cat --seed abc",
        "2 convert model",
        "2 train toaster recipe.toml",
        "2 data encode",
        "2 evaluate no-such-suite",
    )
    done = python("-c", WITHOUT_TORCH, *lines)
    assert done.returncode == 0, done.stderr
    for said in (*commands, f"hart {__version__}", "generation", "--negative-prompt"):
        assert said in done.stdout


def test_the_module_runs_as_a_program(class_model: Path, tmp_path: Path) -> None:
    done = python("-m", "hart", "generate", "2", "--model", str(class_model), "--out", str(tmp_path))
    assert (done.returncode, done.stderr) == (0, "")
    assert Path(done.stdout.strip()).is_file()
    done = python("-m", "hart", "generate", "", "--out", str(tmp_path))
    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    done = python("-m", "hart", "--version")
    assert done.stdout.strip() == f"hart {__version__}"
