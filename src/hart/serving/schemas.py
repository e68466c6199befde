"""The content of requests and answers: OpenAI's Images API and this model's own fields.

Fields have one definition for JSON, where types are exact, and for forms, where everything is text. Unknown keys are
accepted and ignored, since clients of other servers send them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    AfterValidator,
    AliasChoices,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    WithJsonSchema,
    create_model,
    model_validator,
)

from hart.config import MAX_SEED, SamplingConfig

MAX_IMAGES = 10
MAX_PROMPT = 4000
"""Longest prompt in characters."""
RETRY_AFTER = 5
"""Seconds after which another attempt may find room, or a restarted server."""
KINDS = {
    **{401: "authentication_error", 408: "timeout_error", 429: "rate_limit_error"},
    **{500: "server_error", 503: "server_error", 504: "timeout_error"},
}
"""Maps the status of an error to OpenAI's `type`, if it is not the request's fault."""
FOR_NOW = (429, 503, 504)
"""Statuses of temporary errors."""


class ApiError(Exception):
    """An answer that reports an error. param: the wrong field. wait: whole seconds after which it is worth another
    attempt, for statuses in `FOR_NOW`; 0 if that cannot help. `headers` are sent with the answer."""

    def __init__(
        self, status: int, message: str, *, param: str | None = None, code: str | None = None, wait: int = RETRY_AFTER
    ) -> None:
        super().__init__(message)
        self.status, self.param, self.code = status, param, code
        self.headers = {"Retry-After": str(wait)} if status in FOR_NOW and wait else {}

    def body(self) -> dict[str, Any]:
        """Return the body as OpenAI's clients read it."""
        kind = KINDS.get(self.status, "invalid_request_error")
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}


class ClientLeft(ApiError):
    """Nobody waits for the answer any more, nor reads this one; figures and log have its status."""

    def __init__(self) -> None:
        super().__init__(499, "the client has left")


def timed_out(message: str = "the time for this request is over: ask for less, or try later") -> ApiError:
    return ApiError(504, message, code="timeout")


def _text(prompt: str) -> str:
    if "\0" in prompt:
        raise ValueError("holds a null byte, which is not text")
    if prompt and not prompt.strip():
        raise ValueError("is empty: it only has spaces")
    return prompt


Prompt = Annotated[str, Field(min_length=1, max_length=MAX_PROMPT), AfterValidator(_text)]
OptionalPrompt = Annotated[str, Field(max_length=MAX_PROMPT), AfterValidator(_text)] | None


def _optional(name: str, described: dict[str, Any]) -> Any:
    """Return a field of `SamplingConfig` that may be left out. The OpenAPI document states its bounds; they are checked
    with the rest of the model's."""
    bounded = described.get("anyOf", [described])[0]
    bounds = {word: bounded[word] for word in ("type", "minimum", "exclusiveMinimum", "maximum") if word in bounded}
    kind: Any = Annotated[TYPES[bounds["type"]], WithJsonSchema(bounds)]
    if name != "diffusion_steps":
        return kind | None, Field(None, description=described["description"])
    said = f"{described['description']} `steps` is another name."
    return kind | None, Field(None, description=said, validation_alias=AliasChoices(name, "steps"))


TYPES = {"boolean": bool, "integer": int, "number": float}
SAMPLING = SamplingConfig.json_schema()["properties"]
SamplingFields = create_model("SamplingFields", **{name: _optional(name, field) for name, field in SAMPLING.items()})
"""Settings in place of the model's own, by default none. `steps` is another name for `diffusion_steps`."""


class RequestBody(SamplingFields):  # type: ignore[misc, valid-type]  # made above
    """The fields that all three requests have in common."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False, use_attribute_docstrings=True)

    model: str | None = None
    """Name of a served model, by default the first. OpenAI's names also get that one, and the answer says so."""
    n: Annotated[int, Field(ge=1, le=MAX_IMAGES)] | None = None
    """Images to generate, by default 1; image i has the seed plus i."""
    size: Annotated[str, Field(pattern=r"^(auto|[1-9][0-9]{0,4}x[1-9][0-9]{0,4})$")] | None = None
    """"WIDTHxHEIGHT" or "auto". What the model cannot generate becomes the nearest that it can; the answer says so."""
    aspect: Annotated[str, Field(pattern=r"^[1-9][0-9]{0,3}:[1-9][0-9]{0,3}$")] | None = None
    """"WIDTH:HEIGHT", in place of a size: about as large as the model's own."""
    strict: bool | None = None
    """Refuse sizes or aspects that the model does not generate, and OpenAI's names of models that are not served."""
    output_format: Literal["png", "jpeg", "webp"] | None = None
    """By default png, which records all settings and can be generated again by `hart generate --like`."""
    output_compression: Annotated[int, Field(ge=0, le=100)] | None = None
    """Quality of jpeg and webp, by default 100."""
    response_format: Literal["url", "b64_json"] | None = None
    """"url" gives a `data:` URL: images are not kept. Default: url where `model` begins with dall-e, else b64_json."""
    background: Literal["auto", "opaque"] | None = None
    """The model generates no transparency."""
    stream: bool | None = None
    """Answer with server-sent events."""
    partial_images: Annotated[int, Field(ge=0, le=64)] | None = None
    """With `stream`, how many images so far are sent, spread over the scales; by default one after every scale."""
    seed: Annotated[int, Field(ge=0, le=MAX_SEED - MAX_IMAGES)] | None = None
    """By default a new one; the answer contains the seed of every image."""
    negative_prompt: OptionalPrompt = None
    """What guidance steers away from."""

    kind: ClassVar[str]
    """Prefix of its events' names."""
    route: ClassVar[str]

    @model_validator(mode="before")
    @classmethod
    def _fits_together(cls, given: Any) -> Any:
        """Ignore unknown keys, but refuse fields of other requests, without which the result would be different."""
        if not isinstance(given, Mapping):
            return given
        present = {name for name, value in given.items() if value not in (None, "", [])}
        if {"steps", "diffusion_steps"} <= present:
            raise ApiError(400, "steps is another name for diffusion_steps: leave one of the two out")
        if {"size", "aspect"} <= present and given["size"] != "auto":
            raise ApiError(400, "aspect: replaces a size: leave one of the two out", param="aspect")
        for name, routes in FIELDS.items():
            if name in present and cls.route not in routes:
                raise ApiError(400, f"{name}: is a field of {' and '.join(routes)}: leave it out here", param=name)
        for name, other in GOES_WITH.items():
            if name in present and other not in present:
                raise ApiError(400, f"{name}: requires {other}: give that too", param=name)
        return given

    def sampling(self) -> dict[str, Any]:
        """Return settings in place of the model's own; None for those that are not given."""
        return {name: getattr(self, name) for name in SamplingFields.model_fields}


class Generation(RequestBody):
    """`POST /v1/images/generations`."""

    kind, route = "image_generation", "/v1/images/generations"
    prompt: Prompt
    """What to generate; for a class model the number of a class."""
    second_prompt: OptionalPrompt = None
    """Another prompt, mixed with the first: usually the form follows the first and the look the second."""
    switch: Annotated[int, Field(ge=0)] | None = None
    """This many first scales follow the first prompt, the others the second; by default half of them."""
    weights: list[float] | None = None
    """In place of `switch`: the second prompt's share at each scale, 0 to 1."""


class Changed(RequestBody):
    """The fields that requests with an image have in common."""

    kept_scales: Annotated[int, Field(ge=0)] | None = None
    """How many scales are taken from the image: more keep more of it. By default half of them for a variation or an
    edit with neither mask nor source prompt, else none."""
    style_strength: Annotated[float, Field(ge=0, le=10)] | None = None
    """How strongly the result takes on the colours of the file `style`, or without one those of the image itself (0:
    not at all, 1: clearly); by default 1 with such a file, 0 without. Above 0, a variation takes no scales from the
    image unless `kept_scales` says so."""


class Edit(Changed):
    """`POST /v1/images/edits`, the fields besides the image and the mask."""

    kind, route = "image_edit", "/v1/images/edits"
    prompt: OptionalPrompt = None
    """What the whole image shows afterwards; by default whatever fits."""
    source_prompt: OptionalPrompt = None
    """In place of a mask: a description of the image as it is. Where `prompt` differs, the image changes."""
    followed_scales: Annotated[int, Field(ge=0)] | None = None
    """This many first scales follow the image, by default most of them."""


class Variation(Changed):
    """`POST /v1/images/variations`, the fields besides the image."""

    kind, route = "image_variation", "/v1/images/variations"
    prompt: OptionalPrompt = None
    """What the image shows; helps the model."""


REQUESTS: tuple[type[RequestBody], ...] = (Generation, Edit, Variation)
FIELDS = {
    name: [one.route for one in REQUESTS if name in one.model_fields] for kind in REQUESTS for name in kind.model_fields
} | {"image": [Edit.route, Variation.route], "mask": [Edit.route]}
"""Maps each field of a request to the routes that have it; also files, which other servers read from JSON."""
GOES_WITH = {
    **{"switch": "second_prompt", "weights": "second_prompt"},
    **{"source_prompt": "prompt", "followed_scales": "source_prompt"},
}
"""Fields that mean nothing without another one."""
FILES = ("image", "mask", "style")
"""Files of forms. `style` is also a field of OpenAI's JSON requests."""


class TextTokens(BaseModel):
    """Part of `Usage`."""

    text_tokens: int = 0
    image_tokens: int = 0


class Usage(BaseModel):
    """Tokens of all images, over all scales; prompts are not counted."""

    input_tokens: int = 0
    input_tokens_details: TextTokens = TextTokens()
    output_tokens: int
    total_tokens: int


class ImageData(BaseModel):
    """One image. Exactly one of `b64_json` and `url` is given."""

    b64_json: str | None = None
    url: str | None = None
    seed: int


class Made(BaseModel):
    """How images were made."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    model: str
    """The model that generated them."""
    size: str
    quality: Literal["high"] = "high"
    background: Literal["opaque"] = "opaque"
    output_format: str


class ImagesAnswer(Made):
    """The answer to a request without `stream`."""

    created: int
    """Unix time in seconds."""
    data: list[ImageData]
    usage: Usage
    notes: list[str]
    """What the author of the prompt should know: a changed size, words that the model does not know."""


class ImageEvent(Made):
    """The content of a stream's event: a partial image, or a finished one with `usage` and `notes`."""

    type: str
    """image_generation, image_edit or image_variation, then .partial_image or .completed."""
    b64_json: str
    created_at: int
    """Unix time in seconds."""
    image_index: int
    """Which of the `n` images."""
    seed: int
    scale: int
    """How many of the `scales` are done."""
    scales: int
    partial_image_index: int | None = None
    """Which of this image's partial ones."""
    usage: Usage | None = None
    notes: list[str] | None = None


class ErrorBody(BaseModel):
    """Part of `ErrorAnswer`."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorAnswer(BaseModel):
    """The form of every error."""

    error: ErrorBody


def explained(error: ValidationError) -> ApiError:
    """Return the first thing that pydantic found wrong, in one sentence without the value."""
    entry = error.errors(include_url=False, include_input=False, include_context=True)[0]
    param = ".".join(map(str, entry["loc"])) or None
    said = re.sub("^(Value error,|Input|String) ", "", entry["msg"])
    if entry["type"] == "missing":
        said = "is required"
    elif entry["type"] == "string_pattern_mismatch":
        said = "must be like 512x512, or auto" if param == "size" else "must be like 16:9"
    elif entry["type"] == "json_invalid":
        said = f"is not valid JSON: {entry['ctx']['error']}"
    message = f"{param}: {said}" if param else f"the body {said}"
    return ApiError(400, message.replace("should", "must", 1), param=param)
