"""Rows as the control plane passes them on: plain values, scoped by project.

Times are epoch seconds, UTC. JSON columns hold JSON values.
"""

from typing import Any, Literal

import msgspec

from purvey.contracts.jobs import JobApi, JobKind, JobStatus
from purvey.contracts.model import Family, Task

Scope = Literal[
    "inference",
    "files:read",
    "files:write",
    "datasets:read",
    "datasets:write",
    "training:read",
    "training:write",
    "models:read",
    "models:write",
    "explanations:read",
    "explanations:write",
    "usage:read",
    "admin",
]
"""What a key may do; `admin` implies the rest and is the only one over keys and projects."""


class KeyRecord(msgspec.Struct, frozen=True, kw_only=True):
    """An API key; the secret itself is never stored. `hint` is its last four characters."""

    id: str
    project_id: str
    name: str
    scopes: tuple[Scope, ...]
    hint: str
    created_at: float
    last_used_at: float | None = None
    revoked_at: float | None = None


class FileRecord(msgspec.Struct, frozen=True, kw_only=True):
    """An uploaded file; bytes are the blob named by `sha256`."""

    id: str
    project_id: str
    name: str
    purpose: str
    num_bytes: int
    sha256: str
    created_at: float


class DatasetRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A dataset version; `manifest` is there once `status` is `ready`.

    `family` is the id of the first version, None for one that is it; `parent` the version that
    this one adds to.
    """

    id: str
    project_id: str
    name: str
    status: Literal["processing", "ready", "failed"]
    config: dict[str, Any]  # DatasetConfig as JSON
    file_ids: tuple[str, ...]
    job_id: str
    created_at: float
    artifact: str | None = None
    manifest: dict[str, Any] | None = None  # DatasetManifest as JSON
    error: dict[str, Any] | None = None  # code, message, param
    parent: str | None = None
    family: str | None = None
    version: int = 1


Rating = Literal["good", "bad"]


class FeedbackRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What somebody thinks of an answer; `correction` is the answer that was wanted."""

    id: str
    project_id: str
    model: str
    created_at: float
    request_id: str | None = None
    input: str | None = None
    output: str | None = None
    rating: Rating | None = None
    correction: str | None = None
    metadata: dict[str, str] = {}


class JobRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A run and where it stands.

    `fence` increases with every lease; `version` of the row is implied by it. `recipe` is
    resolved in full. `result` holds the report, token counts and seconds when it succeeded.
    """

    id: str
    project_id: str
    key_id: str
    api: JobApi
    kind: JobKind
    status: JobStatus
    created_at: float
    recipe: dict[str, Any]  # resolved recipe as JSON
    recipe_digest: str
    seed: int = 0
    suffix: str | None = None
    base_model: str | None = None
    training_file: str | None = None
    validation_file: str | None = None
    dataset_id: str | None = None
    metadata: dict[str, str] = {}
    request: dict[str, Any] = {}  # as the caller sent it, for echoing OpenAI's fields
    started_at: float | None = None
    finished_at: float | None = None
    attempt: int = 0
    fence: int = 0
    lease: str | None = None
    lease_expires_at: float | None = None
    wanted: Literal["run", "pause", "cancel"] = "run"
    fine_tuned_model: str | None = None
    compute_s: float = 0.0
    error: dict[str, Any] | None = None  # code, message, param; needed_bytes when paused
    result: dict[str, Any] | None = None

    @property
    def needed_bytes(self) -> int | None:
        """Free bytes that it waits for, when a full disk has set it aside."""
        needed = (self.error or {}).get("needed_bytes") if self.status == "paused" else None
        return needed if isinstance(needed, int) else None


class JobEventRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One event of a job; `seq` starts at 1 and has no gaps."""

    id: str
    job_id: str
    seq: int
    type: Literal["message", "metrics"]
    level: Literal["info", "warn", "error"]
    message: str
    data: dict[str, Any]  # JSON values
    created_at: float


class TrialRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A trial of a sweep, and the training job that it is.

    `stopped` says why the sweep ended it early; `artifact` is the model it made for as long as the
    sweep may still register it.
    """

    sweep_id: str
    number: int
    job_id: str
    parameters: dict[str, Any]  # JSON values by recipe field
    stopped: Literal["pruned", "time"] | None = None
    artifact: str | None = None


class CheckpointRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A complete checkpoint on disk."""

    id: str
    job_id: str
    step: int
    folder: str
    digest: str
    metrics: dict[str, float]
    created_at: float


class ModelRecord(msgspec.Struct, frozen=True, kw_only=True):
    """An immutable registered model.

    `artifact` is the digest of a stored folder, or None when `folder` lies under one of the
    operator's model roots and is served in place.
    """

    name: str
    project_id: str
    family: Family
    task: Task
    digest: str
    folder: str
    created_at: float
    artifact: str | None = None
    base_model: str | None = None
    job_id: str | None = None
    manifest: dict[str, Any] = {}  # ModelManifest as JSON


class ExplanationRecord(msgspec.Struct, frozen=True, kw_only=True):
    """An explanation; `body` is the object as the API shows it."""

    id: str
    project_id: str
    model: str
    status: Literal["in_progress", "completed", "failed"]
    created_at: float
    body: dict[str, Any]
    picture_file: str | None = None


UsageKind = Literal[
    "chat",
    "completion",
    "classify",
    "decision",
    "embedding",
    "rerank",
    "score",
    "tokenize",
    "transcription",
    "training",
    "dataset",
    "sweep",
    "explanation",
]


class UsageRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the append-only ledger, unique by (`request_id`, `attempt`).

    Units: tokens, images, seconds of recordings, rows, and seconds of computing. `is_estimated`
    marks tokens that whoever computed them has not counted, or not credibly.
    """

    request_id: str
    attempt: int = 1
    project_id: str
    key_id: str
    kind: UsageKind
    model: str
    status: Literal["ok", "error", "cancelled"] = "ok"
    input_tokens: int = 0
    output_tokens: int = 0
    images: int = 0
    audio_s: float = 0.0
    rows: int = 0
    compute_s: float = 0.0
    is_estimated: bool = False
    created_at: float


class UsageTotal(msgspec.Struct, frozen=True, kw_only=True):
    """Sums over the ledger rows of one `group`: a model, a kind, or a day (`2026-01-31`)."""

    group: str
    requests: int
    estimated_requests: int = 0
    input_tokens: int
    output_tokens: int
    images: int
    audio_s: float = 0.0
    rows: int
    compute_s: float
