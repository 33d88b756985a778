"""Images and recordings in requests: data URLs, file ids and addresses, never opened here."""

import asyncio
import base64
import binascii
import re
from dataclasses import dataclass
from typing import Literal

from purvey.contracts.limits import LIMITS
from purvey.errors import InvalidValueError, RequestTooLargeError
from purvey.server.openai import files
from purvey.server.policy import Call
from purvey.server.validation import at_param

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")


@dataclass(frozen=True, kw_only=True)
class _Medium:
    kind: Literal["image", "audio"]
    what: str
    most_bytes: int


_IMAGE = _Medium(kind="image", what="an image", most_bytes=LIMITS.image_bytes)
_AUDIO = _Medium(kind="audio", what="a recording", most_bytes=LIMITS.audio_bytes)


async def picture(call: Call, given: str, *, param: str) -> bytes:
    """Return the encoded bytes of an image.

    Args:
        call: Who asks; a file must be their project's.
        given: `data:image/...;base64,...`, the id of an uploaded file, or an `https://` address
            of a host that the operator allows.
        param: The field, for errors.

    Raises:
        InvalidValueError: None of these forms, or not base64.
        UrlNotAllowedError: An address that is not fetched from.
        UpstreamNotAllowedError: An address that did not serve it.
        NotFoundError: No such file, or another project's.
        IntegrityError: The file's bytes are gone or changed.
        RequestTooLargeError: More bytes than an image may have.
        CapacityError: As many addresses are being fetched as may be.
    """
    return await _read(call, given, _IMAGE, param)


async def recording(call: Call, given: str, *, param: str) -> bytes:
    """Return the encoded bytes of a recording, given as for `picture`; raises what that does."""
    return await _read(call, given, _AUDIO, param)


async def _read(call: Call, given: str, medium: _Medium, param: str) -> bytes:
    if given.startswith("data:"):
        data = _decoded(given, medium, param)
    elif given.startswith("file-"):
        data = await _uploaded(call, given, medium, param)
    elif _SCHEME.match(given):
        data = await _fetched(call, given, medium, param)
    else:
        raise InvalidValueError(
            f"{medium.what} is a base64 data URL, the id of an uploaded file, or an https:// "
            "address.",
            param=param,
        )
    if len(data) > medium.most_bytes:
        raise _too_large(medium, param)
    return data


def _decoded(url: str, medium: _Medium, param: str) -> bytes:
    head, comma, body = url.partition(",")
    if not comma or not head.startswith(f"data:{medium.kind}/") or not head.endswith(";base64"):
        raise InvalidValueError(
            f"the data URL must read 'data:{medium.kind}/...;base64,...'.", param=param
        )
    if len(body) > medium.most_bytes * 4 // 3 + 4:
        raise _too_large(medium, param)
    try:
        return base64.b64decode(body, validate=True)
    except (binascii.Error, ValueError):
        raise InvalidValueError("the data URL holds no valid base64.", param=param) from None


async def _uploaded(call: Call, file_id: str, medium: _Medium, param: str) -> bytes:
    with at_param(param):
        record = await files.find(call, file_id)
    if record.num_bytes > medium.most_bytes:
        raise _too_large(medium, param)
    path = await files.stored(call, record, param=param)
    try:
        return await asyncio.to_thread(path.read_bytes)
    except FileNotFoundError:  # deleted a moment ago
        raise files.gone(file_id, param=param) from None


async def _fetched(call: Call, url: str, medium: _Medium, param: str) -> bytes:
    state = call.request.state
    state.num_urls = getattr(state, "num_urls", 0) + 1
    if state.num_urls > LIMITS.request_urls:
        raise InvalidValueError(
            f"a request may give {LIMITS.request_urls} addresses.",
            param=param,
            hint="Upload what they serve as files, or send several requests.",
        )
    return await call.services.outbound.fetch(url, param=param, max_bytes=medium.most_bytes)


def _too_large(medium: _Medium, param: str) -> RequestTooLargeError:
    return RequestTooLargeError(f"{medium.what} may have {medium.most_bytes} bytes.", param=param)
