"""Multipart uploads: one file and a few short fields, spooled to disk within a byte budget."""

import asyncio
from collections.abc import AsyncGenerator, Collection
from dataclasses import dataclass, field

from fastapi import Request
from python_multipart.multipart import parse_options_header
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from purvey.errors import InvalidValueError, ReadTimeoutError, UnsupportedMediaTypeError
from purvey.server.request_body import capped, check_content_type
from purvey.store.failures import storage_error

FIELDS_BYTES = 64 * 2**10
"""What a multipart body may hold beside its file."""
MAX_FIELDS = 8
IDLE_TIMEOUT_S = 60.0
"""How long nothing may arrive of an upload; the whole of it may take any time."""


@dataclass(frozen=True, kw_only=True)
class Upload:
    """A parsed upload. `file` must be closed.

    `lists` holds the fields that may be given several times, each with all of its values.
    """

    file: UploadFile
    fields: dict[str, str]
    lists: dict[str, list[str]] = field(default_factory=dict)


async def read_upload(
    request: Request,
    *,
    max_bytes: int,
    max_fields: int = MAX_FIELDS,
    repeated: Collection[str] = (),
) -> Upload:
    """Read a multipart body with exactly one file part, named `file`.

    Args:
        request: The request.
        max_bytes: Of the file.
        max_fields: Beside the file.
        repeated: Fields that may be given several times.

    Raises:
        UnsupportedMediaTypeError: The body is not multipart, or encoded, or not UTF-8.
        RequestTooLargeError: It exceeds the limit of an upload.
        ReadTimeoutError: The client sends nothing any more.
        InsufficientStorageError: The disk that it is spooled to is full.
        InvalidValueError: It is malformed, has no file, two files or too many fields.
    """
    _check_charset(check_content_type(request, "multipart/form-data"))
    stream = _flowing(capped(request, max_bytes=max_bytes + FIELDS_BYTES))
    parser = MultiPartParser(
        request.headers, stream, max_files=1, max_fields=max_fields, max_part_size=FIELDS_BYTES
    )
    try:
        form = await parser.parse()
    except (MultiPartException, KeyError, UnicodeDecodeError):
        raise InvalidValueError(
            f"the multipart body is malformed, or has more than one file or {max_fields} fields."
        ) from None
    except OSError as error:
        raise storage_error(error) from error
    _close_unfinished(parser, form)
    try:
        return _checked(form, repeated)
    except InvalidValueError:
        await form.close()
        raise


def _check_charset(content_type: str) -> None:
    """Refuse codecs that the parser would look up by name: some decode to no valid text."""
    charset = parse_options_header(content_type)[1].get(b"charset", b"utf-8")
    if charset.lower() not in {b"utf-8", b"utf8"}:
        raise UnsupportedMediaTypeError("the charset of a multipart body must be UTF-8.")


async def _flowing(stream: AsyncGenerator[bytes]) -> AsyncGenerator[bytes]:
    while True:
        try:
            async with asyncio.timeout(IDLE_TIMEOUT_S):
                chunk = await anext(stream, None)
        except TimeoutError:
            raise ReadTimeoutError(
                f"nothing of the upload arrived for {IDLE_TIMEOUT_S:g} s."
            ) from None
        if chunk is None:
            return
        yield chunk


def _close_unfinished(parser: MultiPartParser, form: FormData) -> None:
    """Close what a part without an end was spooled to; the parser forgets it."""
    finished = {id(part.file) for part in form.values() if isinstance(part, UploadFile)}
    for spooled in parser._files_to_close_on_error:
        if id(spooled) not in finished:
            spooled.close()


def _checked(form: FormData, repeated: Collection[str]) -> Upload:
    fields: dict[str, str] = {}
    lists: dict[str, list[str]] = {}
    file: UploadFile | None = None
    for name, value in form.multi_items():
        if name in fields:
            raise InvalidValueError("a field is given twice.", param=name[:64])
        if isinstance(value, str) and name in repeated:
            lists.setdefault(name, []).append(value)
        elif isinstance(value, str):
            fields[name] = value
        elif name == "file":
            file = value
        else:
            raise InvalidValueError("the file's part must be named 'file'.", param=name[:64])
    if file is None:
        raise InvalidValueError("there is no file in the body.", param="file")
    return Upload(file=file, fields=fields, lists=lists)
