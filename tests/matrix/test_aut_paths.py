"""No spelling of a path reaches a handler whose policy the plain spelling would not."""

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from purvey.server.routing import PolicyRoute
from tests.conftest import FIRST_KEY
from tests.matrix.raw import Wire, connected, head
from tests.matrix.routes import GUARDED, method_of, path_of

if TYPE_CHECKING:
    from tests.matrix.conftest import Held


def _spellings(path: str) -> list[str]:
    """Return other spellings of a path, as servers and proxies have taken them for the same."""
    above, _, last = path.rpartition("/")
    first = path.split("/")[1]
    return [
        f"/{path}", path.replace("/", "//"), path.replace("/", "/./"), f"/.{path}", f"/..{path}",
        f"{path}/", f"{path}/.", f"{path}/..", f"{path}.", f"{path}..", f"{path};x", f"{path};",
        f"{path}%00", f"{path}%00.json", f"{path}%20", f"{path}%0a", f"{path}%09", f"{path}%3f",
        f"{path}%23", f"{path}%2f", f"{path}.json", f"{path}~", f"{path}\\",
        f"{above}/%2e/{last}", f"{above}/%2e%2e/{above.rpartition('/')[2]}/{last}",
        f"{above}%2F{last}", f"{above}%5C{last}", f"{above}\\{last}", f"{above};/{last}",
        path.upper(), path.title(), path.swapcase(), f"/{first.upper()}{path[len(first) + 1:]}",
        path.replace("/", "%2f", 1), path.replace("/", "%252f"), path.replace("/", "/%c0%ae/", 1),
        path.replace("/", "/%e0%80%af/", 1), f"/healthz/..{path}", f"/healthz/%2e%2e{path}",
        f"/healthz;{path}", f"/healthz%2f..{path}", f"/docs/..{path}", f"/static/..{path}",
        f"http://localhost{path}/", f"http://evil.example/{path}", f"/http://localhost{path}",
        "".join(f"%{ord(c):02x}" for c in path), f"/%2f{path[1:]}", f"{path}?/healthz/..",
        f"/?{path}", f"{path}%ff", f"/\u0130{path}".encode().decode("latin-1"),
    ]  # fmt: skip


def _variants() -> Iterator[tuple[PolicyRoute, str]]:
    seen = set()
    for route in GUARDED:
        if "{rest" in route.path:
            continue
        for spelling in _spellings(path_of(route)):
            if (method_of(route), spelling) not in seen:
                seen.add((method_of(route), spelling))
                yield route, spelling


VARIANTS = list(_variants())
HEADERS = (
    "x-original-url: /healthz", "x-rewrite-url: /healthz", "x-forwarded-prefix: /healthz",
    "x-forwarded-host: localhost", "x-http-method-override: GET", "x-method-override: GET",
    "x-forwarded-for: 127.0.0.1", "x-real-ip: 127.0.0.1", "forwarded: for=127.0.0.1",
)  # fmt: skip


def _statuses(base_url: str, sent: list[bytes]) -> list[int]:
    """Send requests on as few connections as the answers allow."""
    statuses: list[int] = []
    while len(statuses) < len(sent):
        with connected(base_url) as wire:
            statuses += _on_one(wire, sent[len(statuses) :])
    return statuses


def _on_one(wire: Wire, sent: list[bytes]) -> Iterator[int]:
    for one in sent:
        wire.send(one)
        answer = wire.answer()
        if answer.status >= 400:
            assert answer.error["message"]
        yield answer.status
        if answer.is_last:
            return


def _asked(route: PolicyRoute, target: str, *lines: str, key: str = "") -> bytes:
    return head(method_of(route), target, *lines, "content-length: 0", key=key, kind="")


@pytest.mark.row("AUT-03")
def test_no_spelling_of_a_path_is_open_to_everybody(held: "Held") -> None:
    sent = [_asked(route, spelling) for route, spelling in VARIANTS]
    statuses = _statuses(held.server.base_url, sent)
    for (route, spelling), status in zip(VARIANTS, statuses, strict=True):
        assert status in {400, 401, 404, 405}, (method_of(route), spelling, status)
    assert len(statuses) > 1_000


@pytest.mark.row("AUT-03")
@pytest.mark.parametrize("every", [5, pytest.param(1, marks=pytest.mark.faults)])
def test_no_spelling_of_a_path_is_open_to_a_key_without_its_scope(held: "Held", every: int) -> None:
    """The key may do what no route needs but `usage:read`'s: nothing else may answer it."""
    made = held.http.post("/v1/keys", json={"name": "narrow", "scopes": ["usage:read"]}).json()
    others = [(r, s) for r, s in VARIANTS[::every] if r.policy.scope != "usage:read"]
    sent = [_asked(route, spelling, key=made["key"]) for route, spelling in others]
    for (route, spelling), status in zip(
        others, _statuses(held.server.base_url, sent), strict=True
    ):
        assert status in {400, 403, 404, 405, 501}, (method_of(route), spelling, status)


@pytest.mark.row("AUT-03")
def test_no_header_leads_to_another_path_or_method(held: "Held") -> None:
    routes = [route for route in GUARDED if "{rest" not in route.path]
    sent = [_asked(route, path_of(route), *HEADERS) for route in routes]
    assert set(_statuses(held.server.base_url, sent)) == {401}
    public = [head("GET", "/healthz", *HEADERS, line) for line in HEADERS]
    assert set(_statuses(held.server.base_url, public)) == {200}


@pytest.mark.row("AUT-03")
def test_a_spelling_that_is_the_path_has_its_policy(held: "Held") -> None:
    """Percent signs that decode to the very path are that path, key and all."""
    for target in ("/v1/%6dodels", "/%76%31/models", "/v1/models?x=%2f"):
        without, with_key = head("GET", target), head("GET", target, key=FIRST_KEY)
        found = _statuses(held.server.base_url, [without, with_key])
        assert found[0] == 401
        assert found[1] in {200, 400}
    assert re.fullmatch(r"[!-~]+", "".join(path_of(route) for route in GUARDED))
