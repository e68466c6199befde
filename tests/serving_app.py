"""The server's application over the stand-in engine, reached in this process by the official client and a plain one."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI
from PIL import Image
from starlette.testclient import TestClient

from hart.generation.signing import ContentCredentials
from hart.serving.app import create_app
from hart.serving.checkers import word_list
from hart.serving.models import OpenModel
from hart.serving.options import ServeOptions
from live_server import Served
from stand_in_engine import StandInEngine
from waiting import until

if TYPE_CHECKING:
    from openai import OpenAI


@dataclass
class Running(Served):
    """http: a plain client; errors are answers to it, not exceptions of the application."""

    engine: StandInEngine
    http: TestClient

    @property
    def openai(self) -> OpenAI:
        from openai import OpenAI

        return OpenAI(base_url="http://testserver/v1", api_key="any", http_client=self.http, max_retries=0)  # type: ignore[arg-type]

    def post(self, route: str = "generations", **fields: Any) -> Any:
        """A JSON request."""
        return self.http.post(f"/v1/images/{route}", json=fields)


def application(
    engine: StandInEngine | None = None,
    models: dict[str, OpenModel] | None = None,
    credentials: ContentCredentials | None = None,
    **options: Any,
) -> FastAPI:
    """With the model "tiny", and a word that is refused. options: of `ServeOptions`, by default for everybody."""
    given = options if "api_key" in options or "host" in options else options | {"public": True}
    app = create_app(ServeOptions(**given), models or {"tiny": lambda: engine or StandInEngine()})
    app.state.server.checker, app.state.server.credentials = word_list(["forbidden"]), credentials
    return app


@contextmanager
def running(engine: StandInEngine | None = None, **given: Any) -> Iterator[Running]:
    """An `application` whose default model is opened."""
    engine = engine or StandInEngine()
    app = application(engine, **given)
    with TestClient(app, raise_server_exceptions=False) as http:
        found = Running(app, engine, http)
        until(lambda: found.server.models.default.state in ("ready", "failed"))
        yield found


def image_of(b64: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(b64)))


def png(size: tuple[int, int] = (16, 16), mode: str = "RGB", colour: Any = "red", kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.new(mode, size, colour).save(file, kind)
    return file.getvalue()


def error(answer: Any, status: int) -> dict[str, Any]:
    """The error of an answer with this status."""
    assert answer.status_code == status, answer.text
    assert set(answer.json()) == {"error"}
    found: dict[str, Any] = answer.json()["error"]
    assert set(found) == {"message", "type", "param", "code"}
    assert "\n" not in found["message"] and len(found["message"]) < 400
    return found


def edit(
    server: Running,
    image: bytes | None,
    mask: bytes | None = None,
    style: bytes | None = None,
    route: str = "edits",
    **fields: Any,
) -> Any:
    """A form; `None` for a file that is left out."""
    given = {"image": image, "mask": mask, "style": style}
    files = {name: ("x.png", content, "image/png") for name, content in given.items() if content}
    return server.http.post(f"/v1/images/{route}", data={"prompt": "x", **fields}, files=files or {"other": b"1"})
