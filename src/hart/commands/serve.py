"""`hart serve`: a page and OpenAI's Images API."""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from functools import partial
from types import FrameType
from typing import Any

import typer

from hart.checkpoint.folders import CONFIG_FILE, layout_of, local_folder, model_name
from hart.commands.console import needs_extra
from hart.commands.from_config import options_from_config
from hart.config import HartConfig
from hart.errors import HartError
from hart.serving.engine import largest
from hart.serving.options import BUILT_IN_CHECKS, ServeOptions
from hart.stopping import HANGUP, handled

OPEN_FILES = 2**16
SEND_SECONDS = 60.0
"""A client that takes no data for this long counts as gone."""
UNSENT_BYTES = 2**14
"""Unsent bytes of a connection in the system's memory."""


@options_from_config
def serve(options: ServeOptions) -> None:
    """Serve a page and OpenAI's Images API on one port, until Ctrl-C; requests of several people share batches."""
    with needs_extra("serve"):
        import python_multipart  # noqa: F401 - starlette requires it at the first form
        import uvicorn

        from hart.serving.run import app_from_options, configure_logging, web_config
    if options.replicas is not None and not options.ray:
        raise HartError("--replicas: requires a Ray cluster: give --ray too")
    for source in options.models().values():
        _check_model(source, options)
    _check_device(options)

    class Server(uvicorn.Server):
        @contextmanager
        def capture_signals(self) -> Iterator[None]:
            """Also handle SIGHUP, of a closed terminal, which would end the server in the middle of an image."""
            with super().capture_signals(), handled((HANGUP,) if HANGUP else (), self.handle_exit):
                yield

        def handle_exit(self, sig: int, frame: FrameType | None) -> None:
            """At a first signal, finish what was accepted; a second ends the process at once, except SIGHUP, which the
            shell sends again."""
            if not self.should_exit:
                super().handle_exit(sig, frame)
            elif sig != HANGUP:
                os._exit(128 + sig)

    _open_many_files()
    with _listen(options.host, options.port) as listening:
        host, port = listening.getsockname()[:2]
        shown = f"[{host}]" if ":" in host else host
        configure_logging()
        app = _replicated(options, f"hart-{socket.gethostname()}-{port}") if options.ray else app_from_options(options)
        typer.echo(f"http://{shown}:{port}", err=False)
        Server(web_config(app, options.timeout)).run(sockets=[listening])


def _check_device(options: ServeOptions) -> None:
    """Raise `HartError` for what this machine does not have; with Ray, other machines generate. PyTorch, which would
    delay the port, is only imported if an option needs it."""
    if options.ray or (options.speed, options.dtype, options.device or "cpu") == (None, None, "cpu"):
        return
    from hart.devices import resolve_device, resolve_dtype
    from hart.inference.speed import resolve_speed

    device = resolve_device(options.device)
    resolve_dtype(options.dtype, device)
    if options.speed is not None:
        resolve_speed(options.speed, device)


def _check_model(source: str, options: ServeOptions) -> None:
    """Raise `HartError` for a missing model before the server says that it is ready; nothing is loaded. Errors in what
    other machines read show when it is opened. For models in local folders, PyTorch is not imported."""
    if (folder := local_folder(source)) is not None:
        # what a published layout generates is in its weights, and shows when it is opened
        if layout_of(folder) == "own" and options.max_pixels is not None:
            largest(HartConfig.load(folder / CONFIG_FILE).tokenizer.image_size, options.max_pixels)
        return
    if options.ray and "/" in source:
        return
    from hart.checkpoint.hub import require_repository
    from hart.checkpoint.loading import resolve_model
    from hart.hub import is_hub_id

    if is_hub_id(source):
        require_repository(source)
    else:
        resolve_model(source)


def _replicated(options: ServeOptions, name: str) -> Any:
    """Give the application in replicas on a Ray cluster, which is left at the end. name: on the cluster."""
    with needs_extra("ray"):
        from hart.commands.ray_cluster import joined
        from hart.serving.replicas import deployed, front_app, withdrawn
    on_sigterm = signal.getsignal(signal.SIGTERM)
    with redirect_stdout(sys.stderr):  # Ray prints what it does
        cluster = joined(options.device, options.replicas, "--replicas")
    signal.signal(signal.SIGTERM, on_sigterm)  # Ray's own handler exits with another code
    deploy = partial(
        deployed,
        name,
        for_replicas(options),
        cluster.workers,
        on_gpus=cluster.gpus > 0,
        on_a_machine=cluster.on_a_machine,
    )
    return front_app(options, cluster.workers, deploy, partial(withdrawn, name))


def for_replicas(options: ServeOptions) -> ServeOptions:
    """Return the options for processes with another working directory, behind a front that checks access: no keys."""
    models = tuple(f"{name}={model_name(source)}" for name, source in options.models().items())
    check = options.prompt_check
    return options.replace(
        api_key=(),
        api_key_file=None,
        public=True,
        model=models,
        prompt_check=check if check in BUILT_IN_CHECKS else model_name(check),
    )


def _open_many_files() -> None:
    """Raise the limit of open files, since a connection is a file, and a process begins with few."""
    with suppress(ImportError, OSError, ValueError):  # other systems, or ones that allow no change
        import resource

        files, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = OPEN_FILES if most == resource.RLIM_INFINITY else min(most, OPEN_FILES)
        if files != resource.RLIM_INFINITY and files < wanted:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))


def _listen(host: str, port: int) -> socket.socket:
    """Return a socket that accepts connections from now on. Raises `HartError`."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        both = host == "::" and socket.has_dualstack_ipv6()  # all addresses include those of IPv4
        listening = socket.create_server((host, port), family=family, backlog=2048, dualstack_ipv6=both)
        if sys.platform == "linux":  # connections inherit it
            # an answer that nobody reads would stay in memory as long as its client likes
            listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(1000 * SEND_SECONDS))
            with suppress(OSError):  # in sandboxes that do not know it
                # otherwise megabytes of partial images could pile up in the system's memory before a slow connection
                listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_BYTES)
        return listening
    except OSError as error:
        # socket adds the address to the system's message
        said = str(error.strerror or error).partition(" (while")[0]
        raise HartError(f"cannot listen on {host} port {port} ({said}): choose another") from None
