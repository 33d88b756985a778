"""`/v1/fine_tuning/jobs`: a language model tuned on answers or preferences, as the SDK asks."""

import asyncio
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, Protocol

from sqlalchemy import Connection
from typing_extensions import TypedDict

from purvey.contracts.jobs import JobStatus
from purvey.contracts.records import JobRecord, ModelRecord
from purvey.contracts.rows import check_chat_rows, check_preference_rows
from purvey.errors import InvalidValueError, MethodUnsupportedError
from purvey.jobs.draft import JobDraft
from purvey.server.job_routes import JobResource, require_gradients
from purvey.server.openai import files
from purvey.server.openai.fine_tuning_request import (
    FineTuningRequest,
    hyperparameters_of,
    recipe_of,
)
from purvey.server.policy import Call, Caller
from purvey.server.routing import Routes
from purvey.server.validation import at_param
from purvey.store import files as file_rows
from purvey.store import models

routes = Routes(tag="Fine-tuning")


class CheckRows(Protocol):
    """Checks every row of a file, and returns how many there are."""

    def __call__(self, lines: Iterable[bytes], *, param: str) -> int:
        """Refuse a bad row by its line."""
        ...


_ROW_CHECKS: dict[str, CheckRows] = {
    "likelihood": check_chat_rows,
    "dpo": check_preference_rows,
}


class FineTuningJob(TypedDict):
    """A job in OpenAI's shape; `status` may also be `paused`. `report` and `recipe` are ours."""

    id: str
    object: Literal["fine_tuning.job"]
    created_at: int
    finished_at: int | None
    model: str
    fine_tuned_model: str | None
    organization_id: str
    status: JobStatus
    hyperparameters: dict[str, Any]
    method: dict[str, Any]
    training_file: str
    validation_file: str | None
    result_files: list[str]
    trained_tokens: int | None
    error: dict[str, Any] | None
    seed: int
    estimated_finish: int | None
    integrations: list[Any]
    metadata: dict[str, str]
    recipe: dict[str, Any]
    recipe_digest: str
    report: dict[str, Any] | None
    compute_s: float
    attempt: int


EXAMPLE: dict[str, Any] = {  # JSON values
    "id": "ftjob-6f1c9a0e5b7d4c2f8a3e1b0d9c8f7a6e",
    "object": "fine_tuning.job",
    "created_at": 1795467000,
    "finished_at": 1795467060,
    "model": "tiny-english",
    "fine_tuned_model": "ft:tiny-english:proj_default:docs:6f1c9a0e",
    "organization_id": "proj_default",
    "status": "succeeded",
    "hyperparameters": {"n_epochs": 3, "batch_size": 8, "learning_rate_multiplier": "auto"},
    "method": {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 3}}},
    "training_file": "file-0d9c8f7a6e6f1c9a0e5b7d4c2f8a3e1b",
    "validation_file": None,
    "result_files": [],
    "trained_tokens": 12345,
    "error": None,
    "seed": 0,
    "estimated_finish": None,
    "integrations": [],
    "metadata": {},
    "recipe": {"task": "text-generation"},
    "recipe_digest": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    "report": {"loss": {"value": 1.2, "low": 1.1, "high": 1.3, "num_rows": 40}},
    "compute_s": 58.1,
    "attempt": 1,
}


@routes.add(
    "POST",
    "/v1/fine_tuning/jobs",
    scope="training:write",
    returns=FineTuningJob,
    example=EXAMPLE,
    is_creating=True,
)
async def create(call: Caller, body: FineTuningRequest) -> FineTuningJob:
    """Start a fine-tuning job. LoRA unless the recipe says full.

    Rows, recipe and model are checked before the answer: a bad row is named by its line.
    """
    draft = await draft_of(call, body)

    def beside(conn: Connection, job: JobRecord) -> None:
        _check_named(conn, call, body)
        call.once.keep(conn, shown(job), subject=job.id)

    return shown(await call.services.jobs.create(beside=beside, **draft))


async def draft_of(call: Call, body: FineTuningRequest) -> JobDraft:
    """Check all that a request names, rows of files too, and return what describes its job.

    Raises:
        InvalidValueError: Names the field.
        InvalidFileError: Names the lines.
        NotFoundError: No such model or file, or another project's.
        MethodUnsupportedError: The model is not one that is fine-tuned.
    """
    recipe = recipe_of(body)
    base = await call.services.models.get(call.project_id, body.model)
    _check_base(base)
    check_rows = _ROW_CHECKS[recipe.train.objective]
    await _check_file(call, body.training_file, "training_file", check_rows)
    if body.validation_file is not None:
        await _check_file(call, body.validation_file, "validation_file", check_rows)
    return {
        "project_id": call.project_id,
        "key_id": call.principal.key_id,
        "api": "fine_tuning",
        "kind": "training",
        "recipe": recipe.model_dump(mode="json"),
        "recipe_digest": recipe.digest(),
        "seed": recipe.seed,
        "suffix": body.suffix,
        "base_model": base.name,
        "training_file": body.training_file,
        "validation_file": body.validation_file,
        "metadata": body.metadata,
        "request": {"hyperparameters": hyperparameters_of(body).model_dump()},
    }


def shown(job: JobRecord) -> FineTuningJob:
    """Show a job's record in OpenAI's shape."""
    result = job.result or {}
    hyperparameters = _resolved(job)
    return {
        "id": job.id,
        "object": "fine_tuning.job",
        "created_at": int(job.created_at),
        "finished_at": int(job.finished_at) if job.finished_at else None,
        "model": job.base_model or "",
        "fine_tuned_model": job.fine_tuned_model,
        "organization_id": job.project_id,
        "status": job.status,
        "hyperparameters": hyperparameters,
        "method": _method(job, hyperparameters),
        "training_file": job.training_file or "",
        "validation_file": job.validation_file,
        "result_files": [],
        "trained_tokens": result.get("trained_tokens"),
        "error": job.error,
        "seed": job.seed,
        "estimated_finish": None,
        "integrations": [],
        "metadata": job.metadata,
        "recipe": job.recipe,
        "recipe_digest": job.recipe_digest,
        "report": result.get("report"),
        "compute_s": job.compute_s,
        "attempt": job.attempt,
    }


_resource = JobResource(
    routes=routes,
    root="/v1/fine_tuning/jobs",
    api="fine_tuning",
    shown=shown,
    returns=FineTuningJob,
    example=EXAMPLE,
)
_resource.add_listing("List fine-tuning jobs, newest first.")
_resource.add_showing("Show a fine-tuning job.")
_resource.add_events("List what a job has told, newest first, or stream it as server-sent events.")
_resource.add_checkpoints("List a job's checkpoints, newest first.")
_resource.add_action("cancel", "End a job; a running one stops at its next step.")
_resource.add_action("pause", "Set a job aside; a running one writes a checkpoint first.")
_resource.add_action("resume", "Put a paused job back into the queue; it goes on where it stopped.")


def _resolved(job: JobRecord) -> dict[str, Any]:
    asked = job.request.get("hyperparameters", {})
    loop = job.recipe.get("train", {})
    epochs = loop.get("epochs", 1)
    return {
        "n_epochs": max(1, round(epochs)),
        "batch_size": loop.get("batch_size"),
        "learning_rate_multiplier": asked.get("learning_rate_multiplier", "auto"),
    }


def _method(job: JobRecord, hyperparameters: dict[str, Any]) -> dict[str, Any]:
    if job.recipe.get("train", {}).get("objective") != "dpo":
        return {"type": "supervised", "supervised": {"hyperparameters": hyperparameters}}
    beta = job.recipe.get("dpo", {}).get("beta")
    return {"type": "dpo", "dpo": {"hyperparameters": hyperparameters | {"beta": beta}}}


def _check_base(base: ModelRecord) -> None:
    if base.task != "text-generation":
        raise MethodUnsupportedError(
            f"the model {base.name!r} is for {base.task}; only language models are fine-tuned.",
            param="model",
        )
    require_gradients(base, param="model")


async def _check_file(call: Call, file_id: str, param: str, check_rows: CheckRows) -> None:
    with at_param(param):
        record = await files.find(call, file_id)
    if record.purpose != "fine-tune":
        raise InvalidValueError(
            f"the file {file_id!r} was uploaded for {record.purpose!r}.",
            param=param,
            hint="Upload it with purpose 'fine-tune'.",
        )
    path = await files.stored(call, record, param=param)
    try:
        await asyncio.to_thread(_check_rows, path, param, check_rows)
    except FileNotFoundError:  # deleted a moment ago
        raise files.gone(file_id, param=param) from None


def _check_named(conn: Connection, call: Call, body: FineTuningRequest) -> None:
    """Check in the job's transaction that what it names was not deleted since it was read."""
    models.get(conn, call.project_id, body.model)
    with at_param("training_file"):
        file_rows.get(conn, call.project_id, body.training_file)
    if body.validation_file is not None:
        with at_param("validation_file"):
            file_rows.get(conn, call.project_id, body.validation_file)


def _check_rows(path: Path, param: str, check_rows: CheckRows) -> None:
    with path.open("rb") as lines:
        check_rows(lines, param=param)
