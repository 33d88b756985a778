"""What describes a new job, and the record that it becomes."""

from typing import Any, NotRequired, TypedDict

from purvey.contracts.ids import Prefix, new_id
from purvey.contracts.jobs import JobApi, JobKind
from purvey.contracts.records import JobRecord


class JobDraft(TypedDict):
    """Keyword arguments of `JobService.create`; the caller has validated them.

    Attributes:
        project_id: The owner.
        key_id: The key that asked.
        api: Which resource it answers under; its id's prefix follows.
        kind: Which runner takes it.
        recipe: The resolved recipe, dataset config or sweep.
        recipe_digest: Hex SHA-256 of the recipe.
        seed: The run's seed.
        suffix: Part of the model's name.
        base_model: Name of the model to start from.
        training_file: File id.
        validation_file: File id.
        dataset_id: The dataset that is read (training) or made (dataset).
        metadata: The owner's notes.
        request: What of the body is echoed.
    """

    project_id: str
    key_id: str
    api: JobApi
    kind: JobKind
    recipe: dict[str, Any]  # JSON values
    recipe_digest: str
    seed: NotRequired[int]
    suffix: NotRequired[str | None]
    base_model: NotRequired[str | None]
    training_file: NotRequired[str | None]
    validation_file: NotRequired[str | None]
    dataset_id: NotRequired[str | None]
    metadata: NotRequired[dict[str, str] | None]
    request: NotRequired[dict[str, Any] | None]  # JSON values


_PREFIXES: dict[JobApi, Prefix] = {"fine_tuning": "ftjob-", "sweep": "sweep_"}


def queued(draft: JobDraft, *, now: float) -> JobRecord:
    """Return the record of a new job, with a new id."""
    return JobRecord(
        id=new_id(_PREFIXES.get(draft["api"], "job_")),
        project_id=draft["project_id"],
        key_id=draft["key_id"],
        api=draft["api"],
        kind=draft["kind"],
        status="queued",
        created_at=now,
        recipe=draft["recipe"],
        recipe_digest=draft["recipe_digest"],
        seed=draft.get("seed", 0),
        suffix=draft.get("suffix"),
        base_model=draft.get("base_model"),
        training_file=draft.get("training_file"),
        validation_file=draft.get("validation_file"),
        dataset_id=draft.get("dataset_id"),
        metadata=draft.get("metadata") or {},
        request=draft.get("request") or {},
    )
