"""The Hugging Face hub: what can be a name in it, and whether it can be reached."""

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
"""Seconds for each of the hub's addresses, of which there are several."""


def is_hub_id(name: str) -> bool:
    """Whether a name can be that of a model or data set of the Hugging Face hub, `owner/name`."""
    return re.fullmatch(r"\w[\w.-]*/[\w.-]+", name) is not None


def is_hub_name(name: str) -> bool:
    """The same, also of old ones, whose names have no owner."""
    return is_hub_id(name) or is_hub_id(f"owner/{name}")


def is_on_hub(source: str) -> bool:
    """Whether it is OWNER/NAME, and no folder on this machine."""
    return is_hub_id(source) and not Path(source).exists()


def hub_address() -> tuple[str, str, int]:
    """Scheme, host and port of the hub. Raises `HartError` where HF_ENDPOINT is no address.

    With some of these the hub's library cannot even be imported, so this comes before.
    """
    from huggingface_hub import constants

    with suppress(ValueError):  # of a port that is no number, or brackets of IPv6 that do not match
        address = urlsplit(constants.ENDPOINT)
        if address.hostname and address.scheme in PORTS:
            return address.scheme, address.hostname, address.port or PORTS[address.scheme]
    said = shown(constants.ENDPOINT)
    raise HartError(f"HF_ENDPOINT {said}: is no address of a hub: give https://HOST or https://HOST:PORT")


def unreachable() -> str | None:
    """Why the hub cannot be reached; None if it can be, or where only its own library knows: in its offline mode, or
    behind a proxy.

    Without a connection that library tries for half a minute, as datasets does, and transformers for a whole one.
    Raises as `hub_address`.
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
            if isinstance(error, TimeoutError):  # to ask it again takes as long
                break
        else:
            return None
    return why


def _connect(host: str, port: int) -> None:
    """Raises `OSError`."""
    socket.create_connection((host, port), CONNECT_TIMEOUT).close()
