"""The server's application on a real port of this machine, in a thread."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import uvicorn
from fastapi import FastAPI

from hart.commands.serve import _listen
from hart.serving.app import Server
from hart.serving.run import web_config
from waiting import PATIENCE


@dataclass
class Served:
    """A started application."""

    app: FastAPI

    @property
    def server(self) -> Server:
        server: Server = self.app.state.server
        return server


@dataclass
class Live(Served):
    """thread: the server's; it ends when the server has stopped."""

    port: int
    thread: threading.Thread
    web: uvicorn.Server

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def outcome(self, how: str) -> float:
        """Images of an outcome, from the server's figures."""
        return self.server.metrics.registry.get_sample_value("hart_images_total", {"outcome": how}) or 0

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE)

    def stop(self) -> None:
        self.web.should_exit = True
        self.thread.join(PATIENCE)
        assert not self.thread.is_alive()


@contextmanager
def live(app: FastAPI) -> Iterator[Live]:
    listening = _listen("127.0.0.1", 0)
    web = uvicorn.Server(web_config(app, timeout=120))
    thread = threading.Thread(target=web.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    found = Live(app, listening.getsockname()[1], thread, web)
    try:
        yield found
    finally:
        found.stop()
        listening.close()
