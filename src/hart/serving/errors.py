"""What went wrong, as clients of OpenAI's API read it: the right status, and one sentence."""

from __future__ import annotations

import logging

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse

from hart.errors import HartError
from hart.generation.signing import SigningFailed
from hart.serving.engine import OutOfMemory
from hart.serving.models import ModelUnavailable
from hart.serving.schemas import FIELDS, ApiError
from hart.serving.streaming import ClientLeft
from hart.serving.worker import where

log = logging.getLogger(__name__)

HTTP_ERRORS = {404: "there is nothing at this address", 405: "this address does not take that method"}
CLIENT_LEFT = 499
"""Nobody reads that answer; figures and log have the status."""


def api_error(error: BaseException) -> ApiError:
    """The answer to whatever was raised. What is a fault of ours is logged, without anything that a client sent."""
    match error:
        case ApiError():
            return error
        case HTTPException():
            said = HTTP_ERRORS.get(error.status_code, str(error.detail))
            answer = ApiError(error.status_code, said)
            answer.headers |= error.headers or {}
            return answer
        case ModelUnavailable():
            return ApiError(503, str(error), code="model_unavailable")
        case OutOfMemory():
            return ApiError(503, str(error), code="out_of_memory")
        case SigningFailed():
            log.error("%s", error)
            return ApiError(503, str(error), code="signing_failed", wait=0)
        case HartError():
            said = " ".join(str(error).split())
            first = said.partition(" ")[0].rstrip(":")  # messages begin with the field that is wrong
            return ApiError(400, said, param=first if first in FIELDS else None)
        case ClientLeft() | ClientDisconnect():
            return ApiError(CLIENT_LEFT, "the client has left")
    from hart.devices import is_out_of_memory  # imports PyTorch

    if is_out_of_memory(error):
        return api_error(OutOfMemory("there is too little memory for this request: ask for less, or later"))
    log.error("an error of the program: %s\n%s", type(error).__name__, where(error))
    return ApiError(500, "an error of the program; the server's log has the place")


def error_response(error: BaseException) -> JSONResponse:
    found = api_error(error)
    return JSONResponse(found.body(), found.status, found.headers)
