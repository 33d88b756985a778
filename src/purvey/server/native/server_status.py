"""`/v1/server`: what runs here, as far as the caller's project may know."""

from collections.abc import Iterable
from typing import Any, Literal

from typing_extensions import TypedDict

from purvey import __version__
from purvey.contracts.records import ModelRecord
from purvey.network.upstream import Upstreams
from purvey.registry.engines.place import ResidentEngine
from purvey.registry.upstream_models import elsewhere
from purvey.server.policy import Caller
from purvey.server.routing import Routes
from purvey.store import jobs

routes = Routes(tag="Server")


class AdapterShown(TypedDict):
    """A model that is an adapter, in the engine of its base; as `EngineShown` says, of it alone."""

    model: str
    state: Literal["waiting", "loading", "ready", "leaving"]
    memory_bytes: int
    users: int
    idle_s: float | None
    expires_in_s: float | None
    is_pinned: bool


class EngineShown(TypedDict):
    """A model in memory, on its way there (`waiting` for room, `loading`) or out (`leaving`).

    `idle_s` is null while it is used, `expires_in_s` where it stays. `memory_bytes` and `users`
    count what its adapters take and who uses them, too.
    """

    model: str
    state: Literal["waiting", "loading", "ready", "leaving"]
    precision: str
    memory_bytes: int
    users: int
    idle_s: float | None
    expires_in_s: float | None
    is_pinned: bool
    adapters: list[AdapterShown]


class UpstreamShown(TypedDict):
    """A model that another server computes, and whether that server is asked.

    `state` is `open` while it is not, since it has failed again and again, and `half-open` when one
    request may try. `users` are the requests to it, of all its models.
    """

    model: str
    upstream: str
    upstream_model: str
    state: Literal["closed", "open", "half-open", "unnamed"]
    users: int


class MemoryShown(TypedDict):
    """What all models may take together; what the project's take, and how often they moved."""

    budget_bytes: int
    held_bytes: int
    loads: int
    evictions: int


class ServerStatus(TypedDict):
    """Version, the project's models in memory and running jobs, and how long the server is up."""

    version: str
    models_loaded: list[str]
    engines: list[EngineShown]
    upstreams: list[UpstreamShown]
    memory: MemoryShown
    jobs_running: int
    uptime_s: float


EXAMPLE: dict[str, Any] = {  # JSON values
    "version": "0.1.0",
    "models_loaded": ["digits"],
    "engines": [
        {
            "model": "digits",
            "state": "ready",
            "precision": "float32",
            "memory_bytes": 302_514_176,
            "users": 0,
            "idle_s": 12.5,
            "expires_in_s": 1_787.5,
            "is_pinned": False,
            "adapters": [],
        }
    ],
    "upstreams": [
        {
            "model": "large",
            "upstream": "gpu-box",
            "upstream_model": "Qwen/Qwen3-32B",
            "state": "closed",
            "users": 2,
        }
    ],
    "memory": {
        "budget_bytes": 12_884_901_888,
        "held_bytes": 302_514_176,
        "loads": 3,
        "evictions": 2,
    },
    "jobs_running": 0,
    "uptime_s": 42.5,
}


@routes.add("GET", "/v1/server", scope="inference", returns=ServerStatus, example=EXAMPLE)
async def status(call: Caller) -> ServerStatus:
    """Show what runs for the caller's project; `purvey ps` prints it."""
    services, project_id = call.services, call.project_id
    running = await services.database.read(jobs.running)
    mine = [e for e in services.engines.engines() if e.project_id == project_id]
    return {
        "version": __version__,
        "models_loaded": _ready(mine),
        "engines": [_shown(engine) for engine in mine],
        "upstreams": [
            _elsewhere(services.upstreams, record)
            for record in await services.upstream_models.of(project_id)
        ],
        "memory": {
            "budget_bytes": services.engines.memory_bytes,
            "held_bytes": sum(engine.num_bytes for engine in mine),
            "loads": services.engines.num_loads(project_id),
            "evictions": services.engines.num_evictions[project_id],
        },
        "jobs_running": sum(job.project_id == project_id for job in running),
        "uptime_s": services.clock.monotonic() - services.started_at,
    }


def _elsewhere(upstreams: Upstreams, record: ModelRecord) -> UpstreamShown:
    where = elsewhere(record)
    assert where is not None, "of the family that has one"  # noqa: S101
    is_named = where.upstream in upstreams.names
    return {
        "model": record.name,
        "upstream": where.upstream,
        "upstream_model": where.model,
        "state": upstreams.get(where.upstream).state if is_named else "unnamed",
        "users": upstreams.get(where.upstream).num_running if is_named else 0,
    }


def _ready(engines: Iterable[ResidentEngine]) -> list[str]:
    ready = [engine for engine in engines if engine.state == "ready"]
    adapters = [one for engine in ready for one in engine.adapters if one.state == "ready"]
    return sorted({engine.name for engine in ready} | {one.name for one in adapters})


def _shown(engine: ResidentEngine) -> EngineShown:
    return {
        "model": engine.name,
        "state": engine.state,
        "precision": engine.model.precision if engine.model else engine.options.precision,
        "memory_bytes": engine.num_bytes,
        "users": engine.num_users,
        "idle_s": engine.idle_s,
        "expires_in_s": engine.expires_in_s,
        "is_pinned": engine.is_pinned,
        "adapters": [
            {
                "model": one.name,
                "state": one.state,
                "memory_bytes": one.num_bytes,
                "users": one.num_users,
                "idle_s": one.idle_s,
                "expires_in_s": one.expires_in_s,
                "is_pinned": one.is_pinned,
            }
            for one in engine.adapters
        ],
    }
