"""Requests of a soak that are refused: what is asked, and with which status it must end."""

from random import Random
from typing import Any, NamedTuple


class Mistake(NamedTuple):
    """A request that must be refused.

    Attributes:
        method: HTTP method.
        path: Path, with its query.
        status: What it ends in.
        request: What httpx2 takes.
        meters: Kind of the ledger row that it leaves, if it reached a model.
    """

    method: str
    path: str
    status: int
    request: dict[str, Any] = {}  # noqa: RUF012 (never changed in place)
    meters: str | None = None


CHAT, CLASSIFY, FILES = "/v1/chat/completions", "/v1/classify", "/v1/files"
JSON = {"content-type": "application/json"}
HI = [{"role": "user", "content": "hi"}]


def mistakes(chance: Random) -> list[Mistake]:
    """List every kind of mistake, with strings that no request before had."""
    new = f"{chance.getrandbits(64):016x}"
    return [
        Mistake("GET", f"/{new}", 404),
        Mistake("GET", f"/v1/files/{new}", 404),
        Mistake("GET", f"/v1/training/jobs/{new}/events?stream=true", 404),
        Mistake("DELETE", f"/v1/models/{new}", 404),
        Mistake("PATCH", f"/v1/files/{new}", 405),
        Mistake("PUT", "/v1/keys", 405),
        Mistake("POST", "/v1/moderations", 501, {"json": {"model": new, "input": "a"}}),
        Mistake("GET", "/v1/models", 401, {"headers": {"authorization": f"Bearer sk-{new}"}}),
        Mistake("POST", CHAT, 401, {"headers": {"authorization": new}, "content": b"{"}),
        Mistake("GET", "/v1/models", 400, {"headers": {"host": f"{new}.example"}}),
        Mistake("GET", f"/v1/files?limit={new}", 400),
        Mistake("GET", f"/v1/files?{new}=1", 400),
        Mistake("GET", f"/v1/files?after={new}", 400),
        Mistake("POST", CHAT, 400, {"content": b"{", "headers": JSON}),
        Mistake("POST", CHAT, 400, {"content": b"", "headers": JSON}),
        Mistake("POST", CHAT, 400, {"content": b"[" * 100 + b"]" * 100, "headers": JSON}),
        Mistake("POST", CHAT, 400, {"content": b'{"a": NaN}', "headers": JSON}),
        Mistake("POST", CHAT, 400, {"content": b'{"a":1,"a":2}', "headers": JSON}),
        Mistake("POST", CHAT, 415, {"content": b"{}", "headers": {"content-type": "text/plain"}}),
        Mistake("POST", CHAT, 415, {"json": {}, "headers": {"content-encoding": "gzip"}}),
        Mistake("POST", CHAT, 400, {"json": {"model": "echo", "messages": HI, new: 1}}),
        Mistake("POST", CHAT, 400, {"json": {"model": "echo", "messages": new}}),
        Mistake("POST", CHAT, 404, {"json": {"model": new, "messages": HI}}),
        Mistake("POST", CHAT, 422, {"json": {"model": "mail", "messages": HI}}, "chat"),
        Mistake("POST", CHAT, 400, {"json": _too_long()}, "chat"),
        Mistake("POST", CLASSIFY, 422, {"json": {"model": "echo", "input": "a"}}, "classify"),
        Mistake("POST", CLASSIFY, 400, {"json": {"model": "mail"}}),
        Mistake("POST", "/v1/datasets", 404, {"json": {"file_ids": [new]}}),
        Mistake("POST", "/v1/training/jobs", 400, {"json": {"recipe": {"task": new}}}),
        Mistake("POST", "/v1/keys", 400, {"json": {"name": "n", "scopes": [new]}}),
        Mistake("POST", "/v1/keys", 400, _keyed(new + "\x7f")),
        Mistake("POST", FILES, 400, {"files": {"file": ("a", b"a"), "purpose": (None, new)}}),
        Mistake("POST", FILES, 400, {"files": {new: ("a", b"a" * 1_100_000)}}),
        Mistake("POST", FILES, 400, {"content": b"--b", "headers": _multipart()}),
        Mistake("POST", FILES, 415, {"json": {}}),
    ]


def _too_long() -> dict[str, Any]:
    return {"model": "echo", "messages": [{"role": "user", "content": "x" * 5_000}]}


def _keyed(key: str) -> dict[str, Any]:
    return {"json": {"name": "n"}, "headers": {"idempotency-key": key}}


def _multipart() -> dict[str, str]:
    return {"content-type": "multipart/form-data; boundary=b"}
