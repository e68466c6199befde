"""The web application: its routes, and how a request passes through it."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, FastAPI, Request, Security
from fastapi.security import HTTPBearer
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.responses import FileResponse, JSONResponse, Response

from hart.serving.access import Access, RateLimit, Room
from hart.serving.bodies import Bodies, from_form, source
from hart.serving.checkers import prompt_checker
from hart.serving.engine import Source
from hart.serving.errors import error_response
from hart.serving.metrics import Metrics
from hart.serving.middleware import RequestMiddleware
from hart.serving.models import Models, OpenModel, ServedModel, order_threads
from hart.serving.openapi import EDIT_FORM, FIGURES, HEALTH, IMAGES, JSON_BODY, NO_MODEL, STATUS, VARIATION_FORM
from hart.serving.options import ServeOptions
from hart.serving.orders import Order, Subscription, answer, stream
from hart.serving.scheduler import Job, Scheduler
from hart.serving.schemas import MAX_IMAGES, ApiError, Edit, Generation, RequestBody, Variation, timed_out
from hart.serving.streaming import EventStream, in_time, while_here
from hart.strict import clipped
from hart.text_encoder.emoji import named_emoji

if TYPE_CHECKING:
    from hart.serving.pipeline_engine import PipelineEngine

PAGE = Path(__file__).with_name("page")
JOIN_SECONDS = 0.004
"""Time that a first image waits for others to join its batch."""
COMING = "many requests are being read: try again later"
STILL_OPENING = "the model is still being opened: try again later"
STILL_HERE_SECONDS = 15.0
"""Seconds between signs of life in a stream without other events."""
TEXTS = ("prompt", "negative_prompt", "second_prompt", "source_prompt")
"""Fields of requests that a person has written, as far as a kind of request has them."""
STEPS = ("maskgit_steps", "diffusion_steps")


class Server:
    """What the routes share. Created inside the running event loop's process; the app starts and ends its thread."""

    def __init__(self, options: ServeOptions, models: Models) -> None:
        """Raise `HartError` for options that do not fit together."""
        self.options, self.models = options, models
        self.access = Access(options.keys(), options.hosts())
        self.checker = prompt_checker(options.prompt_check, options.device, elsewhere=options.ray)
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
        # for requests that are not in the queue yet; as large as the queue
        self._coming = Room(options.queue_size, partial(ApiError, 429, COMING, code="queue_full"))

    async def answer(self, request: Request, asked: RequestBody, begun: Callable[[], Source] | None = None) -> Response:
        """Check, queue, wait and answer, all at once or by events.

        begun: returns the image to start from, in a thread. A front that passes requests on puts into their state how
        many seconds are left, and whether their images are already charged.
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
            threads = order_threads(with_image=begun is not None)
            work = partial(self._order, asked, model, engine, begun)
            ordering = asyncio.get_running_loop().run_in_executor(threads, work)
            async with in_time(deadline - self.scheduler.clock(), timed_out()):
                order = await while_here(request.receive, ordering)
            events = Subscription()
            queued = Job(engine, order.rows, client, deadline, events.deliver, order.previews())
            self.scheduler.submit(queued)
        if asked.stream:
            told = stream(order, events, self.metrics, STILL_HERE_SECONDS)
            return EventStream(told, lambda: self.scheduler.cancel(queued))
        try:
            result = await while_here(request.receive, answer(order, events, self.metrics))
        finally:
            self.scheduler.cancel(queued)
        timing = {"Server-Timing": f"queue;dur={1000 * queued.waited:.1f}"}
        return JSONResponse(result.model_dump(exclude_none=True), headers=timing)

    def _order(
        self, request: RequestBody, model: ServedModel, engine: PipelineEngine, begun: Callable[[], Source] | None
    ) -> Order:
        """Return the rows that a request, which has a seed, asks for.

        Runs in a thread: decoding images, reading and checking prompts take a while. Raises `ApiError` for a refused
        prompt, `HartError` for impossible requests.
        """
        start = None if begun is None else begun()
        texts = {name: text for name in TEXTS if (text := getattr(request, name, None))}
        for param, text in texts.items():
            # a negative prompt says what to avoid: lists of refused words are usual in it
            if param != "negative_prompt" and (why := self.checker(named_emoji(text))) is not None:
                raise ApiError(400, why, param=param, code="content_policy_violation")
        size, notes = engine.size(request, start)
        if request.model and request.model != model.name:
            notes.insert(0, f"the model {clipped(request.model)} is not served: {model.name} was used")
        for name in STEPS:
            most = max(self.options.max_steps, getattr(engine.facts.sampling, name) or 0)
            if (getattr(request, name) or 0) > most:
                raise ApiError(400, f"{name}: this server takes up to {most}", param=name)
        first = engine.row(request, size, start)
        rows = [replace(first, seed=first.seed + i) for i in range(request.n or 1)]
        for text in texts.values():
            notes += engine.remarks(text)
        return Order(request, model.name, rows, notes, self.credentials)


def create_app(options: ServeOptions, models: Mapping[str, OpenModel]) -> FastAPI:
    """Create the application of these models, the first being the default, in place of those that the options name. The
    default one is opened in the background at the start; what was accepted is finished before it stops.
    `app.state.server` is its `Server`. Raises `HartError` for options that do not fit together."""
    from hart import __version__

    server = Server(options, Models(models))

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        server.sampling.start()
        server.models.default.begin()
        yield
        server.scheduler.close()
        await asyncio.to_thread(server.sampling.join)

    app = FastAPI(
        title="hart",
        version=__version__,
        summary="Text to image, coarse to fine: OpenAI's Images API with this model's own fields.",
        lifespan=lifespan,
        docs_url=None,  # its page loads scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,  # see the middleware
        telemetry={"tracing": False, "metrics": False, "logs": False},  # not requested by anyone
    )
    app.state.server = server
    # states in the OpenAPI document what `Access` requires
    key = [Security(HTTPBearer(auto_error=False))] if server.access.keys else []
    with_key = APIRouter(dependencies=key)
    _add_images(with_key, server)
    _add_facts(with_key, server)
    app.include_router(with_key)
    _add_health(app, server)
    add_page(app)
    app.add_exception_handler(HTTPException, lambda _, error: error_response(error))
    app.add_middleware(
        RequestMiddleware,
        access=server.access,
        metrics=server.metrics,
        most_posts=options.most_posts(),
        log_requests=options.log_requests,
    )
    return app


def _add_images(app: APIRouter, server: Server) -> None:
    async def change(request: Request, kind: type[Edit] | type[Variation]) -> Response:
        async with server.bodies.form(request) as form:
            asked = from_form(form, kind)
            return await server.answer(request, asked, partial(source, form, asked))

    @app.post(Generation.route, responses=IMAGES, openapi_extra=JSON_BODY)
    async def generations(request: Request) -> Response:
        """Generate images from a prompt."""
        return await server.answer(request, await server.bodies.json(request, Generation))

    @app.post(Edit.route, responses=IMAGES, openapi_extra=EDIT_FORM)
    async def edits(request: Request) -> Response:
        """Redraw a part of an image, or all of it to another text."""
        return await change(request, Edit)

    @app.post(Variation.route, responses=IMAGES, openapi_extra=VARIATION_FORM)
    async def variations(request: Request) -> Response:
        """Generate images that share an image's coarse scales."""
        return await change(request, Variation)


def _add_facts(app: APIRouter, server: Server) -> None:
    @app.get("/v1/models", responses=STATUS)
    async def models() -> dict[str, Any]:
        """List the served models, the default first, and for opened ones what they generate."""
        return {"object": "list", "data": [_described(model, server.options) for model in server.models.all]}

    @app.get("/v1/models/{name:path}", responses=NO_MODEL)
    async def one_model(name: str) -> dict[str, Any]:
        """Describe one served model."""
        return _described(server.models.named(name), server.options)

    @app.get("/metrics", response_class=Response, responses=FIGURES)
    async def metrics() -> Response:
        """Figures for Prometheus."""
        return Response(server.metrics.text(), media_type="text/plain; version=0.0.4")


def _add_health(app: FastAPI, server: Server) -> None:
    @app.get("/healthz", responses=HEALTH)
    async def healthz() -> JSONResponse:
        """Whether the process works: 200, or 503 if it should be restarted, also while a default model that could not
        be opened is being tried again."""
        if message := _failure(server):
            return JSONResponse({"status": "failed", "message": message}, 503)
        return JSONResponse({"status": "ok"})

    @app.get("/readyz", responses=HEALTH)
    async def readyz() -> JSONResponse:
        """Whether the default model can generate: 200, else 503. `models` has the state of each: closed, opening,
        ready, failed."""
        states = {model.name: model.state for model in server.models.all}
        default, failure = server.models.default, _failure(server)
        message, ready = failure or default.message, failure is None and default.state == "ready"
        return JSONResponse({"ready": ready, "message": message, "models": states}, 200 if ready else 503)


def _failure(server: Server) -> str | None:
    """Return why a server has to be restarted, as a sentence; None if it need not be."""
    if not server.sampling.is_alive():
        return "sampling has failed: restart the server"
    return server.models.default.failure


def add_page(app: Starlette) -> None:
    """Serve the page's files, each at its name; `index.html` also at the root."""
    for file in PAGE.iterdir():

        def show(_: Request, path: Path = file) -> Response:
            return FileResponse(path, headers={"cache-control": "no-cache"})

        app.add_route(f"/{file.name}", show, ["GET"], include_in_schema=False)
        if file.name == "index.html":
            app.add_route("/", show, ["GET"], include_in_schema=False)


def _described(model: ServedModel, options: ServeOptions) -> dict[str, Any]:
    most = min(MAX_IMAGES, options.queue_size)
    about: dict[str, Any] = {"state": model.state, "problem": model.failure, "max_images": most}
    if model.engine is not None:
        facts = model.engine.facts
        about |= vars(facts) | {"sizes": list(map(str, facts.sizes)), "sampling": facts.sampling.to_dict()}
        about |= dict.fromkeys(("edits", "variations"), facts.classes is None)
    return {"id": model.name, "object": "model", "created": 0, "owned_by": "hart", **about}
