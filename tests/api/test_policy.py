"""Who may call what: every route of the live table, one by one."""

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, get_args

import httpx2
import pytest
from openai import AuthenticationError, OpenAI, PermissionDeniedError

from purvey.contracts.records import Scope
from purvey.server.application import RESOURCES, create_app
from purvey.server.routing import PolicyRoute

if TYPE_CHECKING:
    from tests.api.conftest import Refusal
    from tests.conftest import RunningServer

PUBLIC = {"/healthz", "/readyz", "/metrics", "/openapi.json", "/docs"}
"""The only paths that need no key. A new one must be added here, on purpose."""
ROUTES = [route for resource in RESOURCES for route in resource]
GUARDED = [route for route in ROUTES if not route.policy.is_public]
SCOPES: tuple[Scope, ...] = get_args(Scope)


def _path(route: PolicyRoute) -> str:
    return re.sub(r"\{[^}]+\}", "some-id", route.path)


def _methods(route: PolicyRoute) -> list[str]:
    return sorted(route.methods or ())


@pytest.mark.row("AUT-01")
def test_the_public_paths_are_exactly_these() -> None:
    assert {route.path for route in ROUTES if route.policy.is_public} == PUBLIC


@pytest.mark.row("AUT-01")
def test_a_route_without_a_policy_keeps_the_server_from_starting(api: "RunningServer") -> None:
    from starlette.routing import Route

    from purvey.server.routing import check_policies

    app = create_app(api.application.services)
    with pytest.raises(TypeError, match="no policy"):
        check_policies([*app.routes, Route("/open", endpoint=lambda _: None)])


def test_every_route_of_the_table_is_one_of_the_resources(api: "RunningServer") -> None:
    assert create_app(api.application.services).routes == ROUTES


@pytest.mark.row("AUT-01")
def test_without_a_key_every_guarded_route_says_401(
    keyless: httpx2.Client, refused: "Refusal"
) -> None:
    bodies = set()
    for route in GUARDED:
        for method in [*_methods(route), "OPTIONS"]:
            answer = keyless.request(method, _path(route))
            refused(answer, 401, "invalid_api_key")
            bodies.add(answer.text)
    assert len(bodies) == 1, "one answer for all"


@pytest.mark.row("AUT-01")
def test_head_needs_a_key_too(keyless: httpx2.Client) -> None:
    for route in GUARDED:
        if "GET" in _methods(route):
            assert keyless.head(_path(route)).status_code == 401, route.path


def test_a_key_is_decided_on_before_the_body_is_read(
    keyless: httpx2.Client, refused: "Refusal"
) -> None:
    answer = keyless.post("/v1/chat/completions", content=b"{", headers={"content-type": "x/y"})
    refused(answer, 401, "invalid_api_key")


@pytest.mark.row("AUT-01")
def test_with_every_other_scope_every_guarded_route_says_403(
    api: "RunningServer", key_with: Callable[..., str], refused: "Refusal"
) -> None:
    needed = {route.policy.scope for route in GUARDED}
    keys = {
        scope: key_with(*(other for other in SCOPES if other not in {scope, "admin"}))
        for scope in SCOPES
        if scope in needed
    }
    with httpx2.Client(base_url=api.base_url, verify=False, timeout=60) as client:
        for route in GUARDED:
            assert route.policy.scope is not None
            headers = {"authorization": f"Bearer {keys[route.policy.scope]}"}
            for method in _methods(route):
                answer = client.request(method, _path(route), headers=headers)
                refused(answer, 403, "insufficient_permissions")


def test_with_its_scope_no_guarded_route_says_401_or_403(
    api: "RunningServer", key_with: Callable[..., str]
) -> None:
    keys = {scope: key_with(scope) for scope in SCOPES}
    with httpx2.Client(base_url=api.base_url, verify=False, timeout=60) as client:
        for route in GUARDED:
            assert route.policy.scope is not None
            headers = {"authorization": f"Bearer {keys[route.policy.scope]}"}
            for method in _methods(route):
                answer = client.request(method, _path(route), headers=headers)
                assert answer.status_code not in {401, 403, 500}, (method, route.path, answer.text)


@pytest.mark.parametrize(
    "header",
    [
        "Bearer",
        "Bearer sk-purvey-unknown",
        "Basic dXNlcjpwYXNz",
        "sk-purvey-no-scheme",
        "Bearer " + "x" * 600,
        "Bearer caf\u00e9",
    ],
)
def test_every_wrong_key_gets_the_same_answer(
    keyless: httpx2.Client, refused: "Refusal", header: str
) -> None:
    raw = [(b"authorization", header.encode("latin-1"))]
    answer = keyless.get("/v1/models", headers=raw)
    refused(answer, 401, "invalid_api_key")
    assert answer.json() == keyless.get("/v1/models").json()


def test_two_authorization_headers_are_no_key(http: httpx2.Client, refused: "Refusal") -> None:
    given = http.headers["authorization"]
    twice = [("authorization", given), ("authorization", given)]
    with httpx2.Client(base_url=http.base_url, verify=False, timeout=60) as client:
        refused(client.get("/v1/models", headers=twice), 401, "invalid_api_key")


def test_a_revoked_key_opens_nothing_at_once(
    api: "RunningServer", http: httpx2.Client, refused: "Refusal"
) -> None:
    made = http.post("/v1/keys", json={"name": "short-lived"}).json()
    headers = {"authorization": f"Bearer {made['key']}"}
    with httpx2.Client(base_url=api.base_url, headers=headers, verify=False, timeout=60) as client:
        assert client.get("/v1/models").status_code == 200
        assert http.delete(f"/v1/keys/{made['id']}").status_code == 200
        refused(client.get("/v1/models"), 401, "invalid_api_key")


def test_the_sdk_raises_its_own_errors(api: "RunningServer", key_with: Callable[..., str]) -> None:
    with api.openai("sk-wrong") as client, pytest.raises(AuthenticationError):
        client.models.list()
    with api.openai(key_with("inference")) as narrow, pytest.raises(PermissionDeniedError):
        narrow.files.list()


def test_what_needs_no_key_answers_without(keyless: httpx2.Client) -> None:
    for path in PUBLIC:
        assert keyless.get(path).status_code == 200, path


def test_a_key_never_shows_again(http: httpx2.Client, sdk: OpenAI) -> None:
    made = http.post("/v1/keys", json={"name": "seen once"}).json()
    listed = http.get("/v1/keys", params={"limit": 100}).text
    assert made["id"] in listed
    assert made["key"] not in listed
