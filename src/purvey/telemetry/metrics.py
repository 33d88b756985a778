"""Every metric: name, unit, labels. Labels are bounded: routes are templates, never paths."""

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
REGISTRY = CollectorRegistry()
ProcessCollector(registry=REGISTRY)

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
_COUNTS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)

REQUESTS = Counter(
    "purvey_http_requests",
    "Requests answered.",
    ("route", "method", "status"),
    registry=REGISTRY,
)
REQUEST_SECONDS = Histogram(
    "purvey_http_request_seconds",
    "From the first byte of a request to the last of its answer.",
    ("route", "method"),
    buckets=_SECONDS,
    registry=REGISTRY,
)
INPUT_TOKENS = Counter(
    "purvey_input_tokens", "Prompt tokens of answered requests.", ("kind",), registry=REGISTRY
)
OUTPUT_TOKENS = Counter(
    "purvey_output_tokens", "Generated tokens of answered requests.", ("kind",), registry=REGISTRY
)
PREFIX_QUERIED_TOKENS = Counter(
    "purvey_prefix_cache_queried_tokens",
    "Prompt tokens of generations that began.",
    registry=REGISTRY,
)
PREFIX_HIT_TOKENS = Counter(
    "purvey_prefix_cache_hit_tokens",
    "How many of these the key/value cache knew from earlier prompts of the same project.",
    registry=REGISTRY,
)
TTFT_SECONDS = Histogram(
    "purvey_time_to_first_token_seconds",
    "From the start of a generation request to its first text.",
    buckets=_SECONDS,
    registry=REGISTRY,
)
JOBS = Gauge("purvey_jobs", "Jobs of this server by status.", ("status",), registry=REGISTRY)
SWEEP_TRIALS = Counter(
    "purvey_sweep_trials", "Trials of sweeps that have ended.", ("state",), registry=REGISTRY
)
ENGINE_RUNNING = Gauge(
    "purvey_engine_requests_running", "Requests being computed.", ("model",), registry=REGISTRY
)
ENGINE_WAITING = Gauge(
    "purvey_engine_requests_waiting", "Requests queued in engines.", ("model",), registry=REGISTRY
)
ENGINE_FREE_BLOCKS = Gauge(
    "purvey_engine_free_blocks", "KV-cache blocks nobody holds.", ("model",), registry=REGISTRY
)
ENGINE_BLOCKS = Gauge(
    "purvey_engine_blocks", "KV-cache blocks there are.", ("model",), registry=REGISTRY
)
ENGINE_RESTARTS = Counter(
    "purvey_engine_restarts",
    "Engine processes started again after a crash.",
    ("model",),
    registry=REGISTRY,
)
ENGINE_LOADS = Counter("purvey_engine_loads", "Models that were loaded.", registry=REGISTRY)
ENGINE_EVICTIONS = Counter(
    "purvey_engine_evictions",
    "Models that were made to leave memory: for the room, idle for too long, stopped, replaced.",
    ("reason",),
    registry=REGISTRY,
)
ADAPTER_LOADS = Counter(
    "purvey_adapter_loads", "Adapters loaded into the engines of their bases.", registry=REGISTRY
)
ADAPTER_DROPS = Counter(
    "purvey_adapter_drops",
    "Adapters that were made to leave the engines of their bases, for the same reasons.",
    ("reason",),
    registry=REGISTRY,
)
MODELS_WAITING = Gauge(
    "purvey_models_waiting", "Models that wait for room in memory.", registry=REGISTRY
)
MODEL_MEMORY = Gauge(
    "purvey_model_memory_bytes", "Memory that is counted for loaded models.", registry=REGISTRY
)
MODEL_MEMORY_BUDGET = Gauge(
    "purvey_model_memory_budget_bytes",
    "Memory that loaded models may take together.",
    registry=REGISTRY,
)
PROCESSORS = Gauge(
    "purvey_processors",
    "Processors that jobs, and engines, may use now: fewer than all while both compute.",
    ("used_by",),
    registry=REGISTRY,
)
UPSTREAM_FAILURES = Counter(
    "purvey_upstream_failures",
    "Times that an upstream could not be reached, said nothing for too long, or broke off.",
    ("upstream",),
    registry=REGISTRY,
)
WRITER_BATCH_SIZE = Histogram(
    "purvey_store_batch_size", "Writes that shared one commit.", buckets=_COUNTS, registry=REGISTRY
)
WRITER_COMMIT_SECONDS = Histogram(
    "purvey_store_commit_seconds",
    "From the start of a batch to the end of its commit.",
    buckets=_SECONDS,
    registry=REGISTRY,
)
METER_SECONDS = Histogram(
    "purvey_meter_record_seconds",
    "From asking for a usage row to having it on disk: what metering adds to an answer.",
    buckets=_SECONDS,
    registry=REGISTRY,
)
USAGE_OWED = Gauge(
    "purvey_usage_rows_owed",
    "Usage rows of given answers that wait, in memory, for room on the disk.",
    registry=REGISTRY,
)
BROAD_CATCHES = Counter(
    "purvey_broad_catches",
    "Exceptions that nobody named, caught at a process boundary: bugs.",
    ("where",),
    registry=REGISTRY,
)
INTEGRITY_FAILURES = Counter(
    "purvey_integrity_failures",
    "Times that stored bytes were found not to be the ones that were written.",
    ("kind",),
    registry=REGISTRY,
)


def exposition() -> bytes:
    """Return all metrics in Prometheus' text format, of `CONTENT_TYPE`."""
    return generate_latest(REGISTRY)
