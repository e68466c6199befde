"""Options that several commands share, with one wording."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Annotated, Any

import typer
from pydantic import Field

from hart.commands.from_config import config_fields, field_kind
from hart.config import SamplingConfig

SIZE_HELP = "Image size in pixels: one number for a square, or width x height such as 1024x576."
ASPECT_HELP = "Shape of the images, such as 16:9: as many tokens as in the square, which is the model's own or --size."
Size = Annotated[int | str | None, Field(description=SIZE_HELP, json_schema_extra={"metavar": "PX|WxH"})]
AspectRatio = Annotated[str | None, Field(description=ASPECT_HELP, json_schema_extra={"metavar": "W:H"})]


SAMPLING_FLAGS = {"guidance_scale": ("--guidance",)}
"""Options that are not named like their fields."""


def sampling_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """A command with its parameter `settings` replaced by an option for every field of `SamplingConfig`.

    The command gets a dictionary, with None for what is not given.
    """
    fields = config_fields(SamplingConfig)
    signature = inspect.signature(command)
    parameters = [parameter for parameter in signature.parameters.values() if parameter.name != "settings"]
    for name, field in fields.items():
        kind, _, _ = field_kind(field)
        option = typer.Option(*SAMPLING_FLAGS.get(name, ()), help=field.description, show_default=False)
        annotation = Annotated[kind | None, option]  # type: ignore[valid-type]
        parameters.append(inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation))

    @wraps(command)
    def run(**given: Any) -> Any:
        settings = {name: given.pop(name) for name in fields}
        return command(**given, settings=settings)

    run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run
