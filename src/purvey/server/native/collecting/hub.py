"""`/v1/pulls` (create): files of a dataset of the hub become files here."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, Literal

from pydantic import ConfigDict, Field
from sqlalchemy import Connection
from typing_extensions import TypedDict

from purvey.contracts.ids import new_id
from purvey.contracts.limits import LIMITS
from purvey.contracts.records import FileRecord
from purvey.registry.hub.datasets import MOST_FILES, Fetched
from purvey.server.openai.files import CHUNK_BYTES, FileObject
from purvey.server.openai.files import EXAMPLE as FILE
from purvey.server.openai.files import shown as file_shown
from purvey.server.policy import Call, Caller
from purvey.server.presence import while_present
from purvey.server.routing import Routes
from purvey.server.validation import Body
from purvey.store import files

routes = Routes(tag="Datasets")
Pattern = Annotated[str, Field(min_length=1, max_length=LIMITS.file_name_chars)]


class PullRequest(Body):
    """Which files of the hub are meant."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "source": "hf://datasets/acme/letters",
                "revision": "v1",
                "files": ["data/*.parquet"],
            }
        }
    )

    source: Annotated[str, Field(min_length=1, max_length=256)] = Field(
        description="`hf://datasets/OWNER/NAME`."
    )
    revision: Annotated[str, Field(min_length=1, max_length=200)] = Field(
        "main", description="Branch, tag or commit."
    )
    files: Annotated[list[Pattern], Field(max_length=MOST_FILES)] = Field(
        [], description="Patterns of names; none means every table and zip."
    )


class PulledFiles(TypedDict):
    """Files that came from the hub, and the commit that they are of."""

    object: Literal["pull.files"]
    source: str
    revision: str
    commit: str
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
    """Fetch tables of a dataset of the hub; a dataset is then made of their ids.

    The revision is resolved to a commit, and each file is checked against the hub's digest. The
    answer comes when all are there. Only an administrator may, as the server shows its own token.
    """
    return await while_present(call.request, _pulled(call, body))


async def _pulled(call: Call, body: PullRequest) -> PulledFiles:
    found = call.services.hub_datasets.fetched(body.source, body.revision, body.files)
    records: list[FileRecord] = []
    async with found as fetched:
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
        "revision": body.revision,
        "commit": fetched.commit,
        "data": [file_shown(record) for record in records],
    }
