"""Answers of the native resources as values. Fields a newer server adds are ignored."""

from typing import Any, Generic, Literal, TypeVar

import msgspec

from purvey.contracts.explain import ExplanationCost, ExplanationTarget, Faithfulness, Unit
from purvey.contracts.jobs import JobStatus

T = TypeVar("T")


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """Base of every answer."""


class Page(Answer, Generic[T], frozen=True, kw_only=True):
    """One page of a listing."""

    data: list[T]
    has_more: bool = False
    last_id: str | None = None


class File(Answer, frozen=True, kw_only=True):
    """An uploaded file."""

    id: str
    filename: str
    bytes: int
    purpose: str
    created_at: int | float


class Column(Answer, frozen=True, kw_only=True):
    """One column of a dataset."""

    name: str
    kind: str


class Dataset(Answer, frozen=True, kw_only=True):
    """A dataset version; columns, splits and profile are there once `status` is `ready`."""

    id: str
    name: str
    status: Literal["processing", "ready", "failed"]
    created_at: float
    file_ids: list[str] = []
    config: dict[str, Any] = {}  # JSON values
    columns: list[Column] = []
    labels: list[str] = []
    splits: dict[str, int] = {}
    profile: dict[str, Any] = {}  # JSON values
    digest: str | None = None
    parent: str | None = None
    version: int = 1
    job_id: str | None = None
    error: dict[str, Any] | None = None  # code, message, param


class Feedback(Answer, frozen=True, kw_only=True):
    """What somebody thinks of an answer; `correction` is the answer that was wanted."""

    id: str
    model: str
    created_at: float
    request_id: str | None = None
    input: str | None = None
    output: str | None = None
    rating: Literal["good", "bad"] | None = None
    correction: str | None = None
    metadata: dict[str, str] = {}


class Job(Answer, frozen=True, kw_only=True):
    """A run: a training job, or a fine-tuning job in OpenAI's shape."""

    id: str
    object: str
    status: JobStatus
    created_at: float
    started_at: float | None = None
    finished_at: float | None = None
    model: str | None = None
    fine_tuned_model: str | None = None
    base_model: str | None = None
    dataset: str | None = None
    recipe: dict[str, Any] | None = None  # the resolved recipe
    recipe_digest: str | None = None
    report: dict[str, Any] | None = None  # metric to value, low, high, num_rows
    error: dict[str, Any] | None = None  # code, message, param
    metadata: dict[str, str] | None = None
    compute_s: float = 0.0
    attempt: int = 0

    @property
    def trained_model(self) -> str | None:
        """Name of the model it made, once it has succeeded."""
        if self.object == "fine_tuning.job":
            return self.fine_tuned_model
        return self.model if self.status == "succeeded" else None


class Trial(Answer, frozen=True, kw_only=True):
    """A trial of a sweep; `value` is there once it is `complete`."""

    number: int
    job: str
    state: str
    parameters: dict[str, Any]  # JSON values by recipe field
    value: float | None = None
    model: str | None = None
    error: str | None = None
    compute_s: float = 0.0


class BestTrial(Answer, frozen=True, kw_only=True):
    """The best trial of a sweep so far."""

    trial: int
    job: str
    value: float
    parameters: dict[str, Any]  # JSON values by recipe field


class Sweep(Answer, frozen=True, kw_only=True):
    """A search over a recipe's fields; `trials` is None in a listing."""

    id: str
    status: JobStatus
    created_at: float
    metric: str
    direction: str
    max_trials: int
    trials: list[Trial] | None = None
    best: BestTrial | None = None
    model: str | None = None
    report: dict[str, Any] | None = None  # metric to value, low, high, num_rows
    error: dict[str, Any] | None = None  # code, message, param
    compute_s: float = 0.0


class Event(Answer, frozen=True, kw_only=True):
    """Something a job told."""

    id: str
    created_at: float
    level: str
    message: str
    type: str = "message"
    data: dict[str, Any] | None = None  # JSON values


class LabelProbability(Answer, frozen=True, kw_only=True):
    """A label with its probability."""

    label: str
    probability: float


class Classified(Answer, frozen=True, kw_only=True):
    """The classes of one input, the most probable first; of a regression the `score` alone."""

    label: str | None = None
    probabilities: list[LabelProbability] = []
    score: float | None = None
    calibrated: bool = False
    explanation: dict[str, Any] | None = None  # an explanation object


class Classification(Answer, frozen=True, kw_only=True):
    """The classes, or the scores, of all inputs of one request."""

    model: str
    results: list[Classified]
    usage: dict[str, Any] = {}  # JSON values


class Explanation(Answer, frozen=True, kw_only=True):
    """An attribution with its faithfulness; result fields come with `status` `completed`."""

    id: str
    status: Literal["in_progress", "completed", "failed"]
    created: float
    model: str
    model_revision: str | None = None
    precision: str | None = None
    task: str | None = None
    method: str | None = None
    evidence: str | None = None
    target: ExplanationTarget | None = None
    units: list[Unit] = []
    faithfulness: Faithfulness | None = None
    cost: ExplanationCost | None = None
    warnings: list[str] = []
    artifacts: dict[str, str] | None = None
    usage: dict[str, Any] | None = None  # JSON values
    error: dict[str, Any] | None = None  # code, message, param


class ModelEngine(Answer, frozen=True, kw_only=True):
    """What a model is computed in where it is in memory, and the bytes that it takes."""

    precision: str
    path: str = "native"
    weights_bytes: int
    kv_cache_bytes: int
    workspace_bytes: int
    adapter_bytes: int = 0


class Model(Answer, frozen=True, kw_only=True):
    """A registered model."""

    id: str
    created: float
    owned_by: str = ""
    task: str | None = None
    family: str | None = None
    labels: list[str] = []
    base_model: str | None = None
    job_id: str | None = None
    digest: str | None = None
    report: dict[str, Any] | None = None  # metric to value, low, high, num_rows
    lineage: dict[str, Any] | None = None  # JSON values
    engines: list[ModelEngine] = []


class ModelFile(Answer, frozen=True, kw_only=True):
    """One file of a model's folder; `file` is its path there."""

    file: str
    bytes: int
    sha256: str


class Pull(Answer, frozen=True, kw_only=True):
    """A model or dataset on its way here; `bytes` is 0 until the hub, or the store, has told."""

    source: str
    revision: str | None = None
    commit: str | None = None
    bytes: int
    fetched_bytes: int


class Pulls(Answer, frozen=True, kw_only=True):
    """What is on its way."""

    data: list[Pull]


class Key(Answer, frozen=True, kw_only=True):
    """An API key; `key`, the secret, is there once: in the answer that creates it."""

    id: str
    name: str
    scopes: list[str]
    created_at: float
    hint: str = ""
    project_id: str | None = None
    last_used_at: float | None = None
    revoked_at: float | None = None
    key: str | None = None


class Transcript(Answer, frozen=True, kw_only=True):
    """What a recording says."""

    text: str


class UsageTotal(Answer, frozen=True, kw_only=True):
    """What one model, kind or day took."""

    group: str
    requests: int = 0
    estimated_requests: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    images: int = 0
    audio_s: float = 0.0
    rows: int = 0
    compute_s: float = 0.0


class Unloaded(Answer, frozen=True, kw_only=True):
    """How many engines of a model were told to leave memory."""

    id: str
    unloaded: int


class EngineAdapter(Answer, frozen=True, kw_only=True):
    """A model that is an adapter, in the engine of its base; spans in seconds."""

    model: str
    state: str
    memory_bytes: int
    users: int = 0
    idle_s: float | None = None
    expires_in_s: float | None = None
    is_pinned: bool = False


class Engine(Answer, frozen=True, kw_only=True):
    """A model in memory, on its way there or out; spans in seconds."""

    model: str
    state: str
    precision: str
    memory_bytes: int
    users: int = 0
    idle_s: float | None = None
    expires_in_s: float | None = None
    is_pinned: bool = False
    adapters: list[EngineAdapter] = []


class UpstreamModel(Answer, frozen=True, kw_only=True):
    """A model that another server computes, and whether that server is asked (`closed`)."""

    model: str
    upstream: str
    upstream_model: str
    state: str
    users: int = 0


class Memory(Answer, frozen=True, kw_only=True):
    """What models may take together, and what the project's take; loads since the start."""

    budget_bytes: int = 0
    held_bytes: int = 0
    loads: int = 0
    evictions: int = 0


class ServerState(Answer, frozen=True, kw_only=True):
    """What a server says of itself."""

    version: str
    models_loaded: list[str] = []
    engines: list[Engine] = []
    upstreams: list[UpstreamModel] = []
    memory: Memory = Memory()
    jobs_running: int = 0
    uptime_s: float = 0.0
