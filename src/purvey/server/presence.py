"""Whether the client is still there: work for one that left is cancelled at once."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable
from contextlib import aclosing
from typing import TypeVar

from fastapi import Request, Response
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

T = TypeVar("T")


async def while_present(request: Request, work: Awaitable[T]) -> T:
    """Return what the work returns, or cancel it when the client leaves.

    The body of the request must have been read.

    Raises:
        ClientDisconnect: The client left; the work was cancelled and has ended.
    """
    working = asyncio.current_task()
    assert working is not None, "a request is answered in a task"  # noqa: S101
    has_left = False

    async def watch() -> None:
        nonlocal has_left
        while (await request.receive())["type"] != "http.disconnect":
            pass
        has_left = True
        working.cancel()

    watching = asyncio.create_task(watch())
    try:
        return await work
    except asyncio.CancelledError:
        # Our own cancellation ends here; one from outside (shutdown) goes on.
        if has_left and working.uncancel() == 0:
            raise ClientDisconnect from None
        raise
    finally:
        watching.cancel()


class EventStream(Response):
    """Server-sent events; closing the connection cancels whatever produces them.

    Args:
        events: Whole events, framed.
        first: An event that goes before them.
    """

    media_type = "text/event-stream"

    def __init__(self, events: AsyncGenerator[bytes], *, first: bytes = b"") -> None:
        super().__init__(headers={"x-accel-buffering": "no"})
        # No length: the end of the stream is the end of the answer.
        self.raw_headers = [h for h in self.raw_headers if h[0] != b"content-length"]
        self._events, self._first = events, first

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events until they end.

        Raises:
            ClientDisconnect: The client left; the producer was cancelled and has ended.
        """
        # In a task of its own: to resume one goes through all that it awaits and all that awaits
        # it, and each event resumes this one; the way to here is as long as all the rest.
        sending = asyncio.create_task(self._send_all(send), name="event-stream")
        await while_present(Request(scope, receive), sending)
        # Once this is sent, the client counts as gone: nobody may be watching any more.
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _send_all(self, send: Send) -> None:
        async with aclosing(self._events) as events:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            if self._first:
                await send({"type": "http.response.body", "body": self._first, "more_body": True})
            async for event in events:
                await send({"type": "http.response.body", "body": event, "more_body": True})
