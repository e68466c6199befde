"""Whatever the OpenAPI document allows, and what it does not: never a fault of the server (schemathesis)."""

from __future__ import annotations

from typing import Any

import pytest

from live_server import live
from serving_app import application


@pytest.mark.slow
def test_no_request_is_a_fault_of_the_server() -> None:
    import schemathesis
    from schemathesis.checks import not_a_server_error
    from schemathesis.pytest.lazy import get_all_tests
    from schemathesis.specs.openapi import checks

    conform = [checks.status_code_conformance, checks.content_type_conformance, checks.response_schema_conformance]
    with live(application()) as server:

        def ask(case: Any) -> None:
            case.call_and_validate(base_url=server.url, checks=[not_a_server_error, *conform])

        schema = schemathesis.openapi.from_dict(server.app.openapi())
        # what schema.parametrize() makes of them, which is for pytest to collect, by every worker
        tests = list(get_all_tests(schema=schema, test_func=ask, settings=None, given_kwargs=None))
        assert len(tests) == 8
        for found in tests:
            _, test = found.ok()
            test()
