"""Whatever the OpenAPI document allows, and what it does not: never a fault of the server (schemathesis)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from live_server import live
from serving_app import application

APP = application()
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with live(APP) as server:
        yield server.url


@pytest.mark.slow
@schemathesis.openapi.from_dict(APP.openapi()).parametrize()  # type: ignore[untyped-decorator]
def test_no_request_is_a_fault_of_the_server(case: Any, address: str) -> None:
    case.call_and_validate(base_url=address, checks=CHECKS)
