"""Creating calls that are sent again under one key when their answer is lost, or is "not now"."""

import secrets
import threading
from collections.abc import Callable, Iterator

import httpx2

HEADER = "idempotency-key"
PAUSES_S = (0.5, 1.0, 2.0)
"""Before each repetition."""
_LOST = (httpx2.ReadError, httpx2.WriteError, httpx2.CloseError, httpx2.RemoteProtocolError)
"""Failures after which nobody knows whether the server did it."""


def repeated(
    ask: Callable[[dict[str, str]], httpx2.Response], *, longest_pause_s: float
) -> httpx2.Response:
    """Ask until there is an answer that is not to be asked for again, or patience ends.

    The server does what was asked once, however often it hears of it under this key.

    Args:
        ask: Sends the request with these headers; called again from the beginning.
        longest_pause_s: Bound of each pause.

    Raises:
        httpx2.HTTPError: The network failed, the last time too.
    """
    headers = {HEADER: secrets.token_hex(16)}
    for _ in _pauses(longest_pause_s):
        try:
            response = ask(headers)
        except _LOST:
            continue
        if response.headers.get("x-should-retry") != "true":
            return response
    return ask(headers)


def _pauses(longest_s: float) -> Iterator[float]:
    for pause_s in PAUSES_S:
        yield pause_s
        threading.Event().wait(min(pause_s, longest_s))
