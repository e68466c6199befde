"""From options to a running application."""

from __future__ import annotations

import logging
import math
import os
import warnings
from functools import partial
from typing import TYPE_CHECKING

from fastapi import FastAPI
from starlette.types import ASGIApp
from uvicorn import Config

from hart.serving.app import create_app
from hart.serving.options import ServeOptions

if TYPE_CHECKING:
    from hart.serving.pipeline_engine import PipelineEngine


log = logging.getLogger(__name__)

KEEP_ALIVE_SECONDS = 75
"""Longer than proxies keep idle connections, mostly 60 s: otherwise one could be closed as they send."""
THIS_MACHINE = "127.0.0.1,::1,::ffff:127.0.0.1"
"""Where a trusted proxy may be, unless the variable FORWARDED_ALLOW_IPS names others."""


def app_from_options(options: ServeOptions) -> FastAPI:
    """Create the application that `hart serve` runs; also for other servers and for Ray. Raises `HartError` for options
    that do not fit together."""
    return create_app(options, {name: partial(_opened, source, options) for name, source in options.models().items()})


def web_config(app: ASGIApp, timeout: float) -> Config:
    """Return how `hart serve` has its application served. timeout: seconds to finish accepted work at a stop."""
    return Config(
        app,
        http="h11",  # the alternative reads headers of any length into memory
        log_config=None,
        access_log=False,
        server_header=False,
        lifespan="on",
        forwarded_allow_ips=os.environ.get("FORWARDED_ALLOW_IPS", THIS_MACHINE),
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=math.ceil(timeout),
    )


def configure_logging() -> None:
    """Log this package's lines and warnings of others on standard error, but none about what a client sent."""
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.WARNING)
    logging.getLogger("hart").setLevel(logging.INFO)
    # these warn of broken forms and images, quoting their content; the client is told instead
    logging.getLogger("python_multipart").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"PIL\.")


def _opened(source: str, options: ServeOptions) -> PipelineEngine:
    from hart.pipeline import HartPipeline
    from hart.serving.pipeline_engine import PipelineEngine  # imports PyTorch

    pipe = HartPipeline.from_pretrained(source, device=options.device, dtype=options.dtype, speed=options.speed)
    for remark in pipe.speed_remarks(chosen=options.speed is not None):
        log.info("model %s: %s", source, remark)
    return PipelineEngine(pipe, exact=options.exact, max_pixels=options.max_pixels, speed=options.speed)
