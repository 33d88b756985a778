"""The OpenAPI document describes every operation completely."""

import re
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from purvey.server.application import RESOURCES

Document = dict[str, Any]  # JSON values
Operations = list[tuple[str, str, Document]]


@pytest.fixture(scope="module")
def document(keyless: httpx2.Client) -> Document:
    found: Document = keyless.get("/openapi.json", timeout=60).json()
    return found


@pytest.fixture(scope="module")
def operations(document: Document) -> Operations:
    return [
        (method, path, operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]


def _is_absent(operation: Document) -> bool:
    return bool(operation["tags"] == ["Not implemented"])


def test_every_route_is_in_it(operations: Operations) -> None:
    routes = {
        (method.lower(), route.path.replace(":path}", "}"))
        for resource in RESOURCES
        for route in resource
        for method in route.methods or ()
    }
    assert {(method, path) for method, path, _ in operations} == routes


def test_every_operation_says_what_it_does(operations: Operations) -> None:
    for method, path, operation in operations:
        at = f"{method} {path}"
        assert operation["summary"], at
        assert not operation["summary"].endswith("."), at
        assert operation["description"], at
        assert operation["tags"], at


def test_operation_ids_are_distinct(operations: Operations) -> None:
    ids = [operation["operationId"] for _, _, operation in operations]
    assert len(set(ids)) == len(ids)


def test_every_operation_is_public_or_names_its_key(
    document: Document, operations: Operations
) -> None:
    public = {"/healthz", "/readyz", "/metrics", "/openapi.json", "/docs"}
    assert document["components"]["securitySchemes"]["api_key"]["scheme"] == "bearer"
    for _, path, operation in operations:
        assert ("security" in operation) == (path not in public), path
        assert ("401" in operation["responses"]) == (path not in public), path


def _successes(operation: Document) -> Iterator[tuple[str, Document]]:
    for code, answer in operation["responses"].items():
        if code.startswith("2"):
            yield from answer["content"].items()


def test_every_success_comes_with_an_example(operations: Operations) -> None:
    for method, path, operation in operations:
        if not _is_absent(operation):
            assert list(_successes(operation))
            for _, media in _successes(operation):
                assert "example" in media, f"{method} {path}"


def _names(document: Document, operation: Document) -> set[str]:
    """Fields of an operation's query and body."""
    found = {parameter["name"] for parameter in operation.get("parameters", ())}
    for media in operation.get("requestBody", {}).get("content", {}).values():
        name = media["schema"].get("$ref", "").rpartition("/")[2]
        schema = document["components"]["schemas"].get(name, media["schema"])
        found |= schema.get("properties", {}).keys()
    return found


def test_what_can_be_streamed_documents_the_stream(
    document: Document, operations: Operations
) -> None:
    streamed = {
        path for _, path, operation in operations if "stream" in _names(document, operation)
    }
    assert len(streamed) == 7
    for _, path, operation in operations:
        media = operation["responses"].get("200", {}).get("content", {})
        assert ("text/event-stream" in media) == ("stream" in _names(document, operation)), path


FREE_FORM = {"/openapi.json", "/v1/training/jobs/{job_id}/report"}
"""JSON whose fields are the user's or another standard's."""


def test_every_json_success_has_a_schema_and_an_example_that_fits(
    document: Document, operations: Operations
) -> None:
    checked = 0
    for method, path, operation in operations:
        for media_type, media in _successes(operation) if not _is_absent(operation) else ():
            if media_type != "application/json" or path in FREE_FORM:
                continue
            name = media["schema"]["$ref"].rpartition("/")[2]
            schema = document["components"]["schemas"][name]
            given = media["example"].keys()
            assert given <= schema["properties"].keys(), f"{method} {path}"
            assert set(schema.get("required", ())) <= given, f"{method} {path}"
            checked += 1
    assert checked > 40


def test_every_body_comes_with_an_example(document: Document, operations: Operations) -> None:
    for method, path, operation in operations:
        for media in operation.get("requestBody", {}).get("content", {}).values():
            name = media["schema"].get("$ref", "").rpartition("/")[2]
            schema = document["components"]["schemas"].get(name, {})
            assert "example" in media or "example" in schema, f"{method} {path}"


def test_what_is_absent_says_so_and_nothing_else(operations: Operations) -> None:
    absent = [operation for _, _, operation in operations if _is_absent(operation)]
    assert absent
    assert all("501" in operation["responses"] for operation in absent)


def _refs(value: object) -> Iterator[str]:
    if isinstance(value, dict):
        for key, below in value.items():
            if key == "$ref":
                yield below
            yield from _refs(below)
    elif isinstance(value, list):
        for below in value:
            yield from _refs(below)


def test_every_reference_resolves(document: Document) -> None:
    schemas = document["components"]["schemas"]
    named = {ref.removeprefix("#/components/schemas/") for ref in _refs(document["paths"])}
    assert named
    assert named <= schemas.keys()


def test_the_plain_page_lists_every_operation(
    keyless: httpx2.Client, operations: Operations
) -> None:
    page = keyless.get("/docs", timeout=60)
    assert page.headers["content-type"].startswith("text/html")
    for method, path, _ in operations:
        assert f"<code>{method.upper()} {path}</code>" in page.text
    assert re.search(r"https?://", page.text) is None, "it loads nothing from elsewhere"
