"""`/v1/datasets/{dataset_id}/versions`: a dataset with more rows is another dataset."""

import asyncio
from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import ConfigDict, Field
from sqlalchemy import Connection

from purvey.contracts.ids import new_id
from purvey.contracts.limits import LIMITS
from purvey.contracts.records import DatasetRecord, FileRecord, JobRecord
from purvey.errors import ConflictError, InvalidValueError, NotFoundError, StorageUnavailableError
from purvey.server.native.collecting.feedback import ModelName
from purvey.server.native.collecting.lessons import PARAM, lessons
from purvey.server.native.datasets import (
    EXAMPLE,
    MOST_FILES,
    DatasetObject,
    FileId,
    build,
    file_names,
    find,
    shown,
)
from purvey.server.paging import Listing, listing, listing_example
from purvey.server.policy import Call, Caller
from purvey.server.routing import Routes
from purvey.server.validation import Body
from purvey.store import datasets, files
from purvey.store.collecting import feedback

routes = Routes(tag="Datasets")
_MADE = {**EXAMPLE, "version": 2, "parent": "ds_6f1c9a0e5b7d4c2f8a3e1b0d9c8f7a6e"}


class VersionRequest(Body):
    """What a new version has beside the rows of its parent."""

    model_config = ConfigDict(json_schema_extra={"example": {"feedback_model": "messages"}})

    file_ids: Annotated[list[FileId], Field(max_length=MOST_FILES)] = Field(
        [], description="More files, with the parent's columns."
    )
    feedback_model: ModelName | None = Field(
        None, description="All feedback on this model that has an answer to learn."
    )


@routes.add(
    "POST",
    "/v1/datasets/{dataset_id}/versions",
    scope="datasets:write",
    returns=DatasetObject,
    example=_MADE,
    is_creating=True,
)
async def create_version(call: Caller, dataset_id: str, body: VersionRequest) -> DatasetObject:
    """Start building a new version of a dataset; the parent stays as it is.

    It is made of the parent's files and the new ones, by the parent's columns, cleaning, splits
    and seed. Feedback is a file too, from then on.
    """
    parent = await find(call, dataset_id)
    if parent.status != "ready":
        raise ConflictError(f"the dataset is {parent.status}; only one that is ready has versions.")
    if not body.file_ids and body.feedback_model is None:
        raise InvalidValueError("give more files, or feedback.", param="file_ids")
    collected = await _collected(call, parent, body.feedback_model)
    added = [*body.file_ids, *([collected.id] if collected else [])]
    if len(parent.file_ids) + len(added) > MOST_FILES:
        raise InvalidValueError(
            f"a dataset has at most {MOST_FILES} files; with the parent's these are "
            f"{len(parent.file_ids) + len(added)}.",
            param="file_ids",
        )
    await call.services.database.read(lambda conn: _check_files(conn, call, parent, body.file_ids))

    def draft(conn: Connection, job: JobRecord, new: str) -> DatasetRecord:
        family = datasets.family(conn, call.project_id, parent.id)
        _check_files(conn, call, parent, body.file_ids)
        if collected is not None:
            if not call.services.blobs.path(collected.sha256).exists():
                raise StorageUnavailableError("the feedback must be collected again.")
            files.insert(conn, collected)
        return DatasetRecord(
            id=new,
            project_id=call.project_id,
            name=parent.name,
            status="processing",
            config=job.recipe,
            file_ids=(*parent.file_ids, *added),
            job_id=job.id,
            created_at=job.created_at,
            parent=parent.id,
            family=parent.family or parent.id,
            version=max(record.version for record in family) + 1,
        )

    try:
        return await build(call, _config(parent), draft)
    except BaseException:  # the client that left included
        if collected is not None:
            await call.services.sweeper.collect_blob(collected.sha256)
        raise


@routes.add(
    "GET",
    "/v1/datasets/{dataset_id}/versions",
    scope="datasets:read",
    returns=Listing,
    example=listing_example(_MADE),
)
async def versions(call: Caller, dataset_id: str) -> Listing:
    """List all versions of a dataset that are there, oldest first; any of them may be named."""
    found = await call.services.database.read(
        lambda conn: datasets.family(conn, call.project_id, dataset_id)
    )
    return listing([shown(record) for record in found], has_more=False)


def _config(parent: DatasetRecord) -> dict[str, Any]:
    """Return the parent's config with its columns told, so that new rows do not change them."""
    columns = (parent.manifest or {}).get("columns", ())
    return parent.config | {"columns": {column["name"]: column["kind"] for column in columns}}


def _check_files(
    conn: Connection, call: Call, parent: DatasetRecord, file_ids: Sequence[str]
) -> None:
    file_names(conn, call, file_ids)
    for file_id in parent.file_ids:
        try:
            files.get(conn, call.project_id, file_id)
        except NotFoundError:
            raise ConflictError(
                f"the file {file_id!r}, which the dataset was made from, was deleted.",
                hint="Make a new dataset of all files.",
            ) from None


async def _collected(call: Call, parent: DatasetRecord, model: str | None) -> FileRecord | None:
    """Store feedback on a model as a file, whose row is yet to be written."""
    if model is None:
        return None
    most = LIMITS.feedback_rows
    given = await call.services.database.read(
        lambda conn: feedback.on_model(conn, call.project_id, model, limit=most + 1)
    )
    if len(given) > most:
        raise InvalidValueError(
            f"there are more than {most} pieces of feedback on that model: delete old ones.",
            param=PARAM,
        )
    data = await asyncio.to_thread(lessons, parent, given)
    if len(data) > LIMITS.upload_bytes:
        raise InvalidValueError(
            f"the feedback takes more than {LIMITS.upload_bytes} bytes: delete some.", param=PARAM
        )
    blob = await asyncio.to_thread(call.services.blobs.put_bytes, data)
    return FileRecord(
        id=new_id("file-"),
        project_id=call.project_id,
        name="feedback.jsonl",
        purpose="user_data",
        num_bytes=blob.num_bytes,
        sha256=blob.sha256,
        created_at=call.services.clock.now(),
    )
