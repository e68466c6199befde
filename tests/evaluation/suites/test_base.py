"""A suite of another package: its declaration makes the command line, kept results, report and documentation."""

from __future__ import annotations

import json
import re
from pathlib import Path
from pkgutil import resolve_name
from typing import Annotated, Any

import pytest
import typer
from PIL import Image
from pydantic import Field
from typer.testing import CliRunner

from hart.commands.evaluate import suite_app
from hart.data.images import open_image
from hart.errors import HartError
from hart.evaluation import Context, Figure, Result, Suite, SuiteOptions, records
from hart.evaluation.suites.base import SamplingOptions
from hart.evaluation.suites.core import SUITES, installed_suites
from hart.strict import Config
from helpers import unpadded

computed: list[str] = []


class CountOptions(SuiteOptions, kw_only=True):
    data: Annotated[Path, Field(description="Folder with images.")]
    least: Annotated[int, Field(ge=1, description="Smallest size that counts.")] = 8


class Counted(Config):
    counts: bool


def count(context: Context[CountOptions]) -> Result:
    options = context.options
    kept = context.cache(records(Counted), {"least": options.least})
    files = sorted(options.data.glob("*.png"))
    names = [kept.key(file.read_bytes()) for file in files]

    def compute(places: list[int]) -> list[Counted]:
        computed.extend(files[place].name for place in places)
        return [Counted(min(open_image(files[place]).size) >= options.least) for place in places]

    kept.fill(names, compute)
    context.note("counted")
    return Result(
        title="images",
        figures={"all": {"counted": Figure(sum(kept.read(name).counts for name in names))}},
        settings={},
        counts={"files": len(files)},
    )


SUITE = Suite("count", "How many images are large enough.", CountOptions, count)


def missing_package(context: Context[SuiteOptions]) -> Result:
    raise ModuleNotFoundError("No module named 'absent'", name="absent")


MISSING = Suite("missing", "Needs a package.", SuiteOptions, missing_package, install="hart[other]")


@pytest.fixture
def app() -> typer.Typer:
    return suite_app({"count": SUITE, "missing": f"{__name__}:MISSING"})


def test_a_declaration_is_a_command(app: typer.Typer, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for image_size in (4, 8, 12):
        Image.new("RGB", (image_size, image_size)).save(tmp_path / f"{image_size:02d}.png")

    def run(*given: Any) -> Any:
        arguments = ["count", "--data", tmp_path, "--out", out, *given]
        return CliRunner().invoke(app, [str(argument) for argument in arguments])

    result = run("--seed", 3)
    assert result.exit_code == 0, result.output
    assert "| all | 2.000 |" in unpadded(result.stdout) and "note: counted" in result.stderr
    values = json.loads((out / "figures.json").read_text())
    assert values["suite"] == "count" and values["figures"] == {"all": {"counted": {"value": 2}}}
    assert values["settings"] == {
        "data": str(tmp_path), "least": 8, "seed": 3, "resamples": 100, "device": None,
    }  # fmt: skip
    assert values["environment"]["cores"] and values["command"].startswith("hart")
    assert "# Suite count" in (out / "table.md").read_text()
    # kept for the same file and settings
    assert computed == ["04.png", "08.png", "12.png"]
    run("--seed", 4)
    assert computed == ["04.png", "08.png", "12.png"]
    run("--least", 4)
    assert computed[3:] == ["04.png", "08.png", "12.png"]
    assert json.loads((out / "figures.json").read_text())["figures"]["all"]["counted"]["value"] == 3
    # results of other settings are kept beside it
    assert (out / "figures-1.json").exists() and (out / "figures-2.json").exists()
    bad = run("--least", 0)
    assert bad.exit_code == 2 and "--least" in bad.stderr


def test_a_package_that_is_missing_is_said_with_the_way_to_it(app: typer.Typer, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["missing", "--out", str(tmp_path)])
    assert isinstance(result.exception, HartError)
    assert re.fullmatch(r"absent is not installed: run (uv )?pip install 'hart\[other\]'", str(result.exception))


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("absent_package:SUITE", "the suite broken cannot be imported from absent_package:SUITE: No module named"),
        (f"{__name__}:computed", f"{__name__}:computed is not a suite"),
    ],
)
def test_a_suite_of_another_package_that_is_broken_stops_no_other(place: str, message: str) -> None:
    app = suite_app({"count": SUITE, "broken": place})
    listed = CliRunner().invoke(app, ["--help"])
    assert listed.exit_code == 0 and SUITE.description in listed.stdout
    assert message in " ".join(listed.stdout.split())
    error = CliRunner().invoke(app, ["broken"]).exception
    assert isinstance(error, HartError) and message in str(error)


def test_every_suite_of_this_package_can_be_run() -> None:
    for name, suite in SUITES.items():
        assert installed_suites()[name] is suite
        assert callable(resolve_name(suite.run))


def test_a_shipped_model_keeps_its_name_whatever_folders_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("emoji", "own"):
        (tmp_path / name).mkdir()
    recorded = [SamplingOptions(model=model).settings()["model"] for model in ("emoji", "own", "someone/else")]
    assert recorded == ["emoji", str(tmp_path / "own"), "someone/else"]
