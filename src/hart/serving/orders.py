"""What a request asks of a model, and how the events of its job become an answer or a stream of events.

Images record how they were made. A PNG has the chunks of `hart generate`, so that `--like` can generate it again and
the page can restore its settings. JPEG and WebP only hold the XMP. The same row gives the same bytes.
"""

from __future__ import annotations

import asyncio
import base64
import io
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from hart.generation.signing import ContentCredentials
from hart.serving.engine import Row
from hart.serving.metrics import Metrics
from hart.serving.scheduler import Event, State
from hart.serving.schemas import ImageData, ImageEvent, ImagesAnswer, RequestBody, Usage

UNREAD_PIXELS = 2**24
"""Most pixels of previews that wait for a slow reader; beyond that, only the newest are kept."""
SLOW_SECONDS = 0.5
"""A reader that takes longer for an event gets the newest next, which may be a finished image."""
PREVIEW_LEVEL, LEVEL = 1, 4
"""Compression levels of PNG: previews are only looked at for a moment."""


@dataclass(frozen=True)
class Order:
    """What one request asks of a model. notes: for its author. credentials: sign finished images."""

    request: RequestBody
    model: str
    rows: Sequence[Row]
    notes: list[str]
    credentials: ContentCredentials | None

    @property
    def form(self) -> str:
        """Return the image format: png, jpeg or webp."""
        return self.request.output_format or "png"

    def previews(self) -> tuple[int, ...]:
        """Return the 0-based scales after which an image so far is sent."""
        before_last = self.rows[0].scales - 1
        if not self.request.stream:
            return ()
        wanted = before_last if self.request.partial_images is None else min(self.request.partial_images, before_last)
        return tuple((2 * i + 1) * before_last // (2 * wanted) for i in range(wanted))

    def encoded(self, state: State) -> str:
        """Return its image in base64."""
        from hart import __version__
        from hart.generation.metadata import ImageRecord, png_chunks, xmp

        row, file = self.rows[state.row], io.BytesIO()
        made_by = ImageRecord(row.prompt, row.seed, self.model, row.settings, __version__)
        if self.form == "png":
            level = LEVEL if state.is_finished else PREVIEW_LEVEL
            state.image.save(file, "PNG", pnginfo=png_chunks(made_by), compress_level=level)
        else:
            quality = self.request.output_compression
            quality = 100 if quality is None else quality
            state.image.save(file, self.form.upper(), quality=quality, xmp=xmp(made_by).encode())
        content = file.getvalue()
        if self.credentials is not None and state.is_finished:
            content = self.credentials.signed(content, self.form, made_by)
        return base64.b64encode(content).decode()

    def usage(self, images: int) -> Usage:
        tokens = images * self.rows[0].tokens
        return Usage(output_tokens=tokens, total_tokens=tokens)

    def common(self) -> dict[str, Any]:
        """Return what an answer and every event have in common."""
        return {"size": str(self.rows[0].size), "output_format": self.form, "model": self.model}


class Subscription:
    """The events of a job, in the event loop of its request."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._unread = list[Event]()
        self._news = asyncio.Event()

    def deliver(self, event: Event) -> None:
        """For `Job.deliver`: called in the scheduler's thread."""
        with suppress(RuntimeError):  # the loop has ended, and everybody who waited in it
            self._loop.call_soon_threadsafe(self._put, event)

    async def next(self, seconds: float | None = None) -> Event:
        """Return the next event. Raises `TimeoutError` if there is none in time."""
        async with asyncio.timeout(seconds):  # Python 3.11's `wait_for` may swallow that the client has left
            await self._news.wait()
        event = self._unread.pop(0)
        if not self._unread:
            self._news.clear()
        return event

    def keep_newest(self) -> None:
        """Drop each unread preview of whose image a later state exists."""
        self._unread = list({getattr(event, "row", None): event for event in self._unread}.values())

    def _put(self, event: Event) -> None:
        self._unread.append(event)
        previews = [event.image for event in self._unread if isinstance(event, State) and not event.is_finished]
        if sum(image.width * image.height for image in previews) > UNREAD_PIXELS:
            self.keep_newest()
        self._news.set()


async def answer(order: Order, events: Subscription, metrics: Metrics) -> ImagesAnswer:
    """Return all images at once. Raises what the job failed with."""
    done: dict[int, ImageData] = {}
    asked = order.request
    # clients of OpenAI's older models expect an address by default
    kind = asked.response_format or ("url" if (asked.model or "").startswith("dall-e") else "b64_json")
    async for event in stream(order, events, metrics):
        assert event is not None  # yielded only with `still_here`
        content, seed = event["b64_json"], event["seed"]
        as_url = ImageData(url=f"data:image/{order.form};base64,{content}", seed=seed)
        done[event["image_index"]] = as_url if kind == "url" else ImageData(b64_json=content, seed=seed)
    return ImagesAnswer(
        created=int(time.time()),
        data=[done[row] for row in sorted(done)],
        usage=order.usage(len(done)),
        notes=order.notes,
        **order.common(),
    )


async def stream(
    order: Order, events: Subscription, metrics: Metrics, still_here: float | None = None
) -> AsyncIterator[dict[str, Any] | None]:
    """Yield events of OpenAI's API, with this model's fields; None every `still_here` seconds without one, so that the
    connection is not taken for dead. Raises what the job failed with."""
    left, sent, kind = len(order.rows), [0] * len(order.rows), order.request.kind
    while left:
        try:
            event = await events.next(still_here)
        except TimeoutError:
            yield None
            continue
        if isinstance(event, Exception):
            raise event
        with metrics.seconds.labels("encode").time():  # takes long at large sizes, so not in the event loop
            content = await asyncio.to_thread(order.encoded, event)
        partial = not event.is_finished
        said = ImageEvent(
            type=f"{kind}.partial_image" if partial else f"{kind}.completed",
            b64_json=content,
            created_at=int(time.time()),
            **order.common(),
            image_index=event.row,
            seed=order.rows[event.row].seed,
            scale=event.k + 1,
            scales=order.rows[0].scales,
            partial_image_index=sent[event.row] if partial else None,
            usage=None if partial else order.usage(1),
            notes=None if partial else order.notes,
        )
        sent[event.row] += partial
        left -= not partial
        handed_over = time.monotonic()
        yield said.model_dump(exclude_none=True)
        if time.monotonic() - handed_over > SLOW_SECONDS:
            events.keep_newest()
