"""What is fetched from the hub, and what happens without it. No test uses the network."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError

from hart.checkpoint.folders import CheckpointError
from hart.checkpoint.hub import needed_files, require_repository
from hart.checkpoint.loading import resolve_model
from hart.errors import HartError
from hart.networks.pretrained import from_transformers

TOKENIZER = ["tokenizer/config.json", "tokenizer/model.safetensors"]
PLAIN = ["llm/model-00001-of-00002.safetensors", "llm/model-00002-of-00002.safetensors"]
OLD = ["llm/pytorch_model-00001-of-00002.bin", "llm/pytorch_model-00002-of-00002.bin"]
LLM = ["llm/config.json", "llm/model.safetensors.index.json"]
OWN = ["config.json", "hart.safetensors", "text_encoder.safetensors", "word_pieces.json", "thesaurus.json.gz"]
VAR = ["case.json", "vae_ch160v4096z32.pth", "var_d16.pth"]
OTHERS = ["README.md", ".gitattributes", "images/cat.png", "optimizer/state.bin", "llm/training_args.bin"]


class Hub:
    """Stands in for the functions of huggingface_hub: lists `files`, or fails with `failure`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path, files: list[str]) -> None:
        self.folder, self.files = folder, files
        self.failure: Exception | None = None
        self.is_cached = True
        self.absent: type[Exception] = LocalEntryNotFoundError
        self.downloads: list[dict[str, Any]] = []
        monkeypatch.setattr(huggingface_hub, "list_repo_files", self.list_files)
        monkeypatch.setattr(huggingface_hub, "snapshot_download", self.download)

    def list_files(self, repository: str) -> list[str]:
        assert repository == "someone/model"
        if self.failure is not None:
            raise self.failure
        return self.files

    def download(self, repository: str, **options: Any) -> str:
        self.downloads.append(options)
        if not self.is_cached:
            raise self.absent("cannot find the requested files in the disk cache\nand so on")
        return str(self.folder)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, reachable_hub: None) -> Hub:
    return Hub(monkeypatch, tmp_path, [*OTHERS, *LLM, *PLAIN, *TOKENIZER, "llm/ema_model.bin"])


def test_plain_weights_are_not_fetched_where_averaged_ones_are(hub: Hub, tmp_path: Path) -> None:
    assert resolve_model("someone/model") == tmp_path
    (options,) = hub.downloads
    assert sorted(options["allow_patterns"]) == sorted([*LLM, "llm/ema_model.bin", *TOKENIZER])


@pytest.mark.parametrize(
    ("files", "needed"),
    [
        ([*LLM, *PLAIN, *OLD, *TOKENIZER], [*LLM, *PLAIN, *TOKENIZER]),
        ([*LLM, *OLD, *TOKENIZER], [*LLM, *OLD, *TOKENIZER]),
        (OWN, OWN),
        (VAR, VAR),
        ([], []),
    ],
    ids=["safetensors", "bin", "own", "var", "nothing"],
)
def test_only_what_is_read_is_fetched(files: list[str], needed: list[str]) -> None:
    assert sorted(needed_files("someone/model", [*OTHERS, *files])) == sorted(needed)


def test_a_repository_of_several_models_is_refused_before_anything_is_fetched(hub: Hub) -> None:
    hub.files = ["vae.pth", "var_d16.pth", "var_d30.pth"]
    with pytest.raises(CheckpointError, match=r"2 VAR models \(var_d16\.pth, var_d30\.pth\): download one"):
        resolve_model("someone/model")
    assert not hub.downloads


def test_without_the_hub_an_earlier_download_serves(hub: Hub, tmp_path: Path) -> None:
    hub.failure = RuntimeError("no route to host")
    assert resolve_model("someone/model") == tmp_path
    assert hub.downloads == [{"local_files_only": True}]


def test_without_the_hub_and_an_earlier_download_the_reason_is_given(hub: Hub) -> None:
    hub.failure, hub.is_cached = RuntimeError("no route to host\nand so on"), False
    with pytest.raises(
        CheckpointError, match=r"'someone/model' .*cannot be downloaded.* \(no route to host and so on\): check"
    ):
        resolve_model("someone/model")


@pytest.mark.parametrize("is_cached", [True, False])
@pytest.mark.parametrize("is_known", [True, False])
def test_whether_a_model_is_there_is_known_without_a_download(hub: Hub, is_cached: bool, is_known: bool) -> None:
    hub.is_cached, hub.failure = is_cached, None if is_known else RuntimeError("404: no such repository")
    if is_cached or is_known:
        require_repository("someone/model")
    else:
        with pytest.raises(CheckpointError, match=r"'someone/model' .*404: no such repository\): check the name"):
            require_repository("someone/model")
    assert hub.downloads == [{"local_files_only": True}]


@pytest.mark.parametrize("kind", [LocalEntryNotFoundError, RuntimeError], ids=["the hub's", "of the HTTP library"])
def test_a_download_that_breaks_off_is_an_error(hub: Hub, kind: type[Exception]) -> None:
    hub.is_cached, hub.absent = False, kind
    with pytest.raises(CheckpointError, match=r"'someone/model' .*cannot be downloaded.*disk cache and so on\): check"):
        resolve_model("someone/model")


@pytest.mark.parametrize(
    ("failure", "attempts", "why"),
    [(socket.gaierror(-3, "Try again"), 3, "Try again"), (TimeoutError("timed out"), 1, "timed out")],
)
def test_an_unreachable_hub_is_told_at_once_by_all_that_need_it(
    hub: Hub, direct: None, monkeypatch: pytest.MonkeyPatch, failure: OSError, attempts: int, why: str
) -> None:
    asked = list[tuple[str, int]]()

    def connect(host: str, port: int) -> None:
        asked.append((host, port))
        raise failure

    def load(source: str) -> str:
        assert source == str(hub.folder), "transformers is given no name to look for"
        return source

    monkeypatch.setattr("hart.hub._connect", connect)
    monkeypatch.setattr("hart.hub.PAUSES", (0.0, 0.0, 0.0))
    assert resolve_model("someone/model") == hub.folder
    assert from_transformers(load, "a model", "someone/model", "judge") == str(hub.folder)
    assert asked == [("huggingface.co", 443)] * attempts * 2
    hub.is_cached = False
    elsewhere = "fetch it elsewhere from https://huggingface.co/someone/model and "
    with pytest.raises(CheckpointError, match=rf"which cannot be reached \({why}\): check.*{elsewhere}give the folder"):
        resolve_model("someone/model")
    with pytest.raises(HartError, match=rf"cannot be reached \({why}\): check.*{elsewhere}put them there"):
        from_transformers(load, "a model", "someone/model", "judge", "put them there")


def test_a_file_of_a_model_is_not_looked_for_on_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("own").mkdir()
    Path("own/hart.safetensors").touch()
    with pytest.raises(CheckpointError, match=r"own/hart\.safetensors: is a file: give the folder"):
        resolve_model("own/hart.safetensors")
