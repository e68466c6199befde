"""Bodies and uploads, read in bounded memory and time; nothing of them is written to disk.

Anything wrong with them is an `ApiError`.
"""

from __future__ import annotations

import hashlib
from codecs import BOM_UTF8
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from pydantic import ValidationError
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from hart.errors import HartError
from hart.serving.access import Room
from hart.serving.engine import Source
from hart.serving.schemas import FILES, ApiError, Edit, RequestBody, Variation, explained
from hart.serving.streaming import in_time
from hart.strict import clipped

if TYPE_CHECKING:
    from PIL import Image

JSON_BYTES = 2**18
UPLOAD_BYTES = 20 * 2**20
"""Largest form, all files together."""
BODY_SECONDS = 60.0
MAX_FILES = 17
"""OpenAI's limit: 16 images and a mask."""
MAX_PIXELS = 2**24
"""Most pixels of an uploaded image."""
HELD_BYTES = 2**29
"""Most bytes of bodies that are being read or whose requests are unanswered; more are refused."""

AnyRequest = TypeVar("AnyRequest", bound=RequestBody)
Content = TypeVar("Content")
Chunks = AsyncGenerator[bytes, None]


@dataclass(frozen=True)
class Form:
    """A multipart form: the last text and the first file of every name."""

    fields: Mapping[str, str]
    files: Mapping[str, bytes]


class _InMemory(MultiPartParser):
    """Keeps files in memory, whatever their size, since the body's size is limited. Text is read as Latin-1, which
    keeps
    every byte: see `_parsed`."""

    spool_max_size = 2 * UPLOAD_BYTES
    is_whole = False

    def on_part_begin(self) -> None:
        self._charset = "latin-1"  # not what the client names: some of Python's codecs take long or raise
        super().on_part_begin()

    def on_end(self) -> None:
        self.is_whole = True


class Bodies:
    """Reads the bodies of one server."""

    def __init__(self) -> None:
        self.room = Room(HELD_BYTES)

    async def json(self, request: Request, kind: type[AnyRequest]) -> AnyRequest:
        if _content_type(request) != "application/json":
            raise ApiError(415, "send the request as JSON: Content-Type application/json")
        async with self.whole(request) as content:
            try:
                return kind.model_validate_json(content.removeprefix(BOM_UTF8), strict=True)
            except ValidationError as error:
                raise explained(error) from None

    def form(self, request: Request) -> AbstractAsyncContextManager[Form]:
        """Read a form, which counts as held until the context ends."""
        if _content_type(request) != "multipart/form-data":
            raise ApiError(415, "send the request as a form: Content-Type multipart/form-data")
        return self._read(request, UPLOAD_BYTES, partial(_parsed, request))

    def whole(self, request: Request) -> AbstractAsyncContextManager[bytes]:
        """Read a body of either kind unchanged, which counts as held until the context ends."""
        limit = UPLOAD_BYTES if _content_type(request) == "multipart/form-data" else JSON_BYTES
        return self._read(request, limit, _joined)

    @asynccontextmanager
    async def _read(
        self, request: Request, limit: int, read: Callable[[Chunks], Awaitable[Content]]
    ) -> AsyncIterator[Content]:
        """Return what `read` makes of a body of at most `limit` bytes. What has arrived counts, not what was announced,
        so that slow senders keep nobody out."""
        held, too_large = 0, ApiError(413, f"the request is too large: at most {limit // 1024} KiB are read")
        late = ApiError(408, "the body of the request did not arrive in time")
        late.headers["Connection"] = "close"  # otherwise the rest may still come, as slowly as the client likes

        async def chunks() -> Chunks:
            nonlocal held
            announced = request.headers.get("content-length", "0")
            if announced.isdecimal() and int(announced) > limit:  # before the client is told to send it
                raise too_large
            async for chunk in request.stream():
                if held + len(chunk) > limit:
                    raise too_large
                self.room.take(len(chunk))
                held += len(chunk)
                yield chunk

        try:
            async with in_time(BODY_SECONDS, late):
                content = await read(chunks())
            yield content
        finally:
            self.room.left += held


async def _joined(chunks: Chunks) -> bytes:
    return b"".join([chunk async for chunk in chunks])


async def _parsed(request: Request, chunks: Chunks) -> Form:
    parser = _InMemory(request.headers, chunks, max_files=MAX_FILES)
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise ApiError(400, f"the form cannot be read: {error.message}") from None
    fields: dict[str, str] = {}
    files: dict[str, bytes] = {}
    for name, value in form.multi_items():
        if isinstance(value, str):
            fields[name] = value
        elif (content := await value.read()) or value.filename:  # browsers send an empty one if no file was chosen
            files.setdefault(name.removesuffix("[]"), content)
    await form.close()
    if not parser.is_whole:  # a truncated part was left out
        raise ApiError(400, "the form cannot be read: its last boundary is missing")
    for name, read in fields.items():
        try:
            fields[name] = read.encode("latin-1").decode()
        except UnicodeDecodeError:
            raise ApiError(400, clipped(f"{name}: is not UTF-8: send text as UTF-8"), param=name) from None
    return Form(fields, files)


def from_form(form: Form, kind: type[AnyRequest]) -> AnyRequest:
    """Return the fields of a form as a request; empty ones count as not given. A text sent as a file, a file sent as
    text,
    or a file that the request does not have, is refused: ignoring it would generate something else."""
    if sent := next((name for name in kind.model_fields if name in form.files), None):
        raise ApiError(400, f"{sent}: is a file: send it as text", param=sent)
    if sent := next((name for name in FILES if form.fields.get(name)), None):
        raise ApiError(400, f"{sent}: is text: send it as a file", param=sent)
    if not form.files.get("image"):
        raise ApiError(400, "image: is required, as a file", param="image")
    given = {name: value for name, value in form.fields.items() if value != ""}
    try:
        return kind.model_validate(dict.fromkeys(form.files, "a file") | given)  # files of another request are rejected
    except ValidationError as error:
        raise explained(error) from None


def decoded(content: bytes, param: str) -> Image.Image:
    """Decode an uploaded PNG, JPEG or WebP, upright; it is not decoded unless its size is within bounds."""
    from hart.data.images import decode_image, upright

    try:
        return upright(decode_image(content, max_pixels=MAX_PIXELS, formats=("PNG", "JPEG", "WEBP")))
    except HartError as error:
        raise ApiError(400, f"{param}: {error}", param=param) from None


def source(form: Form, asked: Edit | Variation) -> Source:
    """Return the images to start from. An edit redraws by the form's mask, or by the image's own holes unless words say
    what changes."""
    from hart.data.images import as_rgb
    from hart.generation.metadata import EditSource

    files = {name: form.files[name] for name in FILES if name in form.files}
    images = {name: decoded(content, name) for name, content in files.items()}
    image, redrawn = as_rgb(images["image"]), _holes(images["image"])
    if redrawn is not None:  # so that an edit does not show it as white
        image.putalpha(redrawn.point(lambda value: 255 - value))
    if (mask := images.get("mask")) is not None:
        if mask.size != image.size:
            raise HartError(
                f"mask: has {mask.width} x {mask.height} px, the image {image.width} x {image.height}: make them equal"
            )
        if (redrawn := _holes(mask)) is None:
            raise HartError("mask: has no pixels with alpha 0: the part to redraw must have it")
    elif isinstance(asked, Variation) or asked.source_prompt:
        redrawn = None
    digests = {f"{name}_sha256": hashlib.sha256(content).hexdigest() for name, content in files.items()}
    return Source(image, redrawn, images.get("style"), EditSource.from_dict({name: name for name in files} | digests))


def _holes(image: Image.Image) -> Image.Image | None:
    """Return where an image has alpha 0, which OpenAI's API redraws: mode L, 255 there; None: nowhere."""
    from hart.data.images import opacity

    alpha = opacity(image)
    holes = None if alpha is None else alpha.point(lambda value: 255 if value == 0 else 0)
    return holes if holes is not None and holes.getbbox() else None


def _content_type(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()
