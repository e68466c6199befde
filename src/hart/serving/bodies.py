"""Bodies and uploads, read in bounded memory and time; nothing of them reaches the disk.

What is wrong with them is an `ApiError`.
"""

from __future__ import annotations

from codecs import BOM_UTF8
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from pydantic import ValidationError
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from hart.errors import HartError
from hart.serving.access import Room
from hart.serving.schemas import ApiError, RequestBody, explained
from hart.serving.streaming import in_time
from hart.strict import clipped

if TYPE_CHECKING:
    from PIL import Image

JSON_BYTES = 2**18
UPLOAD_BYTES = 20 * 2**20
"""Largest form, all files together."""
BODY_SECONDS = 60.0
LATE = "the body of the request did not arrive in time"
MAX_FIELDS = 64
MAX_FILES = 17
"""OpenAI's: 16 images and a mask."""
MAX_PIXELS = 2**24
"""Of an uploaded image."""
HELD_BYTES = 2**29
"""Of all bodies that are being read or whose requests are not answered yet; what exceeds them is refused."""

AnyRequest = TypeVar("AnyRequest", bound=RequestBody)
Content = TypeVar("Content")
Chunks = AsyncGenerator[bytes, None]


@dataclass(frozen=True)
class Form:
    """A multipart form: the last text of every name, and its files in their order."""

    fields: Mapping[str, str]
    files: Mapping[str, list[bytes]]


class _InMemory(MultiPartParser):
    """Keeps files in memory, whatever their size; the body's bound is theirs. Text has to be UTF-8, and a form whole:
    its base reads other text as Latin-1, and drops a part that breaks off, so that something else than what was sent
    would be generated."""

    spool_max_size = 2 * UPLOAD_BYTES

    def __init__(self, request: Request, chunks: Chunks) -> None:
        self._has_ended = False
        stream = self._whole(chunks)
        super().__init__(request.headers, stream, max_files=MAX_FILES, max_fields=MAX_FIELDS, max_part_size=2**16)

    def on_part_begin(self) -> None:
        self._charset = "utf-8"  # not what the client names: forms have none, and some of Python's take long or raise
        super().on_part_begin()

    def on_part_end(self) -> None:
        part = self._current_part
        if part.file is None:
            try:
                part.data.decode()
            except UnicodeDecodeError:
                name = part.field_name
                raise ApiError(400, clipped(f"{name}: is not UTF-8: send text as UTF-8"), param=name) from None
        super().on_part_end()

    def on_end(self) -> None:
        self._has_ended = True

    async def _whole(self, chunks: Chunks) -> Chunks:
        async for chunk in chunks:
            yield chunk
        if not self._has_ended:
            raise MultiPartException("its last boundary is missing")


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
        """A form, which counts as held until the context ends."""
        if _content_type(request) != "multipart/form-data":
            raise ApiError(415, "send the request as a form: Content-Type multipart/form-data")
        return self._read(request, UPLOAD_BYTES, partial(_parsed, request))

    def whole(self, request: Request) -> AbstractAsyncContextManager[bytes]:
        """A body of either kind as it came, which counts as held until the context ends."""
        limit = UPLOAD_BYTES if _content_type(request) == "multipart/form-data" else JSON_BYTES
        return self._read(request, limit, _joined)

    @asynccontextmanager
    async def _read(
        self, request: Request, limit: int, read: Callable[[Chunks], Awaitable[Content]]
    ) -> AsyncIterator[Content]:
        """What `read` makes of a body of at most so many bytes. What has come counts, not what was announced: who sends
        slowly keeps nobody out."""
        held, too_large = 0, ApiError(413, f"the request is too large: at most {limit // 1024} KiB are read")

        async def chunks() -> Chunks:
            nonlocal held
            announced = request.headers.get("content-length", "0")
            if announced.isdecimal() and int(announced) > limit:
                raise too_large
            async for chunk in request.stream():
                if held + len(chunk) > limit:
                    raise too_large
                self.room.take(len(chunk))
                held += len(chunk)
                yield chunk

        try:
            async with in_time(BODY_SECONDS, ApiError(408, LATE)):
                content = await read(chunks())
            yield content
        finally:
            self.room.left += held


async def _joined(chunks: Chunks) -> bytes:
    return b"".join([chunk async for chunk in chunks])


async def _parsed(request: Request, chunks: Chunks) -> Form:
    try:
        form = await _InMemory(request, chunks).parse()
    except MultiPartException as error:
        raise ApiError(400, f"the form cannot be read: {error.message}") from None
    fields: dict[str, str] = {}
    files: dict[str, list[bytes]] = {}
    for name, value in form.multi_items():
        if isinstance(value, UploadFile):
            content = await value.read()
            if content or value.filename:  # a browser sends neither where no file was chosen
                files.setdefault(name.removesuffix("[]"), []).append(content)
        else:
            fields[name] = value
    await form.close()
    return Form(fields, files)


def from_form(form: Form, kind: type[AnyRequest]) -> AnyRequest:
    """The fields of a form as a request; empty ones count as not given. A text that came as a file, a mask or a style
    that came as text, or one for a request without, is refused: without it something else would be generated."""
    if sent := next((name for name in kind.model_fields if name in form.files), None):
        raise ApiError(400, f"{sent}: is a file: send it as text", param=sent)
    if sent := next((name for name in ("mask", "style") if form.fields.get(name)), None):
        raise ApiError(400, f"{sent}: is text: send it as a file", param=sent)
    given = {name: value for name, value in form.fields.items() if value != ""}
    try:
        return kind.model_validate(dict.fromkeys(form.files, "a file") | given)  # which may be of another request
    except ValidationError as error:
        raise explained(error) from None


def decoded(content: bytes, param: str) -> Image.Image:
    """An uploaded PNG, JPEG or WebP, upright, not decoded unless its size is within bounds."""
    from hart.data.images import decode_image, upright

    try:
        return upright(decode_image(content, max_pixels=MAX_PIXELS, formats=("PNG", "JPEG", "WEBP")))
    except HartError as error:
        raise ApiError(400, f"{param}: {error}", param=param) from None


def redrawn(mask: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Where a mask says that an image of this size is redrawn, by alpha 0: mode L, 255 there and 0 elsewhere. Raises
    `HartError`."""
    if mask.size != size:
        raise HartError(f"mask: is {mask.width} x {mask.height}, the image {size[0]} x {size[1]}: give the same")
    if (holes := see_through(mask)) is None:
        raise HartError("mask: has alpha 0 nowhere: what is redrawn must have it")
    return holes


def see_through(image: Image.Image) -> Image.Image | None:
    """Where an image has alpha 0: mode L, 255 there and 0 elsewhere; None if it has it nowhere."""
    from hart.data.images import opacity

    if (alpha := opacity(image)) is None:
        return None
    holes = alpha.point(lambda value: 255 if value == 0 else 0)
    return holes if holes.getbbox() else None


def _content_type(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()
