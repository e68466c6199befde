"""Whatever the OpenAPI document allows, and what it does not: never a fault of the server (schemathesis)."""

from __future__ import annotations

import re
from typing import Any

import pytest

from live_server import live
from serving_app import application


def test_the_document_refers_to_nothing_that_it_lacks_and_asks_a_form_for_no_null() -> None:
    document = application().openapi()
    names = set(document["components"]["schemas"])
    assert {found.rpartition("/")[2] for found in re.findall(r"'\$ref': '([^']+)'", str(document))} == names
    for route in ("edits", "variations"):
        body = document["paths"][f"/v1/images/{route}"]["post"]["requestBody"]["content"]["multipart/form-data"]
        fields = body["schema"]["properties"]
        assert {"image", "prompt", "n", "diffusion_steps"} < set(fields) and "null" not in str(fields)


def test_the_document_says_the_bounds_of_settings() -> None:
    paths = application().openapi()["paths"]
    for route, kind in (("generations", "application/json"), ("edits", "multipart/form-data")):
        fields = paths[f"/v1/images/{route}"]["post"]["requestBody"]["content"][kind]["schema"]["properties"]
        given = {name: field.get("anyOf", [field])[0] for name, field in fields.items()}
        assert given["top_p"].items() >= {"type": "number", "exclusiveMinimum": 0, "maximum": 1}.items()
        assert given["diffusion_steps"].items() >= {"type": "integer", "minimum": 1, "maximum": 100_000}.items()
        assert (given["n"]["minimum"], given["n"]["maximum"]) == (1, 10)


def test_the_document_names_what_usage_counts() -> None:
    schemas = application().openapi()["components"]["schemas"]
    (details,) = re.findall(r"schemas/(\w+)", str(schemas["Usage"]["properties"]["input_tokens_details"]))
    assert set(schemas[details]["properties"]) == {"text_tokens", "image_tokens"}


def test_the_document_says_where_a_key_is_needed() -> None:
    for keys in ((), ("key",)):
        paths = application(**({"api_key": keys} if keys else {})).openapi()["paths"]
        asked = {path for path, methods in paths.items() for about in methods.values() if about.get("security")}
        assert asked == ({path for path in paths if path.startswith("/v1/")} | {"/metrics"} if keys else set())


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
