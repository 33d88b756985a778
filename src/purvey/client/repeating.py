"""Creating calls that are sent again under one key when their answer is lost, or is "not now"."""

import secrets
import threading
from collections.abc import Callable

import httpx2

HEADER = "idempotency-key"
PAUSES_S = (0.5, 1.0, 2.0)
"""Before each repetition."""
AWAY_PAUSES_S = (2.0,) * 15
"""Before each look for a server that lost an answer and is away: it may be starting again."""
_LOST = (httpx2.ReadError, httpx2.WriteError, httpx2.CloseError, httpx2.RemoteProtocolError)
"""Failures after which nobody knows whether the server did it."""
_AWAY = (httpx2.ConnectError, httpx2.ConnectTimeout)


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
    pauses, away_pauses, is_unknown = iter(PAUSES_S), iter(AWAY_PAUSES_S), False
    while True:
        try:
            response = ask(headers)
        except _LOST:
            is_unknown, pause_s = True, next(pauses, None)
            if pause_s is None:
                raise
        except _AWAY:
            pause_s = next(away_pauses, None) if is_unknown else None
            if pause_s is None:
                raise
        else:
            is_asked = response.headers.get("x-should-retry") == "true"
            pause_s = next(pauses, None) if is_asked else None
            if pause_s is None:
                return response
        threading.Event().wait(min(pause_s, longest_pause_s))
