"""Multipart uploads: one file and a few short fields, spooled to disk within a byte budget."""

from dataclasses import dataclass

from fastapi import Request
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from purvey.contracts.limits import LIMITS
from purvey.errors import InvalidValueError
from purvey.server.request_body import capped, check_content_type

FIELDS_BYTES = 64 * 2**10
"""What a multipart body may hold beside its file."""
MAX_FIELDS = 8


@dataclass(frozen=True, kw_only=True)
class Upload:
    """A parsed upload. `file` must be closed."""

    file: UploadFile
    fields: dict[str, str]


async def read_upload(request: Request) -> Upload:
    """Read a multipart body with exactly one file part, named `file`.

    Raises:
        UnsupportedMediaTypeError: The body is not multipart, or encoded.
        RequestTooLargeError: It exceeds the limit of an upload.
        InvalidValueError: It is malformed, has no file, two files or too many fields.
    """
    check_content_type(request, "multipart/form-data")
    stream = capped(request, max_bytes=LIMITS.upload_bytes + FIELDS_BYTES)
    parser = MultiPartParser(
        request.headers, stream, max_files=1, max_fields=MAX_FIELDS, max_part_size=FIELDS_BYTES
    )
    try:
        form = await parser.parse()
    except (MultiPartException, KeyError, UnicodeDecodeError):
        raise InvalidValueError(
            f"the multipart body is malformed, or has more than one file or {MAX_FIELDS} fields."
        ) from None
    _close_unfinished(parser, form)
    try:
        return _checked(form)
    except InvalidValueError:
        await form.close()
        raise


def _close_unfinished(parser: MultiPartParser, form: FormData) -> None:
    """Close what a part without an end was spooled to; the parser forgets it."""
    finished = {id(part.file) for part in form.values() if isinstance(part, UploadFile)}
    for spooled in parser._files_to_close_on_error:
        if id(spooled) not in finished:
            spooled.close()


def _checked(form: FormData) -> Upload:
    fields: dict[str, str] = {}
    file: UploadFile | None = None
    for name, value in form.multi_items():
        if name in fields:
            raise InvalidValueError("a field is given twice.", param=name[:64])
        if isinstance(value, str):
            fields[name] = value
        elif name == "file":
            file = value
        else:
            raise InvalidValueError("the file's part must be named 'file'.", param=name[:64])
    if file is None:
        raise InvalidValueError("there is no file in the body.", param="file")
    return Upload(file=file, fields=fields)
