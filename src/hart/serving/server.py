"""One server: its models, queue and bounds, and how a request passes through them."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from hart.serving.access import Access, RateLimit, Room
from hart.serving.bodies import Bodies
from hart.serving.checkers import prompt_checker
from hart.serving.engine import Source
from hart.serving.errors import api_error
from hart.serving.metrics import Metrics
from hart.serving.models import Models, ServedModel, order_threads
from hart.serving.options import ServeOptions
from hart.serving.orders import Order, Subscription, answer, stream
from hart.serving.scheduler import Job, Scheduler
from hart.serving.schemas import ApiError, RequestBody, timed_out
from hart.serving.streaming import EventStream, in_time, while_here
from hart.strict import clipped
from hart.text_encoder.emoji import named_emoji

if TYPE_CHECKING:
    from hart.serving.pipeline_engine import PipelineEngine

JOIN_SECONDS = 0.004
"""In which a first image waits for others of a batch."""
COMING = "many requests are being read: try again later"
STILL_OPENING = "the model is still being opened: try again later"
STILL_HERE_SECONDS = 15.0
"""Between signs of life in a stream that has nothing to say."""
TEXTS = ("prompt", "negative_prompt", "second_prompt", "source_prompt")
"""Fields of requests that a person has written, as far as a kind of request has them."""
STEPS = ("maskgit_steps", "diffusion_steps")


class Server:
    """What the routes share. Made inside the running event loop's process; the app starts its thread and ends it."""

    def __init__(self, options: ServeOptions, models: Models) -> None:
        """Raises `HartError` for options that do not fit together."""
        self.options, self.models = options, models
        self.access = Access(options.keys(), options.hosts())
        self.checker = prompt_checker(options.prompt_check, options.device)
        self.credentials = options.credentials()
        self.metrics = Metrics()
        self.bodies = Bodies()
        self.rates = RateLimit(options.rate_limit, time.monotonic)
        self.scheduler = Scheduler(
            batch_size=options.batch_size,
            queue_size=options.queue_size,
            join_seconds=JOIN_SECONDS,
            clock=time.monotonic,
            metrics=self.metrics,
        )
        self.sampling = threading.Thread(target=self.scheduler.run, name="hart-sampling", daemon=True)
        # of requests that are not in the queue yet, which is as large as that
        self._coming = Room(options.queue_size, partial(ApiError, 429, COMING, code="queue_full"))

    async def answer(
        self,
        request: Request,
        asked: RequestBody,
        source: Callable[[], Source] | None = None,
    ) -> Response:
        """Check, queue, wait and answer, all at once or by events.

        source: the image to start from, made in a thread. A front that passes requests on says in their state how many
        seconds are left, and whether their images are charged already.
        """
        client: str = request.state.client
        seconds: float = getattr(request.state, "seconds", self.options.timeout)
        deadline = self.scheduler.clock() + seconds
        is_charged: bool = getattr(request.state, "is_charged", False)
        if (asked.n or 1) > self.options.queue_size:
            raise ApiError(400, f"n: this server takes up to {self.options.queue_size} (--queue-size)", param="n")
        model = self.models.asked(asked.model, strict=bool(asked.strict))
        if asked.seed is None:
            asked = asked.model_copy(update={"seed": request.state.seed})
        with (
            nullcontext() if is_charged else self.rates.charged(client, asked.n or 1),
            self._coming.taken(asked.n or 1),
        ):
            async with in_time(seconds, timed_out(STILL_OPENING)):
                engine = await while_here(request.receive, model.ready())
            threads = order_threads(with_image=source is not None)
            work = partial(self._order, asked, model, engine, source)
            ordering = asyncio.get_running_loop().run_in_executor(threads, work)
            async with in_time(deadline - self.scheduler.clock(), timed_out()):
                order = await while_here(request.receive, ordering)
            events = Subscription()
            queued = Job(engine, order.rows, client, deadline, events.deliver, order.previews())
            self.scheduler.submit(queued)
        if asked.stream:
            return EventStream(self._events(order, events), lambda: self.scheduler.cancel(queued))
        try:
            result = await while_here(request.receive, answer(order, events, self.metrics))
        finally:
            self.scheduler.cancel(queued)
        timing = {"Server-Timing": f"queue;dur={1000 * queued.waited:.1f}"}
        return JSONResponse(result.model_dump(exclude_none=True), headers=timing)

    def _order(
        self, request: RequestBody, model: ServedModel, engine: PipelineEngine, begun: Callable[[], Source] | None
    ) -> Order:
        """The rows that a request, which has a seed, asks for. begun: gives the image to start from.

        In a thread: decoding images, reading and judging prompts take a while. Raises `ApiError` for a refused prompt,
        `HartError` for what cannot be.
        """
        source = None if begun is None else begun()
        texts = {name: text for name in TEXTS if (text := getattr(request, name, None))}
        for param, text in texts.items():
            # a negative prompt says what shall not be there: lists of what is refused are usual in it
            if param != "negative_prompt" and (why := self.checker(named_emoji(text))) is not None:
                raise ApiError(400, why, param=param, code="content_policy_violation")
        size, notes = engine.size(request, source)
        if request.model and request.model != model.name:
            notes.insert(0, f"the model {clipped(request.model)} is not served: this is by {model.name}")
        for name in STEPS:
            most = max(self.options.max_steps, getattr(engine.facts.sampling, name) or 0)
            if (getattr(request, name) or 0) > most:
                raise ApiError(400, f"{name}: this server takes up to {most}", param=name)
        first = engine.row(request, size, source)
        rows = [replace(first, seed=first.seed + i) for i in range(request.n or 1)]
        for text in texts.values():
            notes += engine.remarks(text)
        return Order(request, model.name, rows, notes, self.credentials)

    async def _events(self, order: Order, events: Subscription) -> AsyncIterator[dict[str, Any] | None]:
        """The stream, with an error as its last event if there is one."""
        try:
            async for event in stream(order, events, self.metrics, STILL_HERE_SECONDS):
                yield event
        except Exception as error:
            yield api_error(error).body()
