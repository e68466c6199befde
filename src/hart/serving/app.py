"""The web application: its routes, and what stands around them."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

from fastapi import APIRouter, FastAPI, Request, Security
from fastapi.security import HTTPBearer
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.responses import FileResponse, JSONResponse, Response

from hart.serving.bodies import Form, decoded, from_form, redrawn, see_through
from hart.serving.engine import Source
from hart.serving.errors import error_response
from hart.serving.middleware import RequestMiddleware
from hart.serving.models import Models, OpenModel, ServedModel
from hart.serving.openapi import EDIT_FORM, FIGURES, HEALTH, IMAGES, JSON_BODY, NO_MODEL, STATUS, VARIATION_FORM
from hart.serving.options import ServeOptions
from hart.serving.schemas import FILES, MAX_IMAGES, ApiError, Edit, Generation, Variation
from hart.serving.server import Server

PAGE = Path(__file__).with_name("page")


def create_app(options: ServeOptions, models: Mapping[str, OpenModel]) -> FastAPI:
    """The application of these models, the first the default, in place of those that the options name. The default one
    is opened when it starts, in the background; what was accepted is finished before it stops. `app.state.server` is
    its `Server`. Raises `HartError` for options that do not fit together."""
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
        telemetry={"tracing": False, "metrics": False, "logs": False},  # nobody asked for it
    )
    app.state.server = server
    # says in the OpenAPI document what `Access` asks for
    key = [Security(HTTPBearer(auto_error=False))] if server.access.keys else []
    with_key = APIRouter(dependencies=key)
    _add_images(with_key, server)
    _add_facts(with_key, server)
    app.include_router(with_key)
    _add_health(app, server)
    add_page(app)
    app.add_exception_handler(HTTPException, answer_error)
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
            if not form.files.get("image", [b""])[0]:
                raise ApiError(400, "image: is required, as a file", param="image")
            return await server.answer(request, asked, partial(_source, form, asked))

    @app.post(Generation.route, responses=IMAGES, openapi_extra=JSON_BODY)
    async def generations(request: Request) -> Response:
        """Generate images of a prompt."""
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
        """The served models, the default first; of opened ones what they generate."""
        return {"object": "list", "data": [_described(model, server.options) for model in server.models.all]}

    @app.get("/v1/models/{name:path}", responses=NO_MODEL)
    async def one_model(name: str) -> dict[str, Any]:
        """One of them."""
        return _described(server.models.named(name), server.options)

    @app.get("/metrics", response_class=Response, responses=FIGURES)
    async def metrics() -> Response:
        """Figures for Prometheus."""
        return Response(server.metrics.text(), media_type="text/plain; version=0.0.4")


def _add_health(app: FastAPI, server: Server) -> None:
    @app.get("/healthz", responses=HEALTH)
    async def healthz() -> JSONResponse:
        """Whether the process works: 200, or 503 when it should be started again, also while the default model that
        could not be opened is being tried again."""
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
    """Why a server has to be started again, as a sentence; None if it need not be."""
    if not server.sampling.is_alive():
        return "sampling has failed: start the server again"
    return server.models.default.failure


def add_page(app: Starlette) -> None:
    """The files of the page, each at its name; `index.html` also at the root."""
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
        about |= {"edits": facts.edits, "variations": facts.edits}
    return {"id": model.name, "object": "model", "created": 0, "owned_by": "hart", **about}


def _source(form: Form, asked: Edit | Variation) -> Source:
    """The images to start from. An edit redraws by the form's mask, or by the image's own transparency unless words say
    what changes."""
    from hart.data.images import as_rgb
    from hart.generation.metadata import EditSource

    files = {name: form.files[name][0] for name in FILES if name in form.files}
    images = {name: decoded(content, name) for name, content in files.items()}
    image, holes = as_rgb(images["image"]), see_through(images["image"])
    if holes is not None:  # what an edit shall not show as white
        image.putalpha(holes.point(lambda value: 255 - value))
    mask = redrawn(images["mask"], image.size) if "mask" in images else None
    if mask is None and isinstance(asked, Edit) and not asked.source_prompt:
        mask = holes
    style = as_rgb(images["style"]) if "style" in images else None
    digests = {f"{name}_sha256": hashlib.sha256(content).hexdigest() for name, content in files.items()}
    return Source(image, mask, style, EditSource.from_dict({name: name for name in files} | digests))


async def answer_error(_: Request, error: Exception) -> Response:
    return error_response(error)
