"""What the OpenAPI document says beyond the routes' own declarations: bodies that are read by hand, errors, streams."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from hart.serving.schemas import Edit, ErrorAnswer, Generation, ImageEvent, ImagesAnswer, Variation

DESCRIPTIONS = {
    400: "Something in the request is wrong; `param` names it. Also a refused prompt: `code` content_policy_violation",
    401: "An API key is needed",
    403: "A page of another host, or another name of this one",
    404: "No model of this name: `code` model_not_found",
    408: "The body did not arrive in time",
    413: "The body is too large",
    415: "Another content type is needed",
    429: "Too many requests, or too many images a minute: `Retry-After` says when to try again",
    500: "An error of the program",
    501: "The model does not offer this",
    503: "Too much waits, the model cannot be used, an image cannot be signed, or the server is stopping: "
    "`Retry-After` says when another try may help",
    504: "The time for the request is over: `Retry-After` says when to try again",
}
EVENT = {
    "type": "object",
    "properties": {
        "event": {"type": "string"},
        "data": {
            "type": "string",
            "contentMediaType": "application/json",
            "contentSchema": ImageEvent.model_json_schema(),
        },
    },
}
IMAGES: dict[int | str, dict[str, Any]] = {
    200: {
        "model": ImagesAnswer,
        "description": "The images, or with `stream` events about them",
        "content": {"text/event-stream": {"itemSchema": EVENT}},
    },
    **{status: {"model": ErrorAnswer, "description": said} for status, said in DESCRIPTIONS.items()},
}
"""Responses of the three routes that generate."""
NO_MODEL: dict[int | str, dict[str, Any]] = {404: {"model": ErrorAnswer, "description": "No model of this name"}}


def _body(kind: type[BaseModel], content_type: str, **files: dict[str, Any]) -> dict[str, Any]:
    """A body of the fields of `kind` and of files, of which `image` is required."""
    schema = kind.model_json_schema()
    schema["properties"] = files | schema["properties"]
    schema["required"] = [*(name for name in files if name == "image"), *schema.get("required", ())]
    return {"requestBody": {"required": True, "content": {content_type: {"schema": schema}}}}


def _image(description: str) -> dict[str, Any]:
    return {"type": "string", "format": "binary", "description": description}


STYLE = _image("Another image, whose colours are taken: PNG, JPEG or WebP")
JSON_BODY = _body(Generation, "application/json")
EDIT_FORM = _body(
    Edit,
    "multipart/form-data",
    image=_image("The image to edit: PNG, JPEG or WebP. `image[]` is another name; the first is taken"),
    mask=_image("PNG of its size; what is redrawn has alpha 0. By default the alpha of the image"),
    style=STYLE,
)
VARIATION_FORM = _body(
    Variation, "multipart/form-data", image=_image("The image to vary: PNG, JPEG or WebP"), style=STYLE
)
