"""`hart serve`: a page and OpenAI's Images API."""

from __future__ import annotations

import math
import socket

import typer

from hart.commands.console import needs_extra
from hart.commands.from_config import options_from_config
from hart.errors import HartError
from hart.serving.options import ServeOptions


@options_from_config
def serve(options: ServeOptions) -> None:
    """Serve a page and OpenAI's Images API on one port, until Ctrl-C; requests of several people share batches."""
    with needs_extra("serve"):
        import uvicorn

        from hart.serving.run import app_from_options, configure_logging
    app = app_from_options(options)
    listening = _listen(options.host, options.port)
    configure_logging()
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        limit_concurrency=options.queue_size + 1000,
        lifespan="on",
        timeout_graceful_shutdown=math.ceil(options.timeout),
    )
    host, port = listening.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    typer.echo(f"http://{shown}:{port}", err=False)
    uvicorn.Server(config).run(sockets=[listening])


def _listen(host: str, port: int) -> socket.socket:
    """A socket that accepts connections from now on. Raises `HartError`."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        raise HartError(f"cannot listen on {host} port {port} ({error.strerror or error}): choose another") from None
