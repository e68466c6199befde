"""An empty text on the command line, most often that of an unset variable, and - where standard input is not read are
refused by the name of the option; in paths ~ is the home folder."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from command_line import refused, run
from hart.cli import app
from hart.commands.program import HartCommand


def commands(group: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """All commands under a group, and how they are called."""
    context = typer.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if hasattr(command, "list_commands"):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name), command


@pytest.mark.parametrize(
    ("text", "fault", "understood"),
    [
        ("", "the text is empty: give a value", HartCommand.MAY_BE_EMPTY),
        ("-", "- stands for standard input, which only hart generate --prompts-file reads", {"prompts_file"}),
    ],
)
def test_every_option_and_argument_refuses_what_is_no_value(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, fault: str, understood: Collection[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    names = set()
    for path, command in commands(typer.main.get_command(app)):
        for param in command.params:
            if getattr(param, "is_flag", False) or param.name in understood:
                continue
            arguments = [one.name for one in command.params if one.param_type_name == "argument"]
            before = ["x"] * arguments.index(param.name) if param.name in arguments else param.opts[:1]
            said = refused(run(*path, *before, text))
            assert fault in said, (path, param.name)
            called = (param.opts[0], param.name, str(param.metavar))
            assert any(name.upper() in said.upper() for name in called), (path, param.name)
            names.add((*path, param.opts[0]))
    assert {("serve", "--host"), ("info", "model"), ("data", "encode", "--tokenizer"), ("train", "recipe")} <= names
    assert not list(tmp_path.iterdir())


def test_help_comes_before_an_empty_text_and_no_negative_prompt_is_one(
    text_model: Path, class_model: Path, tmp_path: Path
) -> None:
    assert run("generate", "--out", "", "--help").exit_code == 0
    options = ("--negative-prompt", "", "--model", text_model, "--out", tmp_path)
    assert run("generate", "a cat", *options).exit_code == 0
    assert "the text is empty" in refused(run("generate", "a cat", "--negative-prompt", " ", *options[2:]))
    assert run("generate", "1", *options[:3], class_model, *options[4:]).exit_code == 0


def test_in_paths_the_home_folder_may_be_written_as_a_person_does(
    text_model: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(home)
    assert f"{home}/none.toml: no such file" in refused(run("train", "tokenizer", "~/none.toml", "--out", "~/run"))
    result = run("generate", "a cat", "--model", text_model, "--out=~/made")
    assert result.exit_code == 0, result.output
    (image,) = (home / "made").iterdir()
    result = run("reconstruct", "--model", text_model, "--out=~/made", f"~/made/{image.name}", f"~/made/{image.name}")
    assert result.exit_code == 0, result.output
    assert len(list((home / "made").iterdir())) == 3 and not (home / "~").exists()
