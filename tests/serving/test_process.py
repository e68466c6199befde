"""`hart serve` as a process: a disk without room, a kill, a stop."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from processes import Command, started, with_few_files, with_patience, without_room
from serving_app import png
from waiting import PATIENCE, until


@contextmanager
def process(model: Path, port: int = 0, *options: str) -> Iterator[tuple[Command, str]]:
    """A server whose disk has no room, and its address."""
    given = ("serve", "--model", model, "--device", "cpu", "--port", port, *options)
    with started(*given, main=without_room, streams=(1, 2)) as server:
        yield server, server.said[0].readline().strip()


def generate(url: str, **fields: Any) -> httpx2.Response:
    return httpx2.post(f"{url}/v1/images/generations", json={"prompt": "a quiet prompt", **fields}, timeout=PATIENCE)


def streamed(url: str) -> AbstractContextManager[httpx2.Response]:
    """The answer of many images, as they are made."""
    body = {"prompt": "x", "stream": True, "n": 10}
    return httpx2.stream("POST", f"{url}/v1/images/generations", json=body, timeout=PATIENCE)


def test_the_port_answers_before_pytorch_is_imported() -> None:
    code = "import hart.cli, hart.serving.run, sys; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def refuses(address: tuple[str, int]) -> bool:
    """Whether nobody listens there: a server has begun to stop."""
    try:
        socket.create_connection(address).close()
    except ConnectionError:
        return True
    return False


def test_many_connections_keep_nobody_out(text_model: Path) -> None:
    given = ("serve", "--model", text_model, "--device", "cpu", "--port", 0)
    with started(*given, main=with_few_files) as server, ExitStack() as idle:
        url = server.said[0].readline().strip()
        host, port = url.removeprefix("http://").split(":")
        for _ in range(100):
            idle.enter_context(socket.create_connection((host, int(port))))
        assert httpx2.get(f"{url}/healthz", timeout=PATIENCE).status_code == 200


@pytest.mark.slow
def test_a_second_signal_waits_for_nobody(text_model: Path) -> None:
    given = ("serve", "--model", text_model, "--device", "cpu", "--port", 0, "--timeout", 2 * PATIENCE)
    with started(*given, main=with_patience) as server:
        url = server.said[0].readline().strip()
        host, port = url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as half_sent:
            head = "POST /v1/images/generations HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
            half_sent.sendall(f"{head}Content-Length: 100\r\n\r\n{{".encode())
            assert httpx2.get(f"{url}/healthz", timeout=PATIENCE).status_code == 200
            server.send_signal(signal.SIGTERM)
            until(lambda: refuses((host, int(port))))
            assert server.process.is_alive()
            server.send_signal(signal.SIGTERM)
            assert server.wait() == 128 + signal.SIGTERM


@pytest.mark.slow
def test_a_closed_terminal_ends_a_server_in_order(text_model: Path) -> None:
    with (
        process(text_model) as (server, url),
        streamed(url) as stream,
    ):
        lines = stream.iter_lines()
        next(lines)
        for _ in range(2):  # the system's, and the shell's
            server.send_signal(signal.SIGHUP)
        rest = [line for line in lines if line.startswith("event: ")]
        assert rest.count("event: image_generation.completed") == 10
        assert server.wait() in (-signal.SIGHUP, 128 + signal.SIGHUP)


@pytest.mark.slow
def test_a_killed_server_leaves_nobody_waiting_and_its_successor_ends_in_order(text_model: Path) -> None:
    """Both with a full disk, which changes nothing."""
    with process(text_model) as (server, url):
        before = generate(url, seed=4).json()["data"]
        with streamed(url) as stream:
            server.process.kill()
            with pytest.raises(httpx2.HTTPError):
                stream.read()
        with pytest.raises(httpx2.HTTPError):
            generate(url)
    with process(text_model, int(url.rpartition(":")[2]), "--log-requests") as (server, again):
        assert again == url
        assert httpx2.get(url, timeout=PATIENCE).status_code == 200
        assert generate(url, seed=4).json()["data"] == before
        assert json.loads(httpx2.get(f"{url}/readyz", timeout=PATIENCE).content)["ready"]
        large = png((1500, 1500), "RGBA", (1, 2, 3, 0)) + bytes(2**22)
        answer = httpx2.post(
            f"{url}/v1/images/edits", data={"prompt": "x"}, files={"image": ("a.png", large)}, timeout=PATIENCE
        )
        assert answer.status_code in (200, 501)
        with streamed(url) as stream:
            lines = stream.iter_lines()
            next(lines)
            server.send_signal(signal.SIGTERM)
            rest = [line for line in lines if line.startswith("event: ")]
        assert rest.count("event: image_generation.completed") == 10
        assert server.wait() in (-signal.SIGTERM, 128 + signal.SIGTERM)
        log = server.said[1].read()
        assert "/v1/images/generations 200" in log and "opened in" in log
        assert "quiet" not in log and "Traceback" not in log
