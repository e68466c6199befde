"""The Hugging Face hub: whether a name can exist on it, and whether it can be reached."""

from __future__ import annotations

import re
import socket
import time
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from hart.errors import HartError
from hart.strict import reason, shown

PORTS = {"http": 80, "https": 443}
PAUSES = (0.0, 1.0, 1.0)
"""Seconds before each attempt to reach the hub."""
CONNECT_TIMEOUT = 4.0
"""Seconds for each of the hub's several addresses."""


def is_hub_id(name: str) -> bool:
    """Return whether a name can be that of a model or data set on the Hugging Face hub, `owner/name`."""
    return re.fullmatch(r"\w[\w.-]*/[\w.-]+", name) is not None


def is_hub_name(name: str) -> bool:
    """Like `is_hub_id`, but also accepts old names without an owner."""
    return is_hub_id(name) or is_hub_id(f"owner/{name}")


def is_on_hub(source: str) -> bool:
    """Return whether a source has the form OWNER/NAME and is not a path on this machine."""
    return is_hub_id(source) and not Path(source).exists()


def hub_address() -> tuple[str, str, int]:
    """Return scheme, host and port of the hub. Raises `HartError` if HF_ENDPOINT is not an address.

    The hub's library cannot even be imported with some bad values, so check this first.
    """
    from huggingface_hub import constants

    with suppress(ValueError):  # for a port that is not a number, or unbalanced IPv6 brackets
        address = urlsplit(constants.ENDPOINT)
        if address.hostname and address.scheme in PORTS:
            return address.scheme, address.hostname, address.port or PORTS[address.scheme]
    said = shown(constants.ENDPOINT)
    raise HartError(f"HF_ENDPOINT {said}: is not the address of a hub: give https://HOST or https://HOST:PORT")


def unreachable() -> str | None:
    """Return why the hub cannot be reached; None if it can, or if only its own library can tell: in its offline mode,
    or behind a proxy.

    Without a connection, that library and datasets retry for half a minute, transformers for a whole one.
    Raises like `hub_address`.
    """
    from huggingface_hub import constants

    (scheme, host, port), proxies = hub_address(), getproxies()
    if constants.HF_HUB_OFFLINE:
        return None
    if not proxies.keys().isdisjoint({scheme, "all"}) and not proxy_bypass(host):
        return None
    why = ""
    for pause in PAUSES:
        time.sleep(pause)
        try:
            _connect(host, port)
        except OSError as error:
            why = error.strerror or reason(error)
            if isinstance(error, TimeoutError):  # another attempt would take as long
                break
        else:
            return None
    return why


def _connect(host: str, port: int) -> None:
    """Raise `OSError` if a connection fails."""
    socket.create_connection((host, port), CONNECT_TIMEOUT).close()
