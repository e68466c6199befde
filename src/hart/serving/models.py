"""The models of a server by name, each opened in its own thread when it is first needed."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from hart.errors import HartError
from hart.serving.errors import where
from hart.serving.schemas import ApiError
from hart.strict import clipped

if TYPE_CHECKING:
    from hart.serving.pipeline_engine import PipelineEngine

log = logging.getLogger(__name__)

State = Literal["closed", "opening", "ready", "failed"]
OpenModel = Callable[[], "PipelineEngine"]
OPENAI_MODELS = ("dall-e", "gpt-image", "chatgpt-image")
"""Prefixes of the names that clients of OpenAI's API send by default."""
ORDERS_AT_ONCE = 8
"""Requests without an image whose prompts are read and checked at the same time."""
LAYOUTS_AT_ONCE = 2
"""Requests whose images are decoded at the same time, which takes some 400 MB at the largest size."""
_beginning = threading.Lock()


def order_threads(*, with_image: bool) -> Executor:
    """Return threads in which requests become orders, which may compute. Started once, before any model is open: see
    `hart.inference.threads.single_threads`, which also raises."""
    from hart.inference.threads import single_threads  # PyTorch, which takes a while

    with _beginning:
        given = (LAYOUTS_AT_ONCE, "hart-layout") if with_image else (ORDERS_AT_ONCE, "hart-order")
        return single_threads(*given)


class ModelUnavailable(ApiError):
    """A model that could not be opened; the log says why."""

    def __init__(self, message: str) -> None:
        super().__init__(503, message, code="model_unavailable")


@dataclass(eq=False)
class ServedModel:
    """One model, used by the event loop and by the thread that opens it."""

    name: str
    open: OpenModel
    failure: str | None = field(default=None, init=False)
    """Why the last finished attempt to open it failed, as a sentence for clients; None if it did not. It stays during
    the next attempt, which may fail as well."""
    _opened: Future[PipelineEngine] | None = field(default=None, init=False)
    """The last attempt to open it."""

    @property
    def state(self) -> State:
        if self._opened is None:
            return "closed"
        if not self._opened.done():
            return "opening"
        return "ready" if self._opened.exception() is None else "failed"

    @property
    def message(self) -> str:
        """Return its state as a sentence for clients."""
        said = {"closed": "is opened when it is requested", "opening": "is being opened", "ready": "is ready"}
        return self.failure or f"the model {self.name} {said[self.state]}"

    @property
    def engine(self) -> PipelineEngine | None:
        return self._opened.result() if self._opened is not None and self.state == "ready" else None

    def begin(self) -> Future[PipelineEngine]:
        """Start to open it, unless it is open or being opened. A failed attempt is repeated: a download, memory or a
        file may be there now."""
        if self._opened is None or self.state == "failed":
            self._opened = Future()
            threading.Thread(target=self._open, args=[self._opened], name=f"hart-open-{self.name}", daemon=True).start()
        return self._opened

    async def ready(self) -> PipelineEngine:
        """Return the engine, opened if need be. Raises `ModelUnavailable`."""
        return await asyncio.shield(asyncio.wrap_future(self.begin()))

    def _open(self, opened: Future[PipelineEngine]) -> None:
        began = time.monotonic()
        try:
            for with_image in (False, True):  # starting threads changes PyTorch's number of threads for a moment
                order_threads(with_image=with_image)
            engine = self.open()
        except BaseException as error:
            reason = str(error) if isinstance(error, HartError) else f"an internal error: {where(error)}"
            log.error("model %s: %s", self.name, reason)
            # the reason may name paths of this machine, which are nobody else's business
            self.failure = f"the model {self.name} cannot be opened; the server's log says why"
            unavailable = ModelUnavailable(self.failure)
            unavailable.__cause__ = error
            opened.set_exception(unavailable)
        else:
            log.info("model %s: opened in %.1f s", self.name, time.monotonic() - began)
            self.failure = None
            opened.set_result(engine)


class Models:
    """The served models; the first is the default."""

    def __init__(self, models: Mapping[str, OpenModel]) -> None:
        self._by_name = {name: ServedModel(name, opener) for name, opener in models.items()}
        self.all = list(self._by_name.values())
        self.default = self.all[0]

    def named(self, name: str) -> ServedModel:
        """Return a served model. Raises `ApiError` for any other."""
        if name in self._by_name:
            return self._by_name[name]
        said = f"there is no model {clipped(name)}: GET /v1/models lists them"
        raise ApiError(404, said, param="model", code="model_not_found")

    def asked(self, name: str | None, *, strict: bool) -> ServedModel:
        """Return the model for a request that names `name`: the default if it names none, and, unless `strict`, for
        OpenAI's names. Raises `ApiError`."""
        if not name or (name.startswith(OPENAI_MODELS) and name not in self._by_name and not strict):
            return self.default
        return self.named(name)
