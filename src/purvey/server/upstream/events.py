"""Server-sent events as they come from an upstream: bounded, and whole or an error."""

from collections.abc import AsyncGenerator

from purvey.contracts.limits import LIMITS
from purvey.errors import UpstreamFailedError

DONE = b"[DONE]"


async def events(pieces: AsyncGenerator[bytes], *, name: str) -> AsyncGenerator[bytes]:
    """Yield the data of each event up to `[DONE]`; comments and other fields are left out.

    Data of several lines, which no such server sends, would come line by line.

    Args:
        pieces: The stream as it comes.
        name: Whose, for messages.

    Raises:
        UpstreamFailedError: It ends without `[DONE]`, or an event is too long.
    """
    rest = bytearray()
    async for piece in pieces:
        rest += piece
        if b"\n" in piece:
            *lines, rest = rest.split(b"\n")
            for line in lines:
                data = _data(line)
                if data == DONE:
                    return
                if data:
                    yield data
        if len(rest) > LIMITS.upstream_event_bytes:
            raise UpstreamFailedError(
                f"the upstream {name!r} sends an event of more than "
                f"{LIMITS.upstream_event_bytes} bytes."
            )
    raise UpstreamFailedError(f"the upstream {name!r} ended its stream before its answer.")


def _data(line: bytearray) -> bytes | None:
    if not line.startswith(b"data:"):
        return None
    return bytes(line[5:]).strip()
