"""From a checked request to a job for the scheduler, and from the job's events to an answer or a stream of events.

Images say how they were made. A PNG has the chunks of `hart generate`, so that `--like` generates it again and the page
restores its settings. JPEG and WebP hold the XMP alone. The same row gives the same bytes.
"""

from __future__ import annotations

import asyncio
import base64
import io
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from hart.generation.signing import ContentCredentials
from hart.serving.checkers import PromptChecker
from hart.serving.engine import Row, Source
from hart.serving.metrics import Metrics
from hart.serving.models import ServedModel
from hart.serving.scheduler import Event, Failed, Finished, Preview
from hart.serving.schemas import ApiError, ImageData, ImageEvent, ImagesAnswer, RequestBody, Usage
from hart.sizes import ImageSize, parsed_size, untrained_remark
from hart.strict import clipped
from hart.text_encoder.emoji import named_emoji

if TYPE_CHECKING:
    from hart.serving.pipeline_engine import PipelineEngine

TEXTS = ("prompt", "negative_prompt", "second_prompt", "source_prompt")
"""Fields of requests that a person has written, as far as a kind of request has them."""
STEPS = ("maskgit_steps", "diffusion_steps")
UNREAD_PIXELS = 2**24
"""Of previews that wait for a slow reader; more are left out."""
PREVIEW_LEVEL, LEVEL = 1, 4
"""Of PNG's compression: previews are looked at for a moment."""


@dataclass(frozen=True)
class Terms:
    """On which a server generates. checker: may refuse prompts. max_steps: see `ServeOptions`; the model's own are
    always generated. credentials: sign finished images."""

    checker: PromptChecker
    max_steps: int = 100
    credentials: ContentCredentials | None = None


@dataclass(frozen=True)
class Order:
    """What one request asks of a model. notes: for its author."""

    request: RequestBody
    model: str
    rows: Sequence[Row]
    notes: list[str]
    credentials: ContentCredentials | None

    @property
    def form(self) -> str:
        """png, jpeg or webp."""
        return self.request.output_format or "png"

    def previews(self) -> tuple[int, ...]:
        """0-based scales after which an image so far is sent."""
        before_last = self.rows[0].scales - 1
        if not self.request.stream:
            return ()
        wanted = before_last if self.request.partial_images is None else min(self.request.partial_images, before_last)
        return tuple((2 * i + 1) * before_last // (2 * wanted) for i in range(wanted))

    def encoded(self, event: Preview | Finished) -> str:
        """The event's image in base64."""
        from hart.generation.metadata import png_chunks, xmp

        made_by, is_preview, file = self.rows[event.row].record(self.model), isinstance(event, Preview), io.BytesIO()
        if self.form == "png":
            level = PREVIEW_LEVEL if is_preview else LEVEL
            event.image.save(file, "PNG", pnginfo=png_chunks(made_by), compress_level=level)
        else:
            quality = self.request.output_compression
            quality = 100 if quality is None else quality
            event.image.save(file, self.form.upper(), quality=quality, xmp=xmp(made_by).encode())
        content = file.getvalue()
        if self.credentials is not None and not is_preview:
            content = self.credentials.signed(content, self.form, made_by)
        return base64.b64encode(content).decode()

    def usage(self, images: int) -> Usage:
        tokens = images * self.rows[0].tokens
        return Usage(output_tokens=tokens, total_tokens=tokens)

    def common(self) -> dict[str, Any]:
        """What an answer and every event say alike."""
        return {"size": str(self.rows[0].size), "output_format": self.form, "model": self.model}


def order(
    request: RequestBody,
    model: ServedModel,
    engine: PipelineEngine,
    terms: Terms,
    begun: Callable[[], Source] | None = None,
) -> Order:
    """The rows that a request, which has a seed, asks for. begun: gives the image to start from.

    In a thread: decoding images, reading and judging prompts take a while. Raises `ApiError` for a refused prompt,
    `HartError` for what cannot be.
    """
    assert request.seed is not None
    source = None if begun is None else begun()
    texts = {name: text for name in TEXTS if (text := getattr(request, name, None))}
    for param, text in texts.items():
        # a negative prompt says what shall not be there: lists of what is refused are usual in it
        if param != "negative_prompt" and (why := terms.checker(named_emoji(text))) is not None:
            raise ApiError(400, why, param=param, code="content_policy_violation")
    size, notes = _size(request, engine, source)
    if request.model and request.model != model.name:
        notes.insert(0, f"the model {clipped(request.model)} is not served: this is by {model.name}")
    for name in STEPS:
        most = max(terms.max_steps, getattr(engine.facts.sampling, name) or 0)
        if (getattr(request, name) or 0) > most:
            raise ApiError(400, f"{name}: this server takes up to {most}", param=name)
    first = engine.row(request, size, source)
    rows = [replace(first, seed=request.seed + i) for i in range(request.n or 1)]
    for text in texts.values():
        notes += engine.remarks(text)
    return Order(request, model.name, rows, notes, terms.credentials)


def _size(request: RequestBody, engine: PipelineEngine, source: Source | None) -> tuple[ImageSize, list[str]]:
    """The size that is generated, and what to say about it. An edit has its image's, or nearly its shape."""
    sizes = engine.facts.sizes
    param, said, notes = "size", request.size, list[str]()
    if request.size is not None and request.size != "auto":
        wanted = parsed_size(request.size)
    elif request.aspect is not None:
        wanted = engine.shaped(request.aspect)
        param, said = "aspect", f"{request.aspect} as {wanted}"
    elif source is not None:
        wanted = engine.canvas(source.image)
        if wanted != source.image.size:
            notes.append(f"the result has {wanted} px, about as many as the model's own images")
    else:
        wanted = sizes[0]
    size = engine.nearest(*wanted)
    if size != wanted and request.strict:
        why = engine.misfit(*wanted)
        raise ApiError(400, f"{param}: the model does not generate {said}: {why}", param=param)
    if size != wanted:
        notes.append(f"the model does not generate {said}: this is {size}")
    if (remark := untrained_remark(size, sizes)) is not None:
        notes.append(remark)
    return size, notes


class Subscription:
    """The events of a job, in the event loop of its request."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[Event] = asyncio.Queue()
        self._unread = 0

    def deliver(self, event: Event) -> None:
        """For `Job.deliver`: called in the scheduler's thread."""
        with suppress(RuntimeError):  # the loop has ended, and everybody who waited in it
            self._loop.call_soon_threadsafe(self._put, event)

    async def next(self, seconds: float | None = None) -> Event:
        """Raises `TimeoutError` if there is none in time."""
        async with asyncio.timeout(seconds):  # `wait_for` of Python 3.11 may swallow that the client has left
            event = await self._events.get()
        if isinstance(event, Preview):
            self._unread -= event.image.width * event.image.height
        return event

    def _put(self, event: Event) -> None:
        if isinstance(event, Preview):
            pixels = event.image.width * event.image.height
            if self._unread and self._unread + pixels > UNREAD_PIXELS:
                return
            self._unread += pixels
        self._events.put_nowait(event)


async def answer(order: Order, events: Subscription, metrics: Metrics) -> ImagesAnswer:
    """All images at once. Raises what the job failed with."""
    done: dict[int, ImageData] = {}
    asked = order.request
    # clients of OpenAI's older models read an address where they say nothing
    kind = asked.response_format or ("url" if (asked.model or "").startswith("dall-e") else "b64_json")
    async for event in stream(order, events, metrics):
        assert event is not None  # which comes where it is asked for
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
    """Events of OpenAI's API, with fields of this model; None every `still_here` seconds without one, so that the
    connection is not taken for dead. Raises what the job failed with."""
    left, sent, kind = len(order.rows), [0] * len(order.rows), order.request.kind
    while left:
        try:
            event = await events.next(still_here)
        except TimeoutError:
            yield None
            continue
        if isinstance(event, Failed):
            raise event.error
        with metrics.seconds.labels("encode").time():  # which takes long at large sizes: not in the event loop
            content = await asyncio.to_thread(order.encoded, event)
        partial = isinstance(event, Preview)
        said = ImageEvent(
            type=f"{kind}.partial_image" if partial else f"{kind}.completed",
            b64_json=content,
            created_at=int(time.time()),
            **order.common(),
            image_index=event.row,
            seed=order.rows[event.row].seed,
            scale=event.k + 1 if isinstance(event, Preview) else order.rows[0].scales,
            scales=order.rows[0].scales,
            partial_image_index=sent[event.row] if partial else None,
            usage=None if partial else order.usage(1),
            notes=None if partial else order.notes,
        )
        sent[event.row] += partial
        left -= not partial
        yield said.model_dump(exclude_none=True)
