"""`/v1/datasets`: files become a typed, cleaned, split, profiled table."""

import asyncio
from contextlib import suppress
from typing import Annotated, Any, Literal

import msgspec
from fastapi import Query
from pydantic import ConfigDict, Field
from sqlalchemy import Connection
from typing_extensions import TypedDict

from purvey.contracts.data import SPLITS, ColumnKind, DatasetConfig, SplitConfig
from purvey.contracts.ids import new_id
from purvey.contracts.limits import LIMITS
from purvey.contracts.records import DatasetRecord, JobRecord
from purvey.errors import (
    ConflictError,
    IntegrityError,
    InUseError,
    InvalidValueError,
    NotFoundError,
)
from purvey.server.answers import digest_of
from purvey.server.job_routes import cancel
from purvey.server.paging import Listing, PageAsked, listing, listing_example
from purvey.server.policy import Call, Caller
from purvey.server.routing import Routes
from purvey.server.validation import Body, Question, at_param
from purvey.store import datasets, files
from purvey.store.artifacts import Artifacts
from purvey.telemetry import alarms

routes = Routes(tag="Datasets")
PREVIEW_NAME = "preview.json"
ColumnName = Annotated[str, Field(min_length=1, max_length=128)]
FileId = Annotated[str, Field(min_length=1, max_length=64)]


class Splits(Body):
    """How rows are divided."""

    validation: Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)] = 0.1
    test: Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)] = 0.1
    stratify: bool = Field(True, description="Keep each label's share in every split.")


class DatasetRequest(Body):
    """A dataset as asked for."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "name": "messages",
                "file_ids": ["file-6f1c9a0e5b7d4c2f8a3e1b0d9c8f7a6e"],
                "columns": {"text": "text", "label": "label"},
            }
        }
    )

    file_ids: Annotated[list[FileId], Field(min_length=1, max_length=64)]
    name: Annotated[str, Field(min_length=1, max_length=128)] | None = None
    format: Literal[
        "auto", "csv", "tsv", "jsonl", "parquet", "text", "image_folders", "audio_folders"
    ] = "auto"
    columns: (
        Annotated[dict[ColumnName, ColumnKind], Field(max_length=LIMITS.dataset_columns)] | None
    ) = Field(None, description="Kind by column name; inferred unless given.")
    deduplicate: bool = True
    splits: Splits | None = None
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0


class DatasetObject(TypedDict):
    """A dataset version."""

    id: str
    object: Literal["dataset"]
    name: str
    status: Literal["processing", "ready", "failed"]
    created_at: float
    file_ids: list[str]
    config: dict[str, Any]
    columns: list[dict[str, str]]
    labels: list[str]
    splits: dict[str, int]
    profile: dict[str, Any]
    digest: str | None
    job_id: str
    error: dict[str, Any] | None


class DeletedDataset(TypedDict):
    """Word that a dataset is gone."""

    id: str
    object: Literal["dataset"]
    deleted: bool


class RowsQuery(Question):
    """Which rows are shown."""

    split: Literal["train", "validation", "test"] = "train"
    limit: Annotated[int, Field(ge=1, le=100)] = Field(20, description="Rows at most.")


EXAMPLE: dict[str, Any] = {  # JSON values
    "id": "ds_0d9c8f7a6e6f1c9a0e5b7d4c2f8a3e1b",
    "object": "dataset",
    "name": "messages",
    "status": "ready",
    "created_at": 1795467000.0,
    "file_ids": ["file-6f1c9a0e5b7d4c2f8a3e1b0d9c8f7a6e"],
    "config": {"format": "auto", "columns": {}, "deduplicate": True, "seed": 0},
    "columns": [{"name": "text", "kind": "text"}, {"name": "label", "kind": "label"}],
    "labels": ["billing", "delivery"],
    "splits": {"train": 320, "validation": 40, "test": 40},
    "profile": {"duplicates_removed": 0},
    "digest": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    "job_id": "job_6f1c9a0e5b7d4c2f8a3e1b0d9c8f7a6e",
    "error": None,
}


@routes.add(
    "POST",
    "/v1/datasets",
    scope="datasets:write",
    returns=DatasetObject,
    example=EXAMPLE,
    is_creating=True,
)
async def create(call: Caller, body: DatasetRequest) -> DatasetObject:
    """Start building a dataset from uploaded files; it is `ready` or `failed` soon after."""
    config = _config(body)
    names = await call.services.database.read(lambda conn: _file_names(conn, call, body.file_ids))
    dataset_id = new_id("ds_")
    made: list[DatasetRecord] = []

    def beside(conn: Connection, job: JobRecord) -> None:
        _file_names(conn, call, body.file_ids)  # again: one may have been deleted meanwhile
        made.append(
            DatasetRecord(
                id=dataset_id,
                project_id=call.project_id,
                name=body.name or names[0],
                status="processing",
                config=job.recipe,
                file_ids=tuple(body.file_ids),
                job_id=job.id,
                created_at=job.created_at,
            )
        )
        datasets.insert(conn, made[-1])
        call.once.keep(conn, shown(made[-1]), subject=dataset_id)

    await call.services.jobs.create(
        project_id=call.project_id,
        key_id=call.principal.key_id,
        api="dataset",
        kind="dataset",
        recipe=config,
        recipe_digest=digest_of(config),
        seed=body.seed,
        dataset_id=dataset_id,
        beside=beside,
    )
    return shown(made[-1])


@routes.add(
    "GET", "/v1/datasets", scope="datasets:read", returns=Listing, example=listing_example(EXAMPLE)
)
async def index(call: Caller, query: PageAsked) -> Listing:
    """List datasets, newest first."""
    page = await call.services.database.read(
        lambda conn: datasets.page(
            conn, call.project_id, after=query.after, limit=query.limit, order=query.order
        )
    )
    return listing([shown(record) for record in page.items], has_more=page.has_more)


@routes.add(
    "GET",
    "/v1/datasets/{dataset_id}",
    scope="datasets:read",
    returns=DatasetObject,
    example=EXAMPLE,
)
async def retrieve(call: Caller, dataset_id: str) -> DatasetObject:
    """Show a dataset with its columns, splits and profile."""
    return shown(await _find(call, dataset_id))


@routes.add(
    "GET",
    "/v1/datasets/{dataset_id}/rows",
    scope="datasets:read",
    returns=None,
    example={"object": "list", "data": [{"text": "Where is my parcel?", "label": "delivery"}]},
)
async def rows(
    call: Caller, dataset_id: str, query: Annotated[RowsQuery, Query()]
) -> dict[str, Any]:
    """Show the first rows of a split."""
    record = await _find(call, dataset_id)
    if record.artifact is None:
        raise ConflictError(f"the dataset is {record.status}; it has no rows to show.")
    try:
        preview = await asyncio.to_thread(_preview, call.services.artifacts, record.artifact)
    except IntegrityError:
        alarms.integrity_failed("dataset", dataset_id=record.id)
        raise
    return {"object": "list", "data": preview.get(query.split, [])[: query.limit]}


@routes.add(
    "DELETE",
    "/v1/datasets/{dataset_id}",
    scope="datasets:write",
    returns=DeletedDataset,
    example={"id": EXAMPLE["id"], "object": "dataset", "deleted": True},
)
async def delete(call: Caller, dataset_id: str) -> DeletedDataset:
    """Delete a dataset; one in the making is given up. 409 while an unfinished job reads it."""
    record = await _find(call, dataset_id)
    if record.status == "processing":
        with suppress(ConflictError):  # the job has ended meanwhile
            await cancel(call, record.job_id)

    def work(conn: Connection) -> DatasetRecord:
        found = datasets.get(conn, call.project_id, dataset_id)
        unfinished = datasets.references(conn, call.project_id, dataset_id)
        if needed_by := [job_id for job_id in unfinished if job_id != record.job_id]:
            raise InUseError(
                f"dataset {dataset_id!r} is needed by {needed_by[0]!r}.",
                hint="Cancel that job first.",
            )
        datasets.delete(conn, call.project_id, dataset_id)
        return found

    deleted = await call.services.database.write(work)
    if deleted.artifact is not None:
        await call.services.sweeper.collect_artifact(deleted.artifact)
    return {"id": dataset_id, "object": "dataset", "deleted": True}


def shown(record: DatasetRecord) -> DatasetObject:
    """Show a dataset's record."""
    manifest = record.manifest or {}
    made = manifest.get("rows", {})
    return {
        "id": record.id,
        "object": "dataset",
        "name": record.name,
        "status": record.status,
        "created_at": record.created_at,
        "file_ids": list(record.file_ids),
        "config": record.config,
        "columns": list(manifest.get("columns", ())),
        "labels": list(manifest.get("labels", ())),
        "splits": {split: made[split] for split in SPLITS if split in made},
        "profile": manifest.get("profile", {}),
        "digest": manifest.get("digest"),
        "job_id": record.job_id,
        "error": record.error,
    }


def _preview(artifacts: Artifacts, digest: str) -> dict[str, list[Any]]:
    """Read the first rows of every split.

    Raises:
        IntegrityError: They are gone from the disk, or not what was stored.
    """
    try:
        text = artifacts.read(digest, PREVIEW_NAME)
        return msgspec.json.decode(text, type=dict[str, list[Any]])
    except (NotFoundError, IntegrityError, ValueError) as error:
        raise IntegrityError(
            "the stored rows of the dataset are gone, or are not what was written.",
            hint="Build it again.",
        ) from error


async def _find(call: Call, dataset_id: str) -> DatasetRecord:
    return await call.services.database.read(
        lambda conn: datasets.get(conn, call.project_id, dataset_id)
    )


def _file_names(conn: Connection, call: Call, file_ids: list[str]) -> list[str]:
    names: list[str] = []
    for number, file_id in enumerate(file_ids):
        with at_param(f"file_ids.{number}"):
            names.append(files.get(conn, call.project_id, file_id).name)
    return names


def _config(body: DatasetRequest) -> dict[str, Any]:
    splits = body.splits or Splits()
    if splits.validation + splits.test >= 1:
        raise InvalidValueError(
            "validation and test together leave no rows to train on.", param="splits"
        )
    config = DatasetConfig(
        format=body.format,
        columns=body.columns or {},
        deduplicate=body.deduplicate,
        splits=SplitConfig(
            validation=splits.validation, test=splits.test, stratify=splits.stratify
        ),
        seed=body.seed,
    )
    return config.model_dump(mode="json")
