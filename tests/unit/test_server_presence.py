"""A client that leaves: what it asked for ends, whenever that happens."""

import asyncio
from collections.abc import AsyncGenerator

import pytest
from fastapi import Request
from starlette.requests import ClientDisconnect
from starlette.types import Message

from purvey.server.presence import EventStream, while_present


class Client:
    """The receiving and sending ends of one request."""

    def __init__(self, *, leaves_after: int | None = None) -> None:
        self.gone = asyncio.Event()
        self.sent: list[Message] = []
        self._leaves_after = leaves_after

    async def receive(self) -> Message:
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        self.sent.append(message)
        if len(self.sent) == self._leaves_after:
            self.gone.set()
            await asyncio.sleep(0)
            await asyncio.sleep(0)

    @property
    def request(self) -> Request:
        return Request({"type": "http"}, self.receive)


class Source:
    """Events without end, and whether they were closed."""

    def __init__(self) -> None:
        self.is_closed = False

    async def events(self) -> AsyncGenerator[bytes]:
        try:
            for number in range(1_000):
                yield b"data: %d\n\n" % number
        finally:
            await asyncio.sleep(0)  # what is cleaned up may wait
            self.is_closed = True


async def test_work_of_a_present_client_returns() -> None:
    async def work() -> int:
        await asyncio.sleep(0)
        return 5

    assert await while_present(Client().request, work()) == 5


async def test_an_error_of_the_work_is_raised_as_it_is() -> None:
    async def work() -> int:
        raise KeyError("x")

    with pytest.raises(KeyError):
        await while_present(Client().request, work())


async def test_work_of_a_client_that_leaves_is_cancelled_and_has_ended() -> None:
    client, ended = Client(), asyncio.Event()

    async def work() -> None:
        client.gone.set()
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            ended.set()

    with pytest.raises(ClientDisconnect):
        await while_present(client.request, work())
    assert ended.is_set()


async def test_a_cancellation_from_outside_goes_on() -> None:
    task = asyncio.create_task(while_present(Client().request, asyncio.Event().wait()))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_no_watcher_is_left_behind() -> None:
    before = asyncio.all_tasks()
    await while_present(Client().request, asyncio.sleep(0))
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == before


async def test_a_stream_is_sent_whole_to_a_client_that_stays() -> None:
    async def two() -> AsyncGenerator[bytes]:
        yield b"data: 1\n\n"
        yield b"data: 2\n\n"

    client = Client()
    await EventStream(two(), first=b"data: 0\n\n")({"type": "http"}, client.receive, client.send)
    assert client.sent[0]["status"] == 200
    body = b"".join(message.get("body", b"") for message in client.sent)
    assert body == b"data: 0\n\ndata: 1\n\ndata: 2\n\n"
    assert client.sent[-1]["more_body"] is False


@pytest.mark.parametrize("leaves_after", [1, 2, 3, 10])
async def test_a_stream_is_closed_whenever_its_reader_leaves(leaves_after: int) -> None:
    client, source = Client(leaves_after=leaves_after), Source()
    events = source.events()
    first = await anext(events)  # as `sse.stream` does: begun before it is sent
    with pytest.raises(ClientDisconnect):
        await EventStream(events, first=first)({"type": "http"}, client.receive, client.send)
    assert source.is_closed
    assert len(client.sent) <= leaves_after + 1
