"""`/v1/training/jobs`: a run for any recipe and modality."""

from collections.abc import Mapping, Set
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Literal

import msgspec
from pydantic import ConfigDict, Field
from sqlalchemy import Connection
from typing_extensions import TypedDict

from purvey.contracts.data import INPUT_KINDS, ColumnKind, DatasetManifest
from purvey.contracts.defaults import with_recipe_defaults
from purvey.contracts.hugging_face import ENCODERS
from purvey.contracts.jobs import JobStatus
from purvey.contracts.model import TrainedTask
from purvey.contracts.recipe import TrainConfig, parse_recipe
from purvey.contracts.recipe_parts.embedding import pair_columns
from purvey.contracts.recipe_parts.pictured import FAMILY, check_pictured, picture_columns
from purvey.contracts.records import DatasetRecord, JobRecord
from purvey.errors import ConflictError, InvalidValueError, PermissionDeniedError
from purvey.jobs.draft import JobDraft
from purvey.server.job_routes import JobResource, require_gradients
from purvey.server.policy import Call, Caller
from purvey.server.routing import Routes
from purvey.server.validation import Body, FreeForm, Metadata, at_param
from purvey.store import datasets, models

routes = Routes(tag="Training jobs")
NEEDED: dict[TrainedTask, tuple[ColumnKind, ...]] = {
    "text-generation": ("text", "conversation", "preference"),
    "text-classification": ("text",),
    "image-classification": ("image",),
    "audio-classification": ("audio",),
    "classification": INPUT_KINDS,
    "regression": INPUT_KINDS,
    "speech-recognition": ("audio",),
    "image-text-to-text": ("image",),
    "embedding": ("text",),
}
"""A dataset for the task has a column of one of these kinds."""
LEARNED: dict[TrainedTask, ColumnKind] = {
    "text-classification": "label",
    "image-classification": "label",
    "audio-classification": "label",
    "classification": "label",
    "regression": "score",
    "speech-recognition": "transcript",
}
"""And one of this kind, which is what the model learns to give."""


class TrainingJobRequest(Body):
    """A run as asked for."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "recipe": {
                    "task": "text-classification",
                    "name": "spam",
                    "dataset": "ds_0d9c8f7a6e6f1c9a0e5b7d4c2f8a3e1b",
                }
            }
        }
    )

    recipe: FreeForm = Field(description="See the recipe reference; defaults are filled in.")
    metadata: Metadata | None = None


class TrainingJob(TypedDict):
    """A run and where it stands."""

    id: str
    object: Literal["training.job"]
    status: JobStatus
    created_at: float
    started_at: float | None
    finished_at: float | None
    recipe: dict[str, Any]
    recipe_digest: str
    dataset: str | None
    base_model: str | None
    sweep: str | None
    model: str | None
    error: dict[str, Any] | None
    report: dict[str, Any] | None
    metadata: dict[str, str]
    compute_s: float
    attempt: int


EXAMPLE: dict[str, Any] = {  # JSON values
    "id": "job_6f1c9a0e5b7d4c2f8a3e1b0d9c8f7a6e",
    "object": "training.job",
    "status": "succeeded",
    "created_at": 1795467000.0,
    "started_at": 1795467001.0,
    "finished_at": 1795467020.0,
    "recipe": {"task": "text-classification", "name": "spam"},
    "recipe_digest": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    "dataset": "ds_0d9c8f7a6e6f1c9a0e5b7d4c2f8a3e1b",
    "base_model": None,
    "sweep": None,
    "model": "spam",
    "error": None,
    "report": {"accuracy": {"value": 0.98, "low": 0.97, "high": 0.99, "num_rows": 557}},
    "metadata": {},
    "compute_s": 18.2,
    "attempt": 1,
}


@routes.add(
    "POST",
    "/v1/training/jobs",
    scope="training:write",
    returns=TrainingJob,
    example=EXAMPLE,
    is_creating=True,
)
async def create(call: Caller, body: TrainingJobRequest) -> TrainingJob:
    """Start a run; the recipe is checked in full before anything starts."""
    recipe = parse_recipe(with_recipe_defaults(body.recipe))
    check_module(call, recipe)
    await check_run(call, recipe)

    def beside(conn: Connection, job: JobRecord) -> None:
        check_named(conn, call, recipe)
        call.once.keep(conn, shown(job), subject=job.id)

    draft = draft_of(call, recipe) | {"metadata": body.metadata}
    return shown(await call.services.jobs.create(beside=beside, **draft))


def draft_of(call: Call, recipe: TrainConfig) -> JobDraft:
    """Return what describes the run of a recipe that has been checked."""
    return {
        "project_id": call.project_id,
        "key_id": call.principal.key_id,
        "api": "training",
        "kind": "training",
        "recipe": recipe.model_dump(mode="json"),
        "recipe_digest": recipe.digest(),
        "seed": recipe.seed,
        "base_model": recipe.model.base,
        "dataset_id": recipe.dataset,
    }


def shown(job: JobRecord) -> TrainingJob:
    """Show a run's record."""
    return {
        "id": job.id,
        "object": "training.job",
        "status": job.status,
        "created_at": job.created_at,
        "started_at": job.started_at,
        "finished_at": job.finished_at,
        "recipe": job.recipe,
        "recipe_digest": job.recipe_digest,
        "dataset": job.dataset_id,
        "base_model": job.base_model,
        "sweep": job.request.get("sweep"),
        "model": job.fine_tuned_model,
        "error": job.error,
        "report": _report(job),
        "metadata": job.metadata,
        "compute_s": job.compute_s,
        "attempt": job.attempt,
    }


def _report(job: JobRecord) -> dict[str, Any] | None:
    found: Mapping[str, Any] = job.result or {}
    return found.get("report")


_resource = JobResource(
    routes=routes,
    root="/v1/training/jobs",
    api="training",
    shown=shown,
    returns=TrainingJob,
    example=EXAMPLE,
)
_resource.add_listing("List runs, newest first.")
_resource.add_showing("Show a run.")
_resource.add_events("List what a run has told, or stream it as server-sent events.")
_resource.add_metrics(
    "List a run's numbers, events of type `metrics`, or stream them as server-sent events."
)
_resource.add_checkpoints("List the checkpoints that a run would resume from.")
_resource.add_action("cancel", "End a run; a running one stops at its next step.")
_resource.add_action("pause", "Set a run aside; a running one writes a checkpoint first.")
_resource.add_action("resume", "Put a paused run back into the queue; it goes on where it stopped.")


async def check_run(call: Call, recipe: TrainConfig) -> DatasetManifest:
    """Check that there is what a recipe names, and that it fits; return what its dataset holds.

    Raises:
        InvalidValueError: Something is missing or does not fit.
        NotFoundError: No such dataset or base, or another project's.
        ConflictError: The dataset is not ready.
        MethodUnsupportedError: The base cannot be trained.
    """
    if recipe.dataset is None:
        raise InvalidValueError("name a prepared dataset.", param="recipe.dataset")
    is_pictured = recipe.model.architecture == FAMILY
    if recipe.model.base is not None:
        with at_param("recipe.model.base"):
            base = await call.services.models.get(call.project_id, recipe.model.base)
        require_gradients(base, param="recipe.model.base")
        if recipe.task == "embedding" and base.family not in ("encoder", FAMILY):
            raise InvalidValueError(
                f"the model {base.name!r} is no encoder, which embedding trains.",
                param="recipe.model.base",
                hint=f"An encoder has a model_type of {', '.join((*ENCODERS, FAMILY))}.",
            )
        is_pictured = base.family == FAMILY
    elif recipe.model.architecture is None:
        raise InvalidValueError(
            "name what is trained.",
            param="recipe.model",
            hint="Give model.architecture (your module: 'file.py:Class') or model.base.",
        )
    if recipe.task == "embedding" and is_pictured:
        check_pictured(recipe.embedding, model=recipe.model)
    return await _check_dataset(call, recipe, is_pictured=is_pictured)


def check_module(call: Call, recipe: TrainConfig) -> None:
    """Let only an administrator on this machine name code by its path.

    Raises:
        PermissionDeniedError: The recipe does, for somebody else.
    """
    architecture = recipe.model.architecture or ""
    file, is_module, _ = architecture.partition(".py:")
    if not is_module or not Path(file).is_absolute():
        return
    client = call.request.client
    is_local = client is not None and ip_address(client.host).is_loopback
    if not (is_local and call.principal.allows("admin")):
        raise PermissionDeniedError(
            "only an administrator on the server's own machine may name a module by its path.",
            param="recipe.model.architecture",
            hint="Put the file into a folder that the server was given with --module-path.",
        )


def check_named(conn: Connection, call: Call, recipe: TrainConfig) -> None:
    """Check in the run's transaction that what it names was not deleted since it was read.

    Raises:
        NotFoundError: It was.
    """
    _dataset(conn, call, recipe)
    if recipe.model.base is not None:
        with at_param("recipe.model.base"):
            models.get(conn, call.project_id, recipe.model.base)


def _dataset(conn: Connection, call: Call, recipe: TrainConfig) -> DatasetRecord:
    with at_param("recipe.dataset"):
        return datasets.get(conn, call.project_id, recipe.dataset or "")


async def _check_dataset(call: Call, recipe: TrainConfig, *, is_pictured: bool) -> DatasetManifest:
    record = await call.services.database.read(lambda conn: _dataset(conn, call, recipe))
    if record.status != "ready":
        raise ConflictError(
            f"the dataset {record.id!r} is {record.status}, not ready.", param="recipe.dataset"
        )
    manifest = msgspec.convert(record.manifest, DatasetManifest)
    kinds = {column.kind for column in manifest.columns}
    needed = _needed(recipe)
    if kinds.isdisjoint(needed):
        raise InvalidValueError(
            f"the dataset has no column of kind {' or '.join(needed)}, which {recipe.task} needs.",
            param="recipe.dataset",
            hint="Preferences are learned with train.objective 'dpo'."
            if "preference" in kinds
            else "",
        )
    if recipe.task == "image-text-to-text":
        _check_said(kinds)
    if recipe.task == "embedding":
        find_columns = picture_columns if is_pictured else pair_columns
        find_columns(recipe.embedding, manifest)
    target = LEARNED.get(recipe.task)
    if target is not None and target not in kinds:
        raise InvalidValueError(
            f"the dataset has no {target} column.",
            param="recipe.dataset",
            hint=f'Name it when the dataset is made: columns = {{"...": "{target}"}}.',
        )
    if target == "label":
        _check_labels(manifest)
    return manifest


def _check_said(kinds: Set[ColumnKind]) -> None:
    """Make sure that something is said about the images: a conversation, or question and answer."""
    missing = {"text", "transcript"} - kinds
    if "conversation" not in kinds and missing:
        raise InvalidValueError(
            f"the dataset has no {' and no '.join(sorted(missing))} column, and no conversation.",
            param="recipe.dataset",
            hint='Name them when it is made: columns = {"...": "image", "...": "text" (what is '
            'asked), "...": "transcript" (what is answered)}.',
        )


def _needed(recipe: TrainConfig) -> tuple[ColumnKind, ...]:
    """Return the kinds of which the dataset has one: preferences for DPO, and for it alone."""
    if recipe.train.objective == "dpo":
        return ("preference",)
    return tuple(kind for kind in NEEDED[recipe.task] if kind != "preference")


def _check_labels(manifest: DatasetManifest) -> None:
    """Refuse a single label, and one that training would never see."""
    if len(manifest.labels) < 2:
        raise InvalidValueError(
            f"every row has the label {manifest.labels[0]!r}; a classifier needs two."
            if manifest.labels
            else "the dataset has no labels; a classifier needs two.",
            param="recipe.dataset",
        )
    trained = manifest.profile.get("balance", {}).get("train", manifest.labels)
    unseen = [label for label in manifest.labels if label not in trained]
    if unseen:
        raise InvalidValueError(
            f"the label {unseen[0]!r} has no row in the training split.",
            param="recipe.dataset",
            hint="Give it more rows, or make the dataset with splits.stratify.",
        )
