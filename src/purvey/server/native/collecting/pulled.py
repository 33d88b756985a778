"""`/v1/pulls` (create): tables of the hub, or of a store of objects, become files here."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Annotated, Literal

from pydantic import ConfigDict, Field
from sqlalchemy import Connection
from typing_extensions import TypedDict

from purvey.contracts.ids import new_id
from purvey.contracts.limits import LIMITS
from purvey.contracts.records import FileRecord
from purvey.errors import InvalidValueError
from purvey.registry.hub.datasets import SCHEME as HUB_SCHEME
from purvey.registry.s3.datasets import SCHEME as S3_SCHEME
from purvey.registry.transfers import MOST_FILES, Fetched
from purvey.server.openai.files import CHUNK_BYTES, FileObject
from purvey.server.openai.files import EXAMPLE as FILE
from purvey.server.openai.files import shown as file_shown
from purvey.server.policy import Call, Caller
from purvey.server.presence import while_present
from purvey.server.routing import Routes
from purvey.server.validation import Body
from purvey.store import files

routes = Routes(tag="Datasets")
MAX_SOURCE_CHARS = 1_152
"""Of an address whose key has as many characters as a store allows bytes."""
DEFAULT_REVISION = "main"
Pattern = Annotated[str, Field(min_length=1, max_length=LIMITS.file_name_chars)]


class PullRequest(Body):
    """Which files of the hub, or of a store, are meant."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "source": "hf://datasets/acme/letters",
                "revision": "v1",
                "files": ["data/*.parquet"],
            }
        }
    )

    source: Annotated[str, Field(min_length=1, max_length=MAX_SOURCE_CHARS)] = Field(
        description="`hf://datasets/OWNER/NAME`, `s3://BUCKET/KEY` of one object, or "
        "`s3://BUCKET/FOLDER`."
    )
    revision: Annotated[str, Field(min_length=1, max_length=200)] | None = Field(
        None, description="Branch, tag or commit of the hub, `main` unless given; a store has none."
    )
    files: Annotated[list[Pattern], Field(max_length=MOST_FILES)] = Field(
        [],
        description="Patterns of names, of a store of what follows the folder; none means every "
        "table and zip.",
    )


class PulledFiles(TypedDict):
    """Files that came, and the commit of the hub that they are of."""

    object: Literal["pull.files"]
    source: str
    revision: str | None
    commit: str | None
    data: list[FileObject]


@routes.add(
    "POST",
    "/v1/pulls",
    scope="admin",
    returns=PulledFiles,
    example={
        "object": "pull.files",
        "source": "hf://datasets/acme/letters",
        "revision": "v1",
        "commit": "0123456789abcdef0123456789abcdef01234567",
        "data": [FILE],
    },
    is_creating=True,
)
async def pull(call: Caller, body: PullRequest) -> PulledFiles:
    """Fetch tables of a dataset of the hub, or of a store; a dataset is then made of their ids.

    A revision of the hub is resolved to a commit, and each file is checked against the hub's
    digest. An object of a store that speaks S3 is fetched as it was when it was looked up, and
    checked against its SHA-256, SHA-1, CRC-32 or MD5 where the store tells one of the whole, else
    by its size. The answer comes when all are there; `GET /v1/pulls` says how far it is, and what
    a request that is given up has fetched is kept for the next one. Only an administrator may, as
    the server shows its own token or keys.
    """
    return await while_present(call.request, _pulled(call, body))


async def _pulled(call: Call, body: PullRequest) -> PulledFiles:
    records: list[FileRecord] = []
    async with _fetched(call, body) as fetched:
        try:
            for name, path in fetched.files.items():
                records.append(await _stored(call, name, path))
            answer = _shown(body, fetched, records)
            await call.services.database.write(lambda conn: _keep(conn, call, records, answer))
        except BaseException:  # the client that left included
            for record in records:
                await call.services.sweeper.collect_blob(record.sha256)
            raise
    return answer


def _fetched(call: Call, body: PullRequest) -> AbstractAsyncContextManager[Fetched]:
    if body.source.startswith(HUB_SCHEME):
        revision = body.revision or DEFAULT_REVISION
        return call.services.hub_datasets.fetched(body.source, revision, body.files)
    if not body.source.startswith(S3_SCHEME):
        raise InvalidValueError(
            f"tables are pulled from {HUB_SCHEME}OWNER/NAME or {S3_SCHEME}BUCKET/KEY.",
            param="source",
        )
    if body.revision is not None:
        raise InvalidValueError("a store has no revisions: leave it out.", param="revision")
    return call.services.s3_datasets.fetched(body.source, body.files)


def _keep(conn: Connection, call: Call, records: list[FileRecord], answer: PulledFiles) -> None:
    for record in records:
        files.insert(conn, record)
    call.once.keep(conn, answer, subject=records[0].id)


async def _stored(call: Call, name: str, path: Path) -> FileRecord:
    blob = await call.services.blobs.put(_chunks(path), max_bytes=LIMITS.upload_bytes)
    return FileRecord(
        id=new_id("file-"),
        project_id=call.project_id,
        name=name.replace("/", "-")[-LIMITS.file_name_chars :],
        purpose="user_data",
        num_bytes=blob.num_bytes,
        sha256=blob.sha256,
        created_at=call.services.clock.now(),
    )


async def _chunks(path: Path) -> AsyncIterator[bytes]:
    with path.open("rb") as stream:
        while chunk := await asyncio.to_thread(stream.read, CHUNK_BYTES):
            yield chunk


def _shown(body: PullRequest, fetched: Fetched, records: list[FileRecord]) -> PulledFiles:
    return {
        "object": "pull.files",
        "source": body.source,
        "revision": body.revision or (fetched.commit and DEFAULT_REVISION),
        "commit": fetched.commit,
        "data": [file_shown(record) for record in records],
    }
