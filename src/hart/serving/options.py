"""The options of `hart serve`."""

from __future__ import annotations

import re
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated

from pydantic import Field

from hart.config import Device, NumberType
from hart.errors import HartError
from hart.files import read_text, text_lines, user_path
from hart.generation.signing import SigningOptions
from hart.strict import Listed

BUILT_IN_CHECKS = ("words", "none")
"""Names for `ServeOptions.prompt_check`, whatever files exist."""
BESIDE_THE_QUEUE = 1000
"""Requests that may be read, or whose clients read slowly, besides those that wait in the queue."""
LOOPBACK = ("127.0.0.1", "::1", "localhost")


class ServeOptions(SigningOptions, kw_only=True):
    """A server."""

    model: Annotated[Listed[str], Field(min_length=1)] = ("emoji",)
    """Model to serve: shipped, folder or Hugging Face id, or NAME=MODEL; repeat it for several, the default first."""
    device: Device = None
    dtype: NumberType = None
    speed: str | None = None
    """Speed level, as in hart generate: exact, compiled (for GPUs), int8 or fp8 (8 bits, slightly different), draft
    (approximate) or plain."""
    host: str = "127.0.0.1"
    """Address to listen on; any but this machine's own needs an API key, or --public."""
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    """Port to listen on; 0 picks a free one."""
    api_key: Listed[str] = ()
    """Key that clients must give; repeat it for several."""
    api_key_file: Path | None = None
    """File of such keys, one per line: other users of the machine can see a command line."""
    rate_limit: Annotated[float, Field(gt=0)] | None = None
    """Images per minute for each key, or each address; by default as many as the machine makes."""
    batch_size: Annotated[int, Field(ge=1, le=4096)] = 4
    """Images sampled together."""
    queue_size: Annotated[int, Field(ge=1, le=100_000)] = 64
    """Images that may wait; beyond that, requests are refused with status 429."""
    timeout: Annotated[float, Field(gt=0, le=86_400)] = 120.0
    """Seconds in which a request must be done."""
    public: bool = False
    """Serve anyone, without a key, on any address and under any host name."""
    exact: bool | None = None
    """Sample every image by itself, so that rounding cannot depend on others. By default on a CPU, except for float32
    with guidance and equal settings, which was the same to the last bit in every batch tried."""
    max_pixels: Annotated[int, Field(ge=1)] | None = None
    """Pixels of the largest image; by default twice as many as the model's own size has."""
    max_steps: Annotated[int, Field(ge=1)] = 100
    """Most steps of MaskGIT, and of the diffusion, that a request may ask for; the model's own are always served."""
    prompt_check: str = "words"
    """Check of prompts: words (the built-in list), none, a text file of words, or a ShieldGemma model."""
    ray: bool = False
    """Generate in replicas on the machines of a Ray cluster, which replaces those that fail."""
    replicas: Annotated[int, Field(ge=1)] | None = None
    """With --ray, how many; by default one per GPU, or one per machine without GPUs."""
    log_requests: bool = False
    """Log a line for every request: address, route and status, but nothing that a client wrote."""

    def most_posts(self, servers: int = 1) -> int:
        """Return how many requests with a body this many servers, each with a queue, answer behind one address."""
        return servers * self.queue_size + BESIDE_THE_QUEUE

    def models(self) -> dict[str, str]:
        """Map names to what is opened. Raises `HartError` for two with the same name."""
        named: dict[str, str] = {}
        for given in self.model:
            name, equals, source = given.partition("=")
            source = source if equals else given
            name = name if equals else Path(given).name or given
            if not name or not source:
                raise HartError(f"--model {given}: give a model, or NAME=MODEL")
            if name in named:
                raise HartError(f"--model: two are called {name}: give them names, NAME=MODEL")
            named[name] = source
        return named

    def keys(self) -> tuple[str, ...]:
        """Return all API keys. Raises `HartError` for a file without any, and for invalid keys."""
        keys = [("--api-key", key) for key in self.api_key]
        if self.api_key_file is not None:
            read = text_lines(read_text(user_path(self.api_key_file)))
            if not read:
                raise HartError(f"{self.api_key_file}: holds no key: write one per line")
            # its number, not its text: a log is no place for keys
            keys += [(f"{self.api_key_file}, key {number}", key) for number, key in enumerate(read, start=1)]
        for where, key in keys:
            if not re.fullmatch("[!-~]+", key):  # an empty key would match everybody who gives none
                raise HartError(f"{where}: a key has ASCII letters, digits and signs, without spaces")
        return tuple(key for _, key in keys)

    def hosts(self) -> frozenset[str] | None:
        """Return names that requests may be addressed to; None: any. Raises `HartError` if a server would be open to
        others without a key and without --public, and if both are given."""
        has_keys = bool(self.keys())
        if has_keys and self.public:
            raise HartError("--public: serves anybody, and API keys only those who have one: give one of the two")
        if has_keys or self.public:
            return None
        if not _is_loopback(self.host):
            raise HartError(f"--host {self.host}: others can reach it: give --api-key, or --public to serve anybody")
        return frozenset({*LOOPBACK, self.host})


def _is_loopback(host: str) -> bool:
    """Return whether an address can only be reached from this machine."""
    try:
        return ip_address(host).is_loopback
    except ValueError:  # a name
        return host in LOOPBACK
