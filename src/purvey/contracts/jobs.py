"""Jobs: their states, the legal moves between them, and what crosses to a worker process.

A worker receives one `JobSpec` frame, then possibly `StopJob`, a sweep's also `TrialNews`; it sends
the other messages.
The control plane is the only writer of the database; every write on behalf of a worker
carries the fencing token of its lease.
"""

from typing import Any, Literal

import msgspec

from purvey.contracts.data import DatasetManifest
from purvey.contracts.deployment import Device
from purvey.contracts.estimating.needs import Estimated
from purvey.contracts.model import ModelSource
from purvey.contracts.sweep.messages import SweepFinished, TrialAsked, TrialNews, TrialStopped

JobKind = Literal["training", "dataset", "sweep"]
WorkKind = JobKind | Literal["estimate"]
"""What a worker is given to do; nothing of an estimate is stored."""
JobApi = Literal["fine_tuning", "training", "dataset", "sweep"]
"""Which resource the job answers under: its shape and the prefix of its id follow."""

JobStatus = Literal[
    "validating_files", "queued", "running", "paused", "succeeded", "failed", "cancelled"
]

TRANSITIONS: dict[JobStatus, frozenset[JobStatus]] = {
    "validating_files": frozenset({"queued", "failed", "cancelled"}),
    "queued": frozenset({"running", "paused", "cancelled", "failed"}),
    "running": frozenset({"succeeded", "failed", "cancelled", "paused", "queued"}),
    "paused": frozenset({"queued", "cancelled"}),
    "succeeded": frozenset(),
    "failed": frozenset(),
    "cancelled": frozenset(),
}
"""Every legal move. `running -> queued` is a lost worker or a hand-back at shutdown; a full disk
makes `running -> paused`, and room again `paused -> queued`."""

TERMINAL: frozenset[JobStatus] = frozenset({"succeeded", "failed", "cancelled"})


def may_move(before: JobStatus, after: JobStatus) -> bool:
    """Tell whether the written table allows the move."""
    return after in TRANSITIONS[before]


# Control plane to worker -----------------------------------------------------------------


class InputFile(msgspec.Struct, frozen=True, kw_only=True):
    """A stored file that a worker may read.

    Args:
        role: What the job uses it as (`training`, `validation`, `source`, ...).
        path: Absolute path, read-only.
        name: The name its owner gave it; its ending tells the format.
        sha256: Hex digest of its bytes.
        num_bytes: Size.
    """

    role: str
    path: str
    name: str
    sha256: str
    num_bytes: int


class InputDataset(msgspec.Struct, frozen=True, kw_only=True):
    """A prepared dataset version that a worker may read."""

    folder: str
    manifest: DatasetManifest


class JobSpec(msgspec.Struct, frozen=True, kw_only=True, tag="job"):
    """Everything one run needs; nothing else reaches the worker.

    Args:
        job_id: The job.
        kind: Which runner takes it.
        attempt: 1 for the first try.
        fence: Fencing token of the lease, increasing with each attempt.
        recipe: The resolved recipe (`TrainConfig`), dataset request (`DatasetConfig`) or sweep
            (`SweepConfig`) as JSON values.
        files: Files named by the job.
        dataset: The prepared dataset, for training on one.
        base: The model to start from, if any.
        module_roots: Folders in which `model.architecture = "file.py:Class"` is looked up.
        work_dir: Private folder of the job, kept across attempts: checkpoints live here.
        output_dir: Empty folder of this attempt; the artifact is written here.
        resume_from: Newest verified checkpoint folder, or None to start afresh.
        num_threads: Compute threads the worker may use.
        device: Where networks may learn.
        heartbeat_interval_s: Longest silence before the supervisor doubts the worker.
        stall_s: Time that any training step may take before the worker gives up on it.
        failpoints: Plan of `purvey.failpoints`; empty but in tests.
    """

    job_id: str
    kind: WorkKind
    attempt: int
    fence: int
    recipe: dict[str, Any]  # validated by the receiving side against its own schema
    files: tuple[InputFile, ...] = ()
    dataset: InputDataset | None = None
    base: ModelSource | None = None
    module_roots: tuple[str, ...] = ()
    work_dir: str
    output_dir: str
    resume_from: str | None = None
    num_threads: int = 1
    device: Device = "cpu"
    heartbeat_interval_s: float = 5.0
    stall_s: float = 300.0
    failpoints: str = ""


StopReason = Literal["pause", "cancel", "hand_back"]
"""`hand_back`: the server stops; the next one goes on from the checkpoint."""


class StopJob(msgspec.Struct, frozen=True, kw_only=True, tag="stop_job"):
    """Ask the worker to stop at its next safe point.

    `pause` and `hand_back` write a checkpoint first; `cancel` does not.
    """

    reason: StopReason


# First rank of a divided run, which is the job's worker, to the others, and back ----------


class RankSpec(msgspec.Struct, frozen=True, kw_only=True, tag="rank"):
    """One more rank of a job's run.

    It says `RankReady`, and `JobFailed` should it break; else it has done its part, or was killed.

    Args:
        job: The job, with the threads of one rank.
        rank: Which one, from 1.
        size: How many there are, the first included.
        store: File in which they find each other.
    """

    job: JobSpec
    rank: int
    size: int
    store: str


class RankReady(msgspec.Struct, frozen=True, kw_only=True, tag="rank_ready"):
    """The rank has imported what it needs and is about to connect."""


# Worker to control plane -----------------------------------------------------------------


class Heartbeat(msgspec.Struct, frozen=True, kw_only=True, tag="heartbeat"):
    """The worker is alive; sent by a thread of its own."""


class JobEvent(msgspec.Struct, frozen=True, kw_only=True, tag="event"):
    """Something to tell the owner.

    Args:
        kind: `message` for prose, `metrics` for numbers (then `data` holds them).
        level: As OpenAI's events have it.
        message: One line for a person; no content of training rows.
        data: JSON values. For metrics: `step`, `total_steps`, `train_loss`, `valid_loss`,
            `learning_rate`, `tokens_per_s` or `rows_per_s`, `seconds_left`, by those names.
    """

    kind: Literal["message", "metrics"] = "message"
    level: Literal["info", "warn", "error"] = "info"
    message: str
    data: dict[str, Any] = {}  # JSON values


CHECKPOINT_MANIFEST_NAME = "manifest.json"
"""Written last into a checkpoint folder. Its `files` is a JSON object that maps the name of
every other file of the folder to the hex SHA-256 of its bytes; further keys are the trainer's."""

CHECKPOINT_ASIDE = ".writing-"
"""Prefix of the folder in which a checkpoint is written before it gets its name."""


class CheckpointSaved(msgspec.Struct, frozen=True, kw_only=True, tag="checkpoint"):
    """A complete checkpoint folder is on disk, fsynced and renamed into place.

    Args:
        step: Optimizer steps done.
        folder: Absolute path below the job's `work_dir`.
        digest: Hex SHA-256 of its manifest.
        metrics: Metrics at that step.
    """

    step: int
    folder: str
    digest: str
    metrics: dict[str, float] = {}


class DatasetBuilt(msgspec.Struct, frozen=True, kw_only=True, tag="dataset_built"):
    """The dataset lies complete in `output_dir`. Last message of the worker."""

    manifest: DatasetManifest


class ModelTrained(msgspec.Struct, frozen=True, kw_only=True, tag="model_trained"):
    """The model lies complete in `output_dir`. Last message of the worker.

    Args:
        trained_tokens: Tokens that contributed to the loss, or None for other modalities.
        trained_rows: Rows seen, counted once per epoch.
        compute_s: Seconds of computing over all attempts.
        report: Final test report: metric name to `{"value", "low", "high", "num_rows"}`.
        validation: What the kept weights measured on the validation split, where there is one.
    """

    trained_tokens: int | None = None
    trained_rows: int = 0
    compute_s: float = 0.0
    report: dict[str, Any] = {}  # JSON values
    validation: dict[str, float] = {}


class JobStopped(msgspec.Struct, frozen=True, kw_only=True, tag="stopped"):
    """The worker obeyed `StopJob`. Last message of the worker."""

    reason: StopReason
    compute_s: float = 0.0


class JobFailed(msgspec.Struct, frozen=True, kw_only=True, tag="failed"):
    """The run cannot succeed; trying again would fail the same way. Last message.

    Args:
        code: Code of the `PurveyError` (or `internal_error`).
        message: For the owner; never a traceback.
        param: Recipe field or file row at fault, if one is.
        is_transient: Whether another attempt may succeed (out of disk, killed child, ...).
    """

    code: str
    message: str
    param: str | None = None
    is_transient: bool = False
    compute_s: float = 0.0


FromWorker = (
    Heartbeat
    | JobEvent
    | CheckpointSaved
    | TrialAsked
    | TrialStopped
    | DatasetBuilt
    | ModelTrained
    | SweepFinished
    | Estimated
    | JobStopped
    | JobFailed
)
ToWorker = JobSpec | StopJob | TrialNews
FromRank = RankReady | JobFailed
ToRank = RankSpec
