"""From options to an application that runs."""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING

from fastapi import FastAPI

from hart.serving.access import Access
from hart.serving.app import create_app
from hart.serving.checkers import prompt_checker
from hart.serving.models import Models
from hart.serving.options import ServeOptions
from hart.serving.orders import Terms

if TYPE_CHECKING:
    from hart.serving.pipeline_engine import PipelineEngine


def app_from_options(options: ServeOptions) -> FastAPI:
    """The application that `hart serve` runs; also for other servers and for Ray. Raises `HartError` for options that
    do not fit together."""
    return create_app(
        Models({name: partial(_opened, source, options) for name, source in options.models().items()}),
        Terms(prompt_checker(options.prompt_check, options.device), options.max_steps, options.credentials()),
        access=Access(options.keys(), options.hosts()),
        limits=options,
        log_requests=options.log_requests,
    )


def configure_logging() -> None:
    """This package's lines and warnings of others, on standard error; but none on what a client sent."""
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.WARNING)
    logging.getLogger("hart").setLevel(logging.INFO)
    # warns of broken forms, with bytes of theirs; the client is told
    logging.getLogger("python_multipart").setLevel(logging.ERROR)


def _opened(source: str, options: ServeOptions) -> PipelineEngine:
    from hart.pipeline import HartPipeline
    from hart.serving.pipeline_engine import PipelineEngine  # imports PyTorch

    pipe = HartPipeline.from_pretrained(source, device=options.device, dtype=options.dtype, speed=options.speed)
    return PipelineEngine(pipe, exact=options.exact, max_pixels=options.max_pixels, speed=options.speed)
