"""`/v1/datasets`: files become a typed, cleaned, split, profiled table."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field
from sqlalchemy import Connection
from typing_extensions import TypedDict

from purvey.contracts.data import (
    SPLITS,
    ColumnKind,
    ColumnName,
    DatasetConfig,
    resolved_splits,
)
from purvey.contracts.ids import new_id
from purvey.contracts.limits import LIMITS
from purvey.contracts.records import DatasetRecord, JobRecord
from purvey.errors import ConflictError, InUseError
from purvey.server.answers import digest_of
from purvey.server.job_routes import cancel
from purvey.server.paging import Listing, PageAsked, listing, listing_example
from purvey.server.policy import Call, Caller
from purvey.server.routing import Routes
from purvey.server.validation import Body, at_param
from purvey.store import datasets, files

routes = Routes(tag="Datasets")
FileId = Annotated[str, Field(min_length=1, max_length=64)]
MOST_FILES = 64


class Splits(Body):
    """How rows are divided."""

    validation: Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)] = 0.1
    test: Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)] = 0.1
    stratify: bool | None = Field(
        None, description="Keep each label's share in every split; unsaid, unless by time."
    )
    group: ColumnName | None = Field(
        None, description="Column of the files whose equal values are on one side."
    )
    time: ColumnName | None = Field(
        None, description="Column of the files whose latest rows are the test."
    )


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

    file_ids: Annotated[list[FileId], Field(min_length=1, max_length=MOST_FILES)]
    name: Annotated[str, Field(min_length=1, max_length=128)] | None = None
    format: Literal[
        "auto", "csv", "tsv", "jsonl", "parquet", "text", "image_folders", "audio_folders"
    ] = "auto"
    columns: (
        Annotated[dict[ColumnName, ColumnKind], Field(max_length=LIMITS.dataset_columns)] | None
    ) = Field(None, description="Kind by column name; inferred unless given.")
    deduplicate: Literal["exact", "near"] | bool = Field(
        "exact",
        description="Remove rows equal to an earlier one; `near`, nearly equal ones too; false, "
        "none. `true` means `exact`.",
    )
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
    parent: str | None
    version: int
    job_id: str
    error: dict[str, Any] | None


class DeletedDataset(TypedDict):
    """Word that a dataset is gone."""

    id: str
    object: Literal["dataset"]
    deleted: bool


EXAMPLE: dict[str, Any] = {  # JSON values
    "id": "ds_0d9c8f7a6e6f1c9a0e5b7d4c2f8a3e1b",
    "object": "dataset",
    "name": "messages",
    "status": "ready",
    "created_at": 1795467000.0,
    "file_ids": ["file-6f1c9a0e5b7d4c2f8a3e1b0d9c8f7a6e"],
    "config": {"format": "auto", "columns": {}, "deduplicate": "exact", "seed": 0},
    "columns": [{"name": "text", "kind": "text"}, {"name": "label", "kind": "label"}],
    "labels": ["billing", "delivery"],
    "splits": {"train": 320, "validation": 40, "test": 40},
    "profile": {"duplicates_removed": 0},
    "digest": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    "parent": None,
    "version": 1,
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
    names = await call.services.database.read(lambda conn: file_names(conn, call, body.file_ids))

    def draft(conn: Connection, job: JobRecord, dataset_id: str) -> DatasetRecord:
        file_names(conn, call, body.file_ids)  # again: one may have been deleted meanwhile
        return DatasetRecord(
            id=dataset_id,
            project_id=call.project_id,
            name=body.name or names[0],
            status="processing",
            config=job.recipe,
            file_ids=tuple(body.file_ids),
            job_id=job.id,
            created_at=job.created_at,
        )

    return await build(call, config, draft)


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
    return shown(await find(call, dataset_id))


@routes.add(
    "DELETE",
    "/v1/datasets/{dataset_id}",
    scope="datasets:write",
    returns=DeletedDataset,
    example={"id": EXAMPLE["id"], "object": "dataset", "deleted": True},
)
async def delete(call: Caller, dataset_id: str) -> DeletedDataset:
    """Delete a dataset; one in the making is given up. 409 while an unfinished job reads it."""
    record = await find(call, dataset_id)
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


async def build(
    call: Call,
    config: dict[str, Any],  # DatasetConfig as JSON
    draft: Callable[[Connection, JobRecord, str], DatasetRecord],
) -> DatasetObject:
    """Start the job that builds a dataset, and show what it will build.

    Args:
        call: Who asks.
        config: As asked for, resolved.
        draft: Makes the dataset's record, given its job and id, in their transaction.
    """
    dataset_id = new_id("ds_")
    made: list[DatasetRecord] = []

    def beside(conn: Connection, job: JobRecord) -> None:
        made.append(draft(conn, job, dataset_id))
        datasets.insert(conn, made[-1])
        call.once.keep(conn, shown(made[-1]), subject=dataset_id)

    await call.services.jobs.create(
        project_id=call.project_id,
        key_id=call.principal.key_id,
        api="dataset",
        kind="dataset",
        recipe=config,
        recipe_digest=digest_of(config),
        seed=config["seed"],
        dataset_id=dataset_id,
        beside=beside,
    )
    return shown(made[-1])


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
        "parent": record.parent,
        "version": record.version,
        "job_id": record.job_id,
        "error": record.error,
    }


async def find(call: Call, dataset_id: str) -> DatasetRecord:
    """Return a dataset of the caller's project.

    Raises:
        NotFoundError: No such dataset, or another project's.
    """
    return await call.services.database.read(
        lambda conn: datasets.get(conn, call.project_id, dataset_id)
    )


def file_names(conn: Connection, call: Call, file_ids: Sequence[str]) -> list[str]:
    """Return the names of the caller's files.

    Raises:
        NotFoundError: One is not there, or another project's; says which.
    """
    names: list[str] = []
    for number, file_id in enumerate(file_ids):
        with at_param(f"file_ids.{number}"):
            names.append(files.get(conn, call.project_id, file_id).name)
    return names


def _config(body: DatasetRequest) -> dict[str, Any]:
    config = DatasetConfig(
        format=body.format,
        columns=body.columns or {},
        deduplicate=body.deduplicate,
        splits=resolved_splits(**(body.splits or Splits()).model_dump()),
        seed=body.seed,
    )
    return config.model_dump(mode="json")
