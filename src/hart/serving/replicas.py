"""The application of `hart serve` in replicas, a Ray Serve deployment, behind one front: `hart serve --ray`.

The front has the port. It checks access and serves the page; requests to a model go to a replica, which runs the whole
application, and its answer comes back message by message. Ray replaces a replica that dies; another one generates again
what it had not answered, with the same seed, and continues a stream only with what was not sent yet.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import aclosing, asynccontextmanager, nullcontext, suppress
from dataclasses import dataclass
from typing import Any

import ray
from prometheus_client import Metric, generate_latest
from ray import serve
from ray.serve.exceptions import RayServeException
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hart.serving.app import add_page
from hart.serving.bodies import Bodies
from hart.serving.errors import api_error, error_response
from hart.serving.metrics import Metrics
from hart.serving.middleware import RequestMiddleware
from hart.serving.options import ServeOptions
from hart.serving.run import app_from_options, configure_logging
from hart.serving.schemas import REQUESTS, ApiError, timed_out
from hart.serving.streaming import event_bytes, in_time, while_here

log = logging.getLogger(__name__)

LOST = (
    ray.exceptions.RayActorError,
    ray.exceptions.NodeDiedError,
    ray.exceptions.ObjectLostError,
    ray.exceptions.OutOfMemoryError,
    ray.exceptions.WorkerCrashedError,
)
"""Errors raised when a replica dies."""
ATTEMPTS = 3
"""Replicas that may die on a request before it gets an error."""
GRACE_SECONDS = 5.0
"""Seconds in which a replica may still report that the time for a request is over."""
STATUS_SECONDS = 5.0
"""Seconds in which a replica must report its state."""
NOT_STARTED = "the replicas cannot be started; the server's log says why"
EVENT_ID = re.compile(rb"id: ([0-9]+)\.([0-9]+)\n")
"""See `hart.serving.streaming.event_bytes`."""
PASSED_ON = (
    "type", "asgi", "http_version", "method", "scheme", "path", "raw_path", "query_string", "root_path", "headers",
    "client", "server",
)  # fmt: skip
"""Parts of a request's ASGI scope that go to a replica, besides the headers in `KEYS`."""
KEYS = (b"authorization", b"api-key")
"""Headers that nobody behind the front needs."""


class Replica:
    """The whole application, in a process of the cluster."""

    async def __init__(self, options: ServeOptions, on_a_machine: int) -> None:  # type: ignore[misc]  # Ray awaits it
        """on_a_machine: how many share a machine's processor. Returns once requests need not wait for the model. Raises
        `ModelUnavailable`: a replica whose model cannot be opened cannot start either."""
        # Ray gives a worker one thread
        os.environ["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // on_a_machine))
        configure_logging()
        self._app = app_from_options(options)
        self._server = self._app.state.server
        self._life = self._app.router.lifespan_context(self._app)
        await self._life.__aenter__()
        await self._server.models.default.ready()

    async def answer(self, scope: Scope, body: bytes) -> AsyncIterator[Message]:
        """Answer a request, see `answered`."""
        async with aclosing(answered(self._app, scope, body)) as messages:
            async for message in messages:
                yield message

    def metrics(self) -> tuple[str, list[Metric]]:
        """Return its name and its figures."""
        return serve.get_replica_context().replica_tag, list(self._server.metrics.registry.collect())

    def check_health(self) -> None:
        """Raise if Ray should replace this replica."""
        if not self._server.sampling.is_alive():
            raise RuntimeError("sampling has failed")


async def answered(app: ASGIApp, scope: Scope, body: bytes) -> AsyncGenerator[Message, None]:
    """Yield the ASGI messages of an application's answer to a request whose body has been read."""
    messages = asyncio.Queue[Message | Exception](1)
    unread: list[Message] = [{"type": "http.request", "body": body}]

    async def receive() -> Message:
        if not unread:
            await asyncio.Event().wait()  # if the client leaves, all of this is cancelled
        return unread.pop()

    async def run() -> None:
        try:
            await app(scope, receive, messages.put)
        except Exception as error:
            await messages.put(error)
        else:
            await messages.put(RuntimeError("an answer without an end"))  # not read if the answer had an end

    task = asyncio.ensure_future(run())
    try:
        more = True
        while more:
            message = await messages.get()
            if isinstance(message, Exception):
                raise message
            more = message["type"] != "http.response.body" or message.get("more_body", False)
            yield message
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def deployed(name: str, options: ServeOptions, count: int, *, on_gpus: bool, on_a_machine: int) -> Any:
    """Return the handle of a Ray Serve application of this many replicas, once they are ready."""
    quiet = {"log_level": "WARNING", "enable_access_log": False}
    serve.start(proxy_location="Disabled", logging_config=quiet)
    deployment = serve.deployment(
        num_replicas=count,
        ray_actor_options={"num_cpus": 0, "num_gpus": 1 if on_gpus else 0},
        max_ongoing_requests=options.most_posts(),
        graceful_shutdown_timeout_s=options.timeout,
    )(Replica)
    share = None if options.rate_limit is None else options.rate_limit / count
    app = deployment.bind(options.replace(rate_limit=share, log_requests=False), on_a_machine)
    return serve.run(app, name=name, route_prefix=None, logging_config=quiet)


def withdrawn(name: str) -> None:
    """Remove the application from the cluster, and leave it."""
    try:
        serve.delete(name)
    finally:
        ray.shutdown()


def front_app(options: ServeOptions, count: int, deploy: Callable[[], Any], withdraw: Callable[[], None]) -> Starlette:
    """Create the application at the port, in front of this many replicas. deploy: see `Front`; withdraw: called in a
    thread when the application ends.

    Raises `HartError` for options that do not fit together.
    """
    one = app_from_options(options)  # never started: it checks the options, and describes what replicas answer
    front = Front(deploy, options.timeout)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        front.start()
        try:
            yield
        finally:
            await front.settled()  # otherwise a deployment still in progress would remain
            await asyncio.to_thread(withdraw)

    routes = [
        Route("/healthz", front.healthz),
        Route("/metrics", front.metrics),
        Route("/openapi.json", lambda _: JSONResponse(one.openapi())),
        Route("/readyz", front, methods=["GET"]),  # without a key, so without a body
        *(Route(kind.route, front) for kind in REQUESTS),
        *(Route(path, front) for path in ("/v1/models", "/v1/models/{name:path}")),
    ]
    handlers = {HTTPException: lambda _, error: error_response(error)}
    app = Starlette(routes=routes, lifespan=lifespan, exception_handlers=handlers)
    app.router.redirect_slashes = False
    add_page(app)
    app.add_middleware(
        RequestMiddleware,
        access=one.state.server.access,
        metrics=front.figures,
        most_posts=options.most_posts(count),
        log_requests=options.log_requests,
    )
    return app


class Front:
    """The front at the port of replicas."""

    def __init__(self, deploy: Callable[[], Any], timeout: float) -> None:
        """deploy: returns the handle of the replicas once they are ready; called in a thread. timeout: in seconds, for
        a request."""
        self.figures = Metrics()
        self._bodies, self._deploy, self._timeout = Bodies(), deploy, timeout

    def start(self) -> None:
        """Start to deploy the replicas, in the background."""
        self._deployed = asyncio.ensure_future(asyncio.to_thread(self._made))

    def _made(self) -> Any:
        """Return their handle; None if they cannot be deployed."""
        try:
            return self._deploy()
        except Exception as error:
            log.error("the replicas cannot be started: %s", error)

    async def settled(self) -> None:
        """Wait until the replicas are deployed or cannot be, or the time of a request is over."""
        await asyncio.wait({self._deployed}, timeout=self._timeout)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and the answer back."""
        request = Request(scope, receive)
        seconds = STATUS_SECONDS if scope["path"] == "/readyz" else self._timeout
        end = time.monotonic() + seconds
        replicas = await self._replicas(seconds)  # first, so that no bodies are held while they start
        left = end - time.monotonic()  # a body has its own time limit, as without replicas
        # held until it is answered: another replica may have to generate it
        async with self._bodies.whole(request) if request.method == "POST" else nullcontext(b"") as body:
            end = time.monotonic() + left
            await while_here(request.receive, self._passed_on(replicas, scope, body, send, end))

    async def healthz(self, _: Request) -> Response:
        """Whether the front works, and replicas could be deployed; Ray handles one that dies later."""
        if self._deployed.done() and self._deployed.result() is None:
            return JSONResponse({"status": "failed", "message": NOT_STARTED}, 503)
        return JSONResponse({"status": "ok"})

    async def metrics(self, _: Request) -> Response:
        """Return the figures of the front and of all existing replicas, distinguished by a label."""
        by_replica = [("front", list(self.figures.registry.collect()))]
        with suppress(ApiError):  # there are none
            replicas = await self._replicas(0)
            asked = replicas.broadcast("metrics")
            try:
                found = await asked.results_async(timeout_s=STATUS_SECONDS, return_exceptions=True)
            except (TimeoutError, RayServeException, ray.exceptions.RayError) as error:
                log.warning("the figures of the replicas are missing: %s", error)
            else:
                by_replica += [each for each in found if not isinstance(each, Exception)]  # a dead replica has none
        return Response(generate_latest(_Labelled(by_replica)), media_type="text/plain; version=0.0.4")

    async def _replicas(self, seconds: float) -> Any:
        """Return their handle, waiting for it."""
        await asyncio.wait({self._deployed}, timeout=seconds)
        if not self._deployed.done():
            raise ApiError(503, "the replicas are still being started: try again later", code="no_replica")
        if (replicas := self._deployed.result()) is None:
            raise ApiError(503, NOT_STARTED, code="no_replica")
        return replicas

    async def _passed_on(self, replicas: Any, scope: Scope, body: bytes, send: Send, end: float) -> None:
        """end: when the time for the request is over, however many replicas try. An error is the last event of a stream
        that has begun."""
        begun = False
        try:
            async with aclosing(self._answer(replicas, scope, body, end)) as messages:
                async for message in messages:
                    await send(message)
                    begun = True
        except (ApiError, ray.exceptions.RayTaskError) as error:
            found = api_error(error)
            if not begun:
                raise found from None
            await send({"type": "http.response.body", "body": event_bytes(found.body()), "more_body": False})

    async def _answer(self, replicas: Any, scope: Scope, body: bytes, end: float) -> AsyncGenerator[Message, None]:
        """Yield what a client gets, however many replicas begin it: one head, and every event of a stream once."""
        asked = {name: scope[name] for name in PASSED_ON if name in scope}
        asked["headers"] = [(name, value) for name, value in scope["headers"] if name not in KEYS]
        of_all = {name: scope["state"][name] for name in ("client", "seed")}
        head: Message | None = None
        scales = dict[bytes, int]()  # number of an image in a stream -> scales that its last event had
        for attempt in range(ATTEMPTS):
            state = of_all | {"seconds": end - time.monotonic(), "is_charged": attempt > 0}
            messages = replicas.options(stream=True).answer.remote(asked | {"state": state}, body)
            try:
                own_head, more = await _next(messages, end), True
                while more:
                    message = await _next(messages, end)
                    more = message.get("more_body", False)
                    if head is not None and own_head["status"] != 200:  # an error from a replica other than the first
                        message = {**message, "body": event_bytes(json.loads(message["body"]))}
                    elif (event := EVENT_ID.match(message["body"])) is not None:
                        image, done = event[1], int(event[2])
                        if done <= scales.get(image, 0):
                            continue
                        scales[image] = done
                    if head is None:  # not before: another replica's may differ
                        head = own_head
                        yield head
                    yield message
                return
            except LOST:
                log.warning("a replica has died; what it had not answered goes to another")
            finally:
                messages.cancel()
        said = f"{ATTEMPTS} replicas have died of this request, or of one that was sampled with it: try again later"
        raise ApiError(503, said, code="replicas_died")


async def _next(messages: Any, end: float) -> Message:
    """Return the next message; once the time is over, a replica may still say so, and what it had done before."""
    seconds = max(0.0, end - time.monotonic()) + GRACE_SECONDS
    async with in_time(seconds, timed_out("no replica answers: try again later")):
        found: Message = await anext(messages)
        return found


@dataclass(frozen=True)
class _Labelled:
    """Figures of several registries as one."""

    by_replica: list[tuple[str, list[Metric]]]

    def collect(self) -> Iterator[Metric]:
        families: dict[str, Metric] = {}
        for name, metrics in self.by_replica:
            for metric in metrics:
                family = families.setdefault(metric.name, Metric(metric.name, metric.documentation, metric.type))
                family.samples += [s._replace(labels=s.labels | {"replica": name}) for s in metric.samples]
        yield from families.values()
