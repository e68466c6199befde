"""Errors as clients of OpenAI's API read them: the right status, and one sentence."""

from __future__ import annotations

import logging
import traceback

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse

from hart.errors import HartError
from hart.generation.signing import SigningFailed
from hart.serving.schemas import FIELDS, ApiError, ClientLeft

log = logging.getLogger(__name__)

HTTP_ERRORS = {
    404: "there is nothing at this address: the API is below /v1",
    405: "this address does not take that method",
}


def api_error(error: BaseException) -> ApiError:
    """Return the answer to any exception. The program's own faults are logged, without anything that a client sent."""
    match error:
        case ApiError():
            return error
        case HTTPException():
            answer = ApiError(error.status_code, HTTP_ERRORS.get(error.status_code, str(error.detail)))
            answer.headers |= error.headers or {}
            return answer
        case SigningFailed():
            log.error("%s", error)
            return ApiError(503, str(error), code="signing_failed", wait=0)
        case HartError():
            first = str(error).partition(" ")[0].rstrip(":")  # messages begin with the wrong field
            return ApiError(400, str(error), param=first if first in FIELDS else None)
        case ClientDisconnect():
            return ClientLeft()
    from hart.devices import is_out_of_memory  # imports PyTorch

    if is_out_of_memory(error):
        said = "there is too little memory for this request: ask for less, or try later"
        return ApiError(503, said, code="out_of_memory")
    log.error("an internal error: %s", where(error))
    return ApiError(500, "an internal error; see the server's log")


def error_response(error: BaseException) -> JSONResponse:
    found = api_error(error)
    return JSONResponse(found.body(), found.status, found.headers)


def where(error: BaseException) -> str:
    """Return an error's type and the lines of code that it came through, without its message, which may contain what a
    client sent."""
    return f"{type(error).__name__}\n{''.join(traceback.format_tb(error.__traceback__))}"
