"""Who may request what, how often and how much at once: API keys, host names, pages of other sites, rate limits."""

from __future__ import annotations

import hmac
import math
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import IPv6Address
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import Scope

from hart.serving.schemas import ApiError

USUAL_PORTS = {"http": ":80", "https": ":443"}


@dataclass(frozen=True)
class Access:
    """keys: one of them is needed below /v1 and for /metrics, if there are any. hosts: names that requests may be
    addressed to, so that a page elsewhere cannot reach a server on this machine under its own name; None: any."""

    keys: Sequence[str] = ()
    hosts: Collection[str] | None = None

    def client(self, scope: Scope) -> str:
        """Return who asks: the number of the key, or the address (`_household`). Raises `ApiError` if not allowed."""
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if self.hosts is not None and _hostname(host) not in self.hosts:
            raise ApiError(403, "this server is not known by that name: see hart serve --help, --public", code="host")
        origin = headers.get("origin")
        # a server that requires a key cannot be used by a page that has none
        foreign = origin is not None and not _is_same_place(origin, host)
        if foreign and scope["method"] != "GET" and not self.keys:
            raise ApiError(403, "pages of other hosts may not use this server", code="origin")
        address = scope["client"][0] if scope.get("client") else "unknown"
        path = scope["path"]
        if not self.keys or not (path.startswith("/v1/") or path in ("/v1", "/metrics")):
            return _household(address)
        kind, _, given = headers.get("authorization", "").partition(" ")
        given = given.strip() if kind.lower() == "bearer" else headers.get("api-key", "")
        matching = [i for i, key in enumerate(self.keys) if hmac.compare_digest(key.encode(), given.encode())]
        if not matching:
            refused = ApiError(401, "give a valid API key: Authorization: Bearer KEY", code="invalid_api_key")
            refused.headers["WWW-Authenticate"] = "Bearer"
            raise refused
        return f"key {matching[0]}"


class RateLimit:
    """Images per minute for each client, by default unlimited. A client that has used more than its share waits until
    the debt is paid."""

    def __init__(self, images_per_minute: float | None, clock: Callable[[], float]) -> None:
        self._seconds = 0 if images_per_minute is None else 60 / images_per_minute
        self._clock = clock
        self._free_at: dict[str, float] = {}
        """Maps a client to when it has its whole minute's share again."""

    @contextmanager
    def charged(self, client: str, images: int) -> Iterator[None]:
        """Charge images that a block tries to have accepted, at once: simultaneous requests count for each other. They
        are returned if the block fails. Raises `ApiError` with Retry-After for a client that has to wait."""
        now, cost = self._clock(), images * self._seconds
        if (wait := self._free_at.get(client, 0) - now - 60) >= 0:
            said = "too many images per minute: wait a little"
            raise ApiError(429, said, code="rate_limit_exceeded", wait=math.floor(wait) + 1)
        self._free_at[client] = max(self._free_at.get(client, 0), now) + cost
        self._free_at = {name: free for name, free in self._free_at.items() if free > now}
        try:
            yield
        except BaseException:
            self._free_at[client] = self._free_at.get(client, 0) - cost
            raise


def overloaded() -> ApiError:
    said = "too many requests are being read or wait for an answer: try again later"
    return ApiError(503, said, code="overloaded")


class Room:
    """Room for a bounded amount of something at once: requests, images, bytes. full: the error for too little room."""

    def __init__(self, most: int, full: Callable[[], ApiError] = overloaded) -> None:
        self.left, self._full = most, full

    def take(self, amount: int) -> None:
        """Take an amount, to be returned by adding it to `left`. Raises `ApiError`."""
        if amount > self.left:
            raise self._full()
        self.left -= amount

    @contextmanager
    def taken(self, amount: int) -> Iterator[None]:
        """Take an amount until the context ends."""
        self.take(amount)
        try:
            yield
        finally:
            self.left += amount


def _is_same_place(origin: str, host: str) -> bool:
    """Return whether a page comes from the host that it asks. Some proxies add the port that browsers omit."""
    scheme, _, place = origin.partition("://")
    return place in (host, host.removesuffix(USUAL_PORTS.get(scheme, "")))


def _household(address: str) -> str:
    """Return an IPv4 address, even if written as IPv6; for IPv6 the /64 network, in which a machine can take any
    address it likes."""
    try:
        found = IPv6Address(address)
    except ValueError:
        return address
    return str(found.ipv4_mapped or IPv6Address(int(found) >> 64 << 64))


def _hostname(host: str) -> str | None:
    """Return the host name of a Host header, without the port; None if it has none."""
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:
        return None
