"""Images in requests: data URLs and file ids, decoded strictly, never opened here."""

import asyncio
import base64
import binascii

from purvey.contracts.limits import LIMITS
from purvey.errors import InvalidValueError, RequestTooLargeError
from purvey.server.openai import files
from purvey.server.policy import Call
from purvey.server.validation import at_param


async def picture(call: Call, given: str, *, param: str) -> bytes:
    """Return the encoded bytes of an image.

    Args:
        call: Who asks; a file must be their project's.
        given: `data:image/...;base64,...` or the id of an uploaded file.
        param: The field, for errors.

    Raises:
        InvalidValueError: Neither form, or not base64.
        NotFoundError: No such file, or another project's.
        IntegrityError: The file's bytes are gone.
        RequestTooLargeError: More bytes than an image may have.
    """
    if given.startswith("data:"):
        data = _decoded(given, param)
    elif given.startswith("file-"):
        data = await _uploaded(call, given, param)
    else:
        raise InvalidValueError(
            "an image is a base64 data URL or the id of an uploaded file.", param=param
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
    try:
        return await asyncio.to_thread(call.services.blobs.path(record.sha256).read_bytes)
    except FileNotFoundError:
        raise files.gone(file_id, param=param) from None


def _too_large(param: str) -> RequestTooLargeError:
    return RequestTooLargeError(f"an image may have {LIMITS.image_bytes} bytes.", param=param)
