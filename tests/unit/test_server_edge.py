"""The outermost layer, without a server around it."""

import logging

import pytest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from purvey.errors import CapacityError, InternalError, PurveyError, StorageUnavailableError
from purvey.server.edge import Edge
from purvey.testing.clock import FakeClock


async def _hello(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"hello"})


async def _nothing() -> Message:
    return {"type": "http.disconnect"}


async def _status(host: str, *, allowed: tuple[str, ...], app: ASGIApp = _hello) -> int:
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    edge = Edge(app, clock=FakeClock(), allowed_hosts=allowed)
    scope = {"type": "http", "method": "GET", "path": "/", "headers": [(b"host", host.encode())]}
    await edge(scope, _nothing, send)
    return int(sent[0]["status"])


@pytest.mark.parametrize(
    ("allowed", "status"),
    [
        (("known.example",), 400),
        (("*",), 200),
        (("known.example", "*"), 200),
        ((), 200),
    ],
)
async def test_a_star_among_the_allowed_hosts_allows_any(
    allowed: tuple[str, ...], status: int
) -> None:
    assert await _status("other.example:80", allowed=allowed) == status
    assert await _status("Known.example", allowed=allowed) == 200


async def _refusing(error: PurveyError, cause: Exception | None) -> int:
    async def refuse(scope: Scope, receive: Receive, send: Send) -> None:
        raise error from cause

    return await _status("any", allowed=("*",), app=refuse)


@pytest.mark.parametrize(
    ("error", "cause", "is_told_whole"),
    [
        (CapacityError("1024 requests are running."), None, False),
        (InternalError("a bug."), None, True),
        (StorageUnavailableError("the disk refused."), OSError(5, "input/output"), True),
    ],
)
async def test_an_overload_does_not_fill_the_log_with_places_in_the_code(
    error: PurveyError,
    cause: Exception | None,
    is_told_whole: bool,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING):
        assert await _refusing(error, cause) == error.status
    [record] = caplog.records
    assert (record.message, record.__dict__["reason"]) == ("request.refused", error.message)
    assert bool(record.exc_info) == is_told_whole
