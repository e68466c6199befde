"""What the OpenAPI document says beyond the routes' own declarations: hand-parsed bodies, errors, streams."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from hart.serving.schemas import Edit, ErrorAnswer, Generation, ImageEvent, ImagesAnswer, Variation

DESCRIPTIONS = {
    400: "Something in the request is wrong; `param` names it. Also a refused prompt: `code` content_policy_violation",
    401: "An API key is needed",
    403: "A page of another host, or another name of this host",
    404: "No model with this name: `code` model_not_found",
    408: "The body did not arrive in time",
    413: "The body is too large",
    415: "A different content type is needed",
    429: "Too many requests, or too many images per minute: `Retry-After` says when to try again",
    500: "An internal error",
    501: "The model does not offer this",
    503: "Too many requests, the model cannot be used, an image cannot be signed, or the server is stopping: "
    "`Retry-After` says when another try may help",
    504: "The request timed out: `Retry-After` says when to try again",
}
# its references are in the document through `ImagesAnswer`
IMAGE_EVENT = ImageEvent.model_json_schema(ref_template="#/components/schemas/{model}")
EVENT: dict[str, Any] = {
    "type": "object",
    "properties": {
        "event": {"type": "string"},
        "data": {
            "type": "string",
            "contentMediaType": "application/json",
            "contentSchema": {k: v for k, v in IMAGE_EVENT.items() if k != "$defs"},
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
STATUS: dict[int | str, dict[str, Any]] = {
    "default": {"model": ErrorAnswer, "description": "No API key, or another host"}
}
"""Responses of the routes that report on the server."""
NO_MODEL = STATUS | {404: {"model": ErrorAnswer, "description": "No model with this name"}}
HEALTH = STATUS | {503: {"description": "Not so: `message` says why"}}
FIGURES = STATUS | {200: {"content": {"text/plain": {"schema": {"type": "string"}}}, "description": "The figures"}}


def _form(kind: type[BaseModel], **files: dict[str, Any]) -> dict[str, Any]:
    """Describe a form with the fields of `kind`, which are all optional, and files, of which `image` is required. A
    form
    has no null: fields that are not given are left out."""
    fields = {}
    for name, field in kind.model_json_schema()["properties"].items():
        (given,) = [one for one in field["anyOf"] if one != {"type": "null"}]
        fields[name] = given | {said: field[said] for said in ("title", "description")}
    return _body("multipart/form-data", {"type": "object", "properties": files | fields, "required": ["image"]})


def _body(content_type: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"requestBody": {"required": True, "content": {content_type: {"schema": schema}}}}


def _image(description: str) -> dict[str, Any]:
    return {"type": "string", "format": "binary", "description": description}


STYLE = _image("Another image, whose colours are used: PNG, JPEG or WebP")
JSON_BODY = _body("application/json", Generation.model_json_schema())
EDIT_FORM = _form(
    Edit,
    image=_image("The image to edit: PNG, JPEG or WebP. `image[]` is another name; the first is used"),
    mask=_image("PNG of its size; what is transparent is redrawn. By default the transparency of the image"),
    style=STYLE,
)
VARIATION_FORM = _form(Variation, image=_image("The image to vary: PNG, JPEG or WebP"), style=STYLE)
