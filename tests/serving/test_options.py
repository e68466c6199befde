"""What `hart serve` refuses to start with, and the prompt checkers."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError

from command_line import refused, run
from hart.checkpoint.folders import ADAPTER_CONFIG
from hart.commands.serve import _listen, for_replicas
from hart.errors import HartError
from hart.serving.checkers import prompt_checker, word_list
from hart.serving.options import LOOPBACK, ServeOptions
from hart.serving.run import app_from_options


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--host", "0.0.0.0"], "others can reach it: give --api-key, or --public"),
        (["--host", "0.0.0.0", "--api-key", "a key"], "a key has ASCII letters"),
        (["--public", "--api-key", "k"], "--public: serves anybody, and API keys only those who have one"),
        (["--host", "no.such.host.invalid", "--public"], "cannot listen on no.such.host.invalid"),
        (["--model", "a/x", "--model", "b/x"], "two are called x"),
        (["--model", "nothing"], "unknown model 'nothing': no folder, no hub id"),
        (["--speed", "warp"], "unknown speed 'warp': choose plain, exact"),
        (["--device", "warp"], "unknown device 'warp': choose cpu"),
        (["--dtype", "warp"], "unknown dtype 'warp': choose float32"),
        (["--model", "x="], "give a model, or NAME=MODEL"),
        (["--prompt-check", "magic"], "choose words, none"),
        (["--prompt-check", "none.txt"], "no such file"),
        (["--prompt-check", "emoji"], "choose words, none"),
        (["--api-key-file", "none"], "no such file"),
        (["--c2pa-key", "key.pem"], "--c2pa-certificate and --c2pa-key go together"),
        (["--rate-limit", "0"], "--rate-limit"),
        (["--replicas", "2"], "--ray"),
        (["--max-pixels", "100"], "--max-pixels 100: the model's own images have 16384: give at least that"),
    ],
)
def test_bad_options_are_one_line(arguments: list[str], message: str) -> None:
    assert message in refused(run("serve", "--port", 0, *arguments))


@pytest.mark.parametrize("key", ["", " ", "a b", "a\n", "ä", "\a"])
def test_what_is_no_key_is_refused(key: str) -> None:
    with pytest.raises(HartError, match="--api-key: a key has ASCII letters"):
        ServeOptions(api_key=("sound", key)).keys()


def test_a_line_that_is_no_key_is_named_by_its_file_and_not_shown(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("sound\n\nnot sound\n")
    said = refused(run("serve", "--port", 0, "--api-key-file", tmp_path / "keys"))
    assert "keys, key 2: a key has ASCII letters" in said and "not sound" not in said


def test_a_folder_without_a_model_is_said_at_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for option in ("--model", "--prompt-check"):
        assert "no model here; expected config.json" in refused(run("serve", "--port", 0, option, tmp_path))
    (tmp_path / ADAPTER_CONFIG).write_text("{}")
    assert "holds a LoRA adapter, not a model" in refused(run("serve", "--port", 0, "--model", tmp_path))
    monkeypatch.chdir(tmp_path)
    assert ".: holds a LoRA adapter, not a model" in refused(run("serve", "--port", 0, "--model", "."))


@pytest.mark.parametrize("option", ["--model", "--prompt-check"])
def test_a_hub_model_that_does_not_exist_is_said_at_the_start(
    option: str, monkeypatch: pytest.MonkeyPatch, reachable_hub: None
) -> None:
    def unknown(*_: Any, **__: Any) -> Any:
        raise LocalEntryNotFoundError("404: no such repository")

    for name in ("list_repo_files", "snapshot_download"):
        monkeypatch.setattr(huggingface_hub, name, unknown)
    said = refused(run("serve", "--port", 0, option, "nobody/nothing"))
    assert (
        "'nobody/nothing' is not a folder and cannot be downloaded" in said
        and "no such repository): check the name" in said
    )
    # what the machines of a cluster read shows there
    assert app_from_options(ServeOptions(ray=True, model=("nobody/nothing",), prompt_check="nobody/nothing"))


def test_a_port_that_is_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert f"cannot listen on 127.0.0.1 port {port} (Address already in use): choose another" in refused(
            run("serve", "--port", port)
        )


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="this machine has no IPv6")
def test_all_addresses_are_those_of_ipv4_too() -> None:
    with _listen("::", 0) as listening:
        for address in ("127.0.0.1", "::1"):
            socket.create_connection((address, listening.getsockname()[1])).close()


def test_keys_come_from_a_file_too(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("one\n\n two \n")
    options = ServeOptions(api_key=("zero",), api_key_file=file, host="0.0.0.0")
    assert options.keys() == ("zero", "one", "two")
    file.write_text("\n")
    with pytest.raises(HartError, match="holds no key"):
        options.keys()


@pytest.mark.parametrize(
    ("given", "hosts"),
    [
        ({}, frozenset(LOOPBACK)),
        ({"host": "::1"}, frozenset(LOOPBACK)),
        ({"host": "localhost"}, frozenset(LOOPBACK)),
        ({"host": "127.0.0.2"}, frozenset({*LOOPBACK, "127.0.0.2"})),
        ({"api_key": ("k",), "host": "0.0.0.0"}, None),
        ({"public": True, "host": "0.0.0.0"}, None),
    ],
)
def test_without_a_key_only_this_machines_names_are_served(given: dict[str, Any], hosts: Any) -> None:
    assert ServeOptions(**given).hosts() == hosts


def test_models_are_named() -> None:
    models = ServeOptions(model=("emoji", "big=org/hart", "/models/mine")).models()
    assert models == {"emoji": "emoji", "big": "org/hart", "mine": "/models/mine"}


@pytest.mark.parametrize(
    ("prompt", "is_refused"),
    [
        ("a red apple", False),
        ("Scunthorpe", False),
        ("a bad thing", True),
        ("BÁD", True),
        ("b4d", True),
        ("b\u200bad", True),
        ("badge", False),
        ("good\nbad", True),
        ("very  WRONG-idea", True),
        ("wrong", False),
        ("one two", True),
        ("two before one", True),
        ("one", False),
        ("agent 47", True),
    ],
)
def test_words_are_found_however_they_are_written(prompt: str, is_refused: bool) -> None:
    checker = word_list(["bad  # a comment", "", "# nothing", "wrong idea", "one + two", "agent 47"])
    assert (checker(prompt) is not None) == is_refused


def test_the_checker_is_chosen_by_name(tmp_path: Path) -> None:
    assert prompt_checker("none")("nude child") is None
    assert prompt_checker("words")("a child on a swing") is None
    assert prompt_checker("words")("nude child") is not None
    words = tmp_path / "mine.txt"
    words.write_text("apple\n")
    assert prompt_checker(str(words))("a red apple") is not None


@pytest.mark.parametrize(
    ("lines", "said"), [("# none\n\n", "holds no words"), ("apple\n***\n", "'***'"), ("a +", "'a +'")]
)
def test_a_list_that_would_refuse_nothing_is_refused(tmp_path: Path, lines: str, said: str) -> None:
    words = tmp_path / "mine.txt"
    words.write_text(lines)
    assert said in refused(run("serve", "--port", 0, "--prompt-check", words))


def test_replicas_get_no_keys_and_paths_that_hold_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("words", "none", "mine.txt", "keys"):
        (tmp_path / name).write_text("apple\n")
    for name in ("emoji", "mine"):
        (tmp_path / name).mkdir()
    options = ServeOptions(
        model=("emoji", "mine"), api_key=("k",), api_key_file=Path("keys"), host="0.0.0.0", c2pa_key=Path("key.pem")
    )
    found = for_replicas(options)
    assert found.keys() == () and found.hosts() is None
    assert found.c2pa_key == tmp_path / "key.pem"
    assert found.models() == {"emoji": "emoji", "mine": str(tmp_path / "mine")}
    for given, meant in (("words", "words"), ("none", "none"), ("mine.txt", str(tmp_path / "mine.txt"))):
        assert for_replicas(options.replace(prompt_check=given)).prompt_check == meant
