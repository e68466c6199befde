"""One server: its models, queue and bounds, and how a request passes through them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import nullcontext
from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from hart.serving.access import Access, RateLimit, Room
from hart.serving.bodies import Bodies
from hart.serving.engine import Source
from hart.serving.errors import api_error
from hart.serving.metrics import Metrics
from hart.serving.models import Models
from hart.serving.options import Limits
from hart.serving.orders import Order, Subscription, Terms, answer, order, stream
from hart.serving.scheduler import Job, Scheduler
from hart.serving.schemas import ApiError, RequestBody, timed_out
from hart.serving.streaming import EventStream, in_time, while_here
from hart.serving.worker import Worker, order_threads

JOIN_SECONDS = 0.004
"""In which a first image waits for others of a batch."""
COMING = "many requests are being read: try again later"
STILL_OPENING = "the model is still being opened: try again later"
STILL_HERE_SECONDS = 15.0
"""Between signs of life in a stream that has nothing to say."""


class Server:
    """What the routes share. Made inside the running event loop's process, started and stopped by the app."""

    def __init__(self, models: Models, terms: Terms, access: Access, limits: Limits) -> None:
        self.models, self.terms, self.access, self.limits = models, terms, access, limits
        self.metrics = Metrics()
        self.bodies = Bodies()
        self.rates = RateLimit(limits.rate_limit, time.monotonic)
        self.scheduler = Scheduler(
            batch_size=limits.batch_size,
            queue_size=limits.queue_size,
            join_seconds=JOIN_SECONDS,
            clock=time.monotonic,
            metrics=self.metrics,
        )
        self.worker = Worker(self.scheduler)
        # of requests that are not in the queue yet, which is as large as that
        self._coming = Room(limits.queue_size, partial(ApiError, 429, COMING, code="queue_full"))

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
        seconds: float = getattr(request.state, "seconds", self.limits.timeout)
        deadline = self.scheduler.clock() + seconds
        is_charged: bool = getattr(request.state, "is_charged", False)
        if (asked.n or 1) > self.limits.queue_size:
            raise ApiError(400, f"n: this server takes up to {self.limits.queue_size} (--queue-size)", param="n")
        model = self.models.asked(asked.model, strict=bool(asked.strict))
        if asked.seed is None:
            asked = asked.model_copy(update={"seed": request.state.seed})
        with (
            nullcontext() if is_charged else self.rates.charged(client, asked.n or 1),
            self._coming.taken(asked.n or 1),
        ):
            async with in_time(seconds, timed_out(STILL_OPENING)):
                engine = await while_here(request.receive, model.ready())
            threads = order_threads().without_image if source is None else order_threads().with_image
            work = partial(order, asked, model, engine, self.terms, source)
            ordering = asyncio.get_running_loop().run_in_executor(threads, work)
            async with in_time(deadline - self.scheduler.clock(), timed_out()):
                ordered = await while_here(request.receive, ordering)
            events = Subscription()
            queued = Job(engine, ordered.rows, client, deadline, events.deliver, ordered.previews())
            self.scheduler.submit(queued)
        if asked.stream:
            return EventStream(self._events(ordered, events), lambda: self.scheduler.cancel(queued))
        try:
            result = await while_here(request.receive, answer(ordered, events, self.metrics))
        finally:
            self.scheduler.cancel(queued)
        timing = {"Server-Timing": f"queue;dur={1000 * queued.waited:.1f}"}
        return JSONResponse(result.model_dump(exclude_none=True), headers=timing)

    async def _events(self, ordered: Order, events: Subscription) -> AsyncIterator[dict[str, Any] | None]:
        """The stream, with an error as its last event if there is one."""
        try:
            async for event in stream(ordered, events, self.metrics, STILL_HERE_SECONDS):
                yield event
        except Exception as error:
            yield api_error(error).body()
