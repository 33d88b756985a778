"""The outermost layer, without a server around it."""

import pytest
from starlette.types import Message, Receive, Scope, Send

from purvey.server.edge import Edge
from purvey.testing.clock import FakeClock


async def _hello(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"hello"})


async def _nothing() -> Message:
    return {"type": "http.disconnect"}


async def _status(host: str, *, allowed: tuple[str, ...]) -> int:
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    edge = Edge(_hello, clock=FakeClock(), allowed_hosts=allowed)
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
