"""Options made from a configuration: what is read, what help says, and one line for what does not fit."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import typer
from pydantic import Field, field_validator
from typer.testing import CliRunner

from hart.commands.from_config import config_fields, options_from_config
from hart.errors import HartError
from hart.strict import Config, require

Count = Annotated[int, Field(ge=1, le=9, description="How many.")]


class Options(Config, kw_only=True):
    source: Annotated[str, Field(description="What is read.", json_schema_extra={"positional": True})]
    data: Path
    count: Annotated[Count, Field(json_schema_extra={"flags": ["-n", "--count"]})] = 3
    share: Annotated[float, Field(gt=0, lt=1)] = 0.5
    mode: Literal["fast", "exact"] = "fast"
    gumbel_smoothing: bool | None = None
    plain: bool = False
    sizes: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(description="Sides.")] = (1, 8)
    scales: tuple[int, ...] | None = None
    files: tuple[Path, ...] = ()
    top_k: int | Literal["all"] = Field("all", union_mode="left_to_right")

    @field_validator("share")
    @classmethod
    def _not_odd(cls, share: float) -> float:
        if share == 0.75:
            raise HartError("three quarters are odd: give another")
        return share

    def __post_init__(self) -> None:
        require(self.share < 0.5 or self.count < 9, "give fewer than 9, or a share below a half")


app = typer.Typer(pretty_exceptions_enable=False, rich_markup_mode=None)
seen: list[Any] = []


@app.command()
@options_from_config
def command(options: Options, extra: Annotated[str, typer.Option(help="Of the command alone.")] = "none") -> None:
    """Does it."""
    seen.append((options, extra))


def run(*arguments: str) -> Any:
    seen.clear()
    return CliRunner().invoke(app, arguments, env={"COLUMNS": "200"})


DEFAULTS = asdict(Options(source="a", data=Path("b")))


@pytest.mark.parametrize(
    ("given", "changed"),
    [
        ((), {}),
        (("--count", "8"), {"count": 8}),
        (("-n", "1", "--share", "0.25", "--mode", "exact"), {"count": 1, "share": 0.25, "mode": "exact"}),
        (("--gumbel-smoothing", "--plain"), {"gumbel_smoothing": True, "plain": True}),
        (("--no-gumbel-smoothing",), {"gumbel_smoothing": False}),
        (("--sizes", "2,4", "--sizes", "16"), {"sizes": (2, 4, 16)}),
        (("--scales", "1"), {"scales": (1,)}),
        (("--files", "x", "--files", "y,z"), {"files": (Path("x"), Path("y,z"))}),
    ],
)
def test_what_is_given_becomes_the_configuration(given: tuple[str, ...], changed: dict[str, Any]) -> None:
    result = run("a", "--data", "b", *given)
    assert result.exit_code == 0, result.output
    ((options, extra),) = seen
    assert asdict(options) == DEFAULTS | changed and extra == "none"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ((), "Missing option '--data'"),
        (("--data", "b", "-n", "10"), "'-n' / '--count': "),
        (("--data", "b", "--mode", "slow"), "'--mode': "),
        (("--data", "b", "--share", "1"), "--share must be below 1, not 1.0"),
        (("--data", "b", "--share", "0.75"), "--share: three quarters are odd: give another"),
        (("--data", "b", "--sizes", "2,x"), "--sizes[1]: expected a whole number, got 'x'"),
        (("--data", "b", "--sizes", "2,0"), "--sizes[1] must be at least 1, not 0"),
        (("--data", "b", "--top-k", "many"), "--top-k"),
        (("--data", "b", "-n", "9"), "give fewer than 9, or a share below a half"),
        (("--data", "b", "--no-plain"), "--no-plain"),
    ],
)
def test_what_does_not_fit_names_its_flag(given: tuple[str, ...], said: str) -> None:
    result = run("a", *given)
    assert result.exit_code != 0 and not seen
    if isinstance(result.exception, HartError):
        assert str(result.exception).startswith(said)
    else:  # the argument parser's
        assert said in result.stderr


def test_help_says_what_fields_say() -> None:
    lines = " ".join(run("--help").output.split())
    texts = ["What is read.", "[required]", "How many.", "1<=x<=9", "fast|exact", "--gumbel-smoothing"]
    for text in (*texts, "--no-gumbel-smoothing", "N,...", "[default: 1, 8]", "Of the command alone."):
        assert text in lines, text


def test_a_configuration_comes_before_its_bases() -> None:
    class More(Options, kw_only=True):
        own: int = 1
        share: Annotated[float, Field(gt=0)] = 2.0

    names = list(config_fields(More))
    assert names[:3] == ["own", "share", "source"] and len(names) == len(config_fields(Options)) + 1


def test_two_options_of_one_name_are_refused_at_once() -> None:
    with pytest.raises(ValueError, match="duplicate parameter name"):

        @options_from_config
        def twice(options: Options, data: Path) -> None: ...
