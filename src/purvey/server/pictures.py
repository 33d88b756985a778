"""Images in requests: data URLs, file ids and addresses, decoded strictly, never opened here."""

import asyncio
import base64
import binascii
import re

from purvey.contracts.limits import LIMITS
from purvey.errors import InvalidValueError, RequestTooLargeError
from purvey.server.openai import files
from purvey.server.policy import Call
from purvey.server.validation import at_param

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")


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
    if given.startswith("data:"):
        data = _decoded(given, param)
    elif given.startswith("file-"):
        data = await _uploaded(call, given, param)
    elif _SCHEME.match(given):
        data = await _fetched(call, given, param)
    else:
        raise InvalidValueError(
            "an image is a base64 data URL, the id of an uploaded file, or an https:// address.",
            param=param,
        )
    if len(data) > LIMITS.image_bytes:
        raise _too_large(param)
    return data


def _decoded(url: str, param: str) -> bytes:
    head, comma, body = url.partition(",")
    if not comma or not head.startswith("data:image/") or not head.endswith(";base64"):
        raise InvalidValueError("the data URL must read 'data:image/...;base64,...'.", param=param)
    if len(body) > LIMITS.image_bytes * 4 // 3 + 4:
        raise _too_large(param)
    try:
        return base64.b64decode(body, validate=True)
    except (binascii.Error, ValueError):
        raise InvalidValueError("the data URL holds no valid base64.", param=param) from None


async def _uploaded(call: Call, file_id: str, param: str) -> bytes:
    with at_param(param):
        record = await files.find(call, file_id)
    if record.num_bytes > LIMITS.image_bytes:
        raise _too_large(param)
    path = await files.stored(call, record, param=param)
    try:
        return await asyncio.to_thread(path.read_bytes)
    except FileNotFoundError:  # deleted a moment ago
        raise files.gone(file_id, param=param) from None


async def _fetched(call: Call, url: str, param: str) -> bytes:
    state = call.request.state
    state.num_urls = getattr(state, "num_urls", 0) + 1
    if state.num_urls > LIMITS.request_urls:
        raise InvalidValueError(
            f"a request may give {LIMITS.request_urls} addresses.",
            param=param,
            hint="Upload the images as files, or send several requests.",
        )
    return await call.services.outbound.fetch(url, param=param, max_bytes=LIMITS.image_bytes)


def _too_large(param: str) -> RequestTooLargeError:
    return RequestTooLargeError(f"an image may have {LIMITS.image_bytes} bytes.", param=param)
