"""Answers to clients that may leave, or read slowly."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeVar

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from hart.serving.errors import api_error
from hart.serving.schemas import ClientLeft

T = TypeVar("T")
STILL_HERE = b": still here\n"
"""A line of the next event: followed by an empty line, it would be an event without data to OpenAI's client."""


@asynccontextmanager
async def in_time(seconds: float, late: Exception) -> AsyncIterator[None]:
    """Raise `late` if the block takes longer."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError:
        raise late from None


async def while_here(receive: Receive, work: Awaitable[T]) -> T:
    """Return the result of `work`. If the client leaves before, cancel the work and raise `ClientLeft`. The request's
    body must have been read."""
    task, left = asyncio.ensure_future(work), asyncio.ensure_future(_disconnected(receive))
    try:
        await asyncio.wait({task, left}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientLeft
        return task.result()
    finally:
        task.cancel()
        left.cancel()
        await asyncio.gather(task, left, return_exceptions=True)


class EventStream(StreamingResponse):
    """Server-sent events. events: the content of each, or None to show that the connection is alive; their end ends the
    answer, an error is the last event. ended: called when it is over, however that happened."""

    media_type = "text/event-stream"

    def __init__(self, events: AsyncIterator[dict[str, Any] | None], ended: Callable[[], None]) -> None:
        super().__init__((), headers={"cache-control": "no-store", "x-accel-buffering": "no"})
        self._events, self._ended = events, ended

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            with suppress(ClientLeft):
                await while_here(receive, self.stream_response(send))
        finally:
            self._ended()

    async def stream_response(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        last = b""
        try:
            async for event in self._events:
                content = STILL_HERE if event is None else event_bytes(event)
                await send({"type": "http.response.body", "body": content, "more_body": True})
        except Exception as error:
            last = event_bytes(api_error(error).body())
        await send({"type": "http.response.body", "body": last, "more_body": False})


def event_bytes(content: dict[str, Any]) -> bytes:
    """Return one event. Its id, which errors do not have: the image's number, then the scales that it has."""
    kind = content.get("type", "error")
    number = f"id: {content['image_index']}.{content['scale']}\n" if "scale" in content else ""
    return f"{number}event: {kind}\ndata: {json.dumps(content, separators=(',', ':'))}\n\n".encode()


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
