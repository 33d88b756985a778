"""`/v1/files`: bytes with a name and a purpose."""

import asyncio
import hashlib
import unicodedata
from collections.abc import AsyncIterator, Callable
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal
from urllib.parse import quote

from fastapi import Query, Request, Response
from pydantic import Field
from sqlalchemy import Connection
from starlette.datastructures import UploadFile
from starlette.responses import FileResponse
from starlette.types import Receive, Scope, Send
from typing_extensions import TypedDict

from purvey import failpoints
from purvey.contracts.ids import new_id
from purvey.contracts.limits import LIMITS
from purvey.contracts.records import FileRecord
from purvey.errors import (
    IntegrityError,
    InUseError,
    InvalidValueError,
    StorageUnavailableError,
)
from purvey.server.paging import Listing, PageQuery, listing, listing_example
from purvey.server.policy import Call, Caller
from purvey.server.presence import while_present
from purvey.server.routing import Routes
from purvey.server.uploads import Upload, read_upload
from purvey.server.validation import Body, validate
from purvey.store import files
from purvey.telemetry import alarms

Purpose = Literal["fine-tune", "assistants", "batch", "vision", "user_data", "evals"]
CHUNK_BYTES = 2**20

routes = Routes(tag="Files")


class FileObject(TypedDict):
    """A file, as OpenAI shows it."""

    id: str
    object: Literal["file"]
    bytes: int
    created_at: int
    expires_at: int | None
    filename: str
    purpose: str
    status: Literal["processed"]
    status_details: str | None


class DeletedFile(TypedDict):
    """Word that a file is gone."""

    id: str
    object: Literal["file"]
    deleted: bool


class FileFields(Body):
    """The fields beside the file."""

    purpose: Purpose


class FilesQuery(PageQuery):
    """Which page of files, of which purpose."""

    purpose: Annotated[str, Field(max_length=64)] | None = Field(None, description="Only these.")


EXAMPLE = {
    "id": "file-6f1c9a0e5b7d4c2f8a3e1b0d9c8f7a6e",
    "object": "file",
    "bytes": 1840,
    "created_at": 1795467000,
    "expires_at": None,
    "filename": "questions.jsonl",
    "purpose": "fine-tune",
    "status": "processed",
    "status_details": None,
}
_FORM = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file", "purpose"],
                    "properties": {
                        "file": {"type": "string", "format": "binary"},
                        "purpose": {"type": "string", "enum": list(Purpose.__args__)},  # type: ignore[attr-defined]  # a Literal has it
                    },
                },
                "example": {"file": "(the bytes of questions.jsonl)", "purpose": "fine-tune"},
            }
        },
    }
}


@routes.add(
    "POST",
    "/v1/files",
    scope="files:write",
    returns=FileObject,
    example=EXAMPLE,
    extra=_FORM,
    is_creating=True,
)
async def create(call: Caller) -> FileObject | Response:
    """Upload a file.

    The body is `multipart/form-data` with the parts `file` and `purpose`. The answer comes
    after the bytes are on disk.
    """
    upload = await read_upload(call.request, max_bytes=LIMITS.upload_bytes)
    try:
        failpoints.reach("upload.received")
        fields = validate(FileFields, upload.fields)
        name = _file_name(upload)
        earlier = await _earlier(call, upload, name, fields.purpose)
        if earlier is not None:
            return earlier
        blob = await call.services.blobs.put(_chunks(upload.file), max_bytes=LIMITS.upload_bytes)
    finally:
        await upload.file.close()
    record = FileRecord(
        id=new_id("file-"),
        project_id=call.project_id,
        name=name,
        purpose=fields.purpose,
        num_bytes=blob.num_bytes,
        sha256=blob.sha256,
        created_at=call.services.clock.now(),
    )
    await store(
        call,
        record,
        beside=lambda conn: _kept(conn, call, record),
    )
    failpoints.reach("file.committed")
    return shown(record)


def _kept(conn: Connection, call: Call, record: FileRecord) -> None:
    call.once.keep(conn, shown(record), subject=record.id)
    failpoints.reach("file.created")


@routes.add(
    "GET", "/v1/files", scope="files:read", returns=Listing, example=listing_example(EXAMPLE)
)
async def index(call: Caller, query: Annotated[FilesQuery, Query()]) -> Listing:
    """List files, newest first."""
    page = await call.services.database.read(
        lambda conn: files.page(
            conn,
            call.project_id,
            after=query.after,
            limit=query.limit,
            order=query.order,
            purpose=query.purpose,
        )
    )
    return listing([shown(record) for record in page.items], has_more=page.has_more)


@routes.add("GET", "/v1/files/{file_id}", scope="files:read", returns=FileObject, example=EXAMPLE)
async def retrieve(call: Caller, file_id: str) -> FileObject:
    """Show a file's record."""
    return shown(await find(call, file_id))


@routes.add(
    "DELETE",
    "/v1/files/{file_id}",
    scope="files:write",
    returns=DeletedFile,
    example={"id": EXAMPLE["id"], "object": "file", "deleted": True},
)
async def delete(call: Caller, file_id: str) -> DeletedFile:
    """Delete a file; 409 while an unfinished job needs it."""
    await remove(call, await find(call, file_id))
    return {"id": file_id, "object": "file", "deleted": True}


@routes.add(
    "GET",
    "/v1/files/{file_id}/content",
    scope="files:read",
    returns=None,
    media="application/octet-stream",
    example="(the bytes of questions.jsonl)",
)
async def content(call: Caller, file_id: str) -> FileResponse:
    """Download a file's bytes, always as an attachment."""
    record = await find(call, file_id)
    path = await stored(call, record)
    try:
        status = await asyncio.to_thread(path.stat)
    except FileNotFoundError:
        raise gone(file_id) from None
    return Attachment(
        path,
        stat_result=status,
        media_type="application/octet-stream",
        headers={"content-disposition": disposition(record.name), "accept-ranges": "none"},
    )


class Attachment(FileResponse):
    """A whole file. Ranges are not served: a request for one gets everything."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the file.

        Raises:
            ClientDisconnect: The client left; no more of the file is read.
        """
        headers = [h for h in scope["headers"] if h[0] not in {b"range", b"if-range"}]
        sending = super().__call__({**scope, "headers": headers}, receive, send)
        await while_present(Request(scope, receive), sending)


async def find(call: Call, file_id: str) -> FileRecord:
    """Return a file of the caller's project.

    Raises:
        NotFoundError: No such file, or another project's.
    """
    return await call.services.database.read(lambda conn: files.get(conn, call.project_id, file_id))


def gone(file_id: str, *, param: str | None = None) -> IntegrityError:
    """Return the error of a file whose row is there and whose bytes are not."""
    return IntegrityError(
        f"the bytes of file {file_id!r} are gone, or are not the ones that were uploaded.",
        param=param,
        hint="Upload it again.",
    )


async def stored(call: Call, record: FileRecord, *, param: str | None = None) -> Path:
    """Return where a file's bytes lie, having read and compared them all.

    Raises:
        IntegrityError: They are gone, or are not the ones that were uploaded.
    """
    try:
        return await asyncio.to_thread(call.services.blobs.intact, record.sha256)
    except IntegrityError as error:
        alarms.integrity_failed("file", file_id=record.id)
        raise gone(record.id, param=param) from error


async def store(
    call: Call, record: FileRecord, *, beside: Callable[[Connection], None] | None = None
) -> None:
    """Add the row of a stored blob; the blob goes when that fails.

    Args:
        call: On whose behalf.
        record: The row.
        beside: What else belongs into its transaction.

    Raises:
        StorageUnavailableError: The blob was collected a moment ago; another try stores it anew.
    """
    path = call.services.blobs.path(record.sha256)

    def insert(conn: Connection) -> None:
        if not path.exists():
            raise StorageUnavailableError("the file must be sent again.")
        files.insert(conn, record)
        if beside is not None:
            beside(conn)

    try:
        await call.services.database.write(insert)
    except BaseException:  # the client that left included
        await call.services.sweeper.collect_blob(record.sha256)
        raise


async def remove(call: Call, record: FileRecord) -> None:
    """Delete a file's row, then its bytes if no other row has the same.

    Raises:
        NotFoundError: It is gone already.
        InUseError: An unfinished job needs it.
    """

    def delete_row(conn: Connection) -> None:
        needed_by = files.references(conn, record.project_id, record.id)
        if needed_by:
            raise InUseError(
                f"file {record.id!r} is needed by {needed_by[0]!r}.",
                hint="Cancel that job, or delete the dataset that it makes, first.",
            )
        files.delete(conn, record.project_id, record.id)

    await call.services.database.write(delete_row)
    await call.services.sweeper.collect_blob(record.sha256)


def shown(record: FileRecord) -> FileObject:
    """Show a record in OpenAI's shape."""
    return {
        "id": record.id,
        "object": "file",
        "bytes": record.num_bytes,
        "created_at": int(record.created_at),
        "expires_at": None,
        "filename": record.name,
        "purpose": record.purpose,
        "status": "processed",
        "status_details": None,
    }


def disposition(name: str) -> str:
    """Name an attachment so that no character of the name can end the header (RFC 6266)."""
    plain = "".join(c if c.isascii() and c.isprintable() and c not in '"\\%' else "_" for c in name)
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='')}"


async def _earlier(call: Call, upload: Upload, name: str, purpose: str) -> Response | None:
    """Look for the answer of the same upload, by its key; the bytes are hashed for that alone."""
    if not call.once.is_asked:
        return None
    sha256 = await asyncio.to_thread(_sha256_of, upload)
    return await call.once.earlier({"purpose": purpose, "name": name, "sha256": sha256})


def _sha256_of(upload: Upload) -> str:
    sha256, spooled = hashlib.sha256(), upload.file.file
    while chunk := spooled.read(CHUNK_BYTES):
        sha256.update(chunk)
    spooled.seek(0)
    return sha256.hexdigest()


def _file_name(upload: Upload) -> str:
    name = PurePosixPath((upload.file.filename or "").replace("\\", "/")).name or "file"
    if any(unicodedata.category(character) == "Cc" for character in name):
        raise InvalidValueError("the file's name holds a control character.", param="file")
    if len(name) > LIMITS.file_name_chars:
        raise InvalidValueError(
            f"the file's name is longer than {LIMITS.file_name_chars} characters.", param="file"
        )
    return name


async def _chunks(file: UploadFile) -> AsyncIterator[bytes]:
    while chunk := await file.read(CHUNK_BYTES):
        yield chunk
