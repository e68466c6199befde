"""Prompt files: taken where they are given, fetched once where they are not."""

from __future__ import annotations

from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from zipfile import ZIP_DEFLATED, ZipFile

import pytest
import torch

from hart.data.samples import DamagedSample
from hart.errors import HartError
from hart.evaluation import published_files
from hart.evaluation.metrics.features import open_extractor
from hart.evaluation.published_files import PublishedFiles, PublishedImages, at_hand, cached_file, located
from hart.evaluation.suites.geneval import PROMPTS
from hart.files import FileError


def test_a_given_file_or_its_folder(tmp_path: Path) -> None:
    file = tmp_path / PROMPTS.name
    with pytest.raises(HartError, match=r"no such file: fetch it from https://raw\.githubusercontent\.com/djghosh13"):
        located(PROMPTS, tmp_path)
    file.write_text("{}")
    assert located(PROMPTS, tmp_path) == located(PROMPTS, file) == file


def test_fetched_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(published_files, "default_cache", lambda: tmp_path / "cache")
    home = tmp_path / PROMPTS.name
    home.write_text("published")
    published = replace(PROMPTS, address=home.as_uri())
    with pytest.raises(HartError, match="give it"):
        cached_file(published.address, "give it", sha256_prefix="00")
    file = located(published, None)
    assert file.read_text() == "published" and file.name == PROMPTS.name
    home.unlink()
    assert located(published, None) == file
    file.unlink()
    with pytest.raises(HartError, match=r"cannot be fetched \(") as error:
        located(published, None)
    assert "--data" in str(error.value) and "<urlopen" not in str(error.value)


class BreaksOff(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "2000")
        self.end_headers()
        self.wfile.write(b"half of it")

    def log_message(self, *_: object) -> None:
        pass


def test_a_download_that_breaks_off_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(published_files, "default_cache", lambda: tmp_path)
    with HTTPServer(("127.0.0.1", 0), BreaksOff) as server:
        Thread(target=server.handle_request, daemon=True).start()
        with pytest.raises(HartError, match=r"cannot be fetched \(it broke off after 10 of 2,000 bytes\): give it"):
            cached_file(f"http://127.0.0.1:{server.server_port}/prompts.jsonl", "give it")
    assert not list((tmp_path / "evaluation").iterdir())


def test_where_public_weights_lie(tmp_path: Path) -> None:
    (tmp_path / "clip").mkdir()
    assert at_hand("openai/clip", tmp_path) == at_hand("https://home/of/clip", tmp_path) == str(tmp_path / "clip")
    # not there, nowhere to look, and what was named as a path
    for source, data in (("openai/other", tmp_path), ("openai/clip", None), ("/absent/clip", tmp_path)):
        assert at_hand(source, data) == source
    file = tmp_path / "pt_inception-2015-12-05-6726825d.pth"
    file.write_bytes(b"not the weights")
    with pytest.raises(HartError, match=str(file)):
        open_extractor("inception-v3", torch.device("cpu"), tmp_path)


def test_a_damaged_archive_is_named(tmp_path: Path) -> None:
    (tmp_path / "set.zip").write_bytes(b"no archive")
    with pytest.raises(FileError, match=r"set\.zip: .*not a zip file"):
        PublishedFiles(tmp_path, "set", "set.zip", "https://home")
    with ZipFile(tmp_path / "set.zip", "w") as archive:
        archive.writestr("a/1.txt", "one and only")
    content = (tmp_path / "set.zip").read_bytes()
    (tmp_path / "set.zip").write_bytes(content.replace(b"only", b"0nly"))
    images = PublishedImages(PublishedFiles(tmp_path, "set", "set.zip", "https://home"), ["a/1.txt"])
    with pytest.raises(DamagedSample, match=r"set\.zip: .*CRC"):
        images.read(0)


@pytest.mark.parametrize("packed", [False, True], ids=["folder", "archive"])
def test_nothing_is_read_from_elsewhere_nor_more_than_an_image(
    packed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "secret.txt").write_text("mine")
    if packed:
        with ZipFile(tmp_path / "set.zip", "w", ZIP_DEFLATED) as archive:
            archive.writestr("wrapped/set/a/1.txt", "one")
            archive.writestr("set/bomb.txt", bytes(10_000))
    else:
        (tmp_path / "set" / "a").mkdir(parents=True)
        (tmp_path / "set" / "a" / "1.txt").write_text("one")
        (tmp_path / "set" / "bomb.txt").write_bytes(bytes(10_000))
    monkeypatch.setattr(published_files, "FILE_LIMIT", 1000)
    files = PublishedFiles(tmp_path, "set", "set.zip", "https://home")
    assert files.read("a/1.txt") == b"one"
    for path in ("a/2.txt", "../secret.txt", str(tmp_path / "secret.txt")):
        with pytest.raises(FileError, match=r"no .* in it"):
            files.read(path)
    with pytest.raises(FileError, match="is larger than 0"):
        files.read("bomb.txt")
