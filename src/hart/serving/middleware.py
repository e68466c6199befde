"""The layer around all routes."""

from __future__ import annotations

import logging
import secrets
import time
from contextlib import ExitStack

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hart.serving.access import Access, Room
from hart.serving.errors import error_response
from hart.serving.metrics import Metrics

log = logging.getLogger(__name__)

HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (
        b"content-security-policy",
        b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
        b"manifest-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
)
"""Headers of every answer."""
NEW_SEEDS = 2**32


class RequestMiddleware:
    """Wraps all routes: access, headers of every answer, errors, figures and the log."""

    def __init__(self, app: ASGIApp, access: Access, metrics: Metrics, most_posts: int, log_requests: bool) -> None:
        """most_posts: how many are answered at once; more are refused."""
        self._app, self._access, self._metrics, self._log_requests = app, access, metrics, log_requests
        self._posts = Room(most_posts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status, began = 0, time.perf_counter()
        # a slash at the end is ignored: a redirect would name an address without the part that a proxy strips
        scope = {**scope, "path": scope["path"].rstrip("/") or "/"}
        if scope["method"] == "HEAD":  # GET without the body, which servers omit; some probes use it
            scope["method"] = "GET"

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status, given = message["status"], message.get("headers", ())
                own = [header for header in HEADERS if header[0] not in dict(given)]
                message = {**message, "headers": [*given, *own]}
            await send(message)

        try:
            state = scope.setdefault("state", {})
            if "client" not in state:  # otherwise a front has checked the client
                state["client"] = self._access.client(scope)
            state.setdefault("seed", secrets.randbelow(NEW_SEEDS))  # for a request that gives none
            with ExitStack() as open_request:
                if scope["method"] == "POST":  # with a body
                    open_request.enter_context(self._posts.taken(1))
                    open_request.enter_context(self._metrics.posts.track_inprogress())
                await self._app(scope, receive, noting)
        except Exception as error:
            answer = error_response(error)
            if status == 0:
                await answer(scope, receive, noting)
        # nothing that a client wrote, so neither unknown paths nor arbitrarily many of them
        path = getattr(scope.get("route"), "path", None) or ("page" if status < 400 else "other")
        self._metrics.answers.labels(path, str(status)).inc()
        self._metrics.answer.labels(path).observe(time.perf_counter() - began)
        if self._log_requests:
            address = scope["client"][0] if scope.get("client") else "?"
            log.info("%s %s %d", address, path, status)  # nor the method, which may be any word
