"""`/v1/models`: what answers by name."""

from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import Query
from pydantic import ConfigDict, Field
from typing_extensions import TypedDict

from purvey.contracts.engine import ModelLoaded
from purvey.contracts.model import UPSTREAM_PATTERN, UpstreamModel, UpstreamTask
from purvey.contracts.records import ModelRecord
from purvey.errors import InvalidValueError
from purvey.registry.hub.snapshot import is_hub_id
from purvey.server.paging import Listing, PageQuery, listing, listing_example
from purvey.server.policy import Call, Caller
from purvey.server.presence import while_present
from purvey.server.routing import Routes
from purvey.server.validation import Body

routes = Routes(tag="Models")
ModelName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/-]{0,199}$")]


class EngineMemory(TypedDict):
    """A model in memory: what it is computed in, and the bytes it takes.

    `workspace_bytes` is what its largest step may take beside the rest; 0 where a model has none
    that is counted. `path` is `transformers` for what only that library computes, more slowly.
    `adapter_bytes` is what adapters take beside that; an adapter shows what it takes itself, and of
    the rest what it shares with its base.
    """

    precision: str
    path: Literal["native", "transformers"]
    weights_bytes: int
    kv_cache_bytes: int
    workspace_bytes: int
    adapter_bytes: int


class ModelObject(TypedDict):
    """A model: OpenAI's four fields, then ours."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    task: str
    family: str
    labels: list[str]
    base_model: str | None
    job_id: str | None
    digest: str
    report: dict[str, Any]
    lineage: dict[str, Any]
    engines: list[EngineMemory]


class DeletedModel(TypedDict):
    """Word that a model is gone."""

    id: str
    object: Literal["model"]
    deleted: bool


class UnloadedModel(TypedDict):
    """How many engines were told to leave; 0 where the model was not loaded."""

    id: str
    object: Literal["model"]
    unloaded: int


class ModelsQuery(PageQuery):
    """Which models; the official client asks once and never for a second page."""

    limit: Annotated[int, Field(ge=1, le=10_000)] = Field(10_000, description="Items at most.")


class ModelRequest(Body):
    """A folder, or a model of the hub, to register."""

    model_config = ConfigDict(
        json_schema_extra={"example": {"id": "stories", "source": "/srv/models/stories"}}
    )

    id: ModelName = Field(description="The name it answers by.")
    source: Annotated[str, Field(min_length=1, max_length=4_096)] = Field(
        description="A Hugging Face folder on the server, under one of its model roots; or a "
        "hub id, `owner/name`, which is fetched into the first of them."
    )
    revision: Annotated[str, Field(min_length=1, max_length=200)] | None = Field(
        None, description="Branch, tag or commit of a hub id; `main` unless given."
    )
    base: Annotated[str, Field(min_length=1, max_length=256)] | None = Field(
        None,
        description="Of a LoRA adapter in PEFT's format: the registered model that it belongs to, "
        "where the folder does not name one.",
    )
    upstream: Annotated[str, Field(pattern=UPSTREAM_PATTERN)] | None = Field(
        None,
        description="Another server that computes the model, by its name in the settings; "
        "`source` is then what that server calls it.",
    )
    task: UpstreamTask | None = Field(
        None, description="What a model of an upstream is for; `text-generation` unless given."
    )


EXAMPLE: dict[str, Any] = {  # JSON values
    "id": "stories",
    "object": "model",
    "created": 1795467000,
    "owned_by": "proj_default",
    "task": "text-generation",
    "family": "decoder",
    "labels": [],
    "base_model": None,
    "job_id": None,
    "digest": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    "report": {},
    "lineage": {},
    "engines": [
        {
            "precision": "int8",
            "path": "native",
            "weights_bytes": 1_508_900_864,
            "kv_cache_bytes": 268_435_456,
            "workspace_bytes": 205_520_896,
            "adapter_bytes": 0,
        }
    ],
}


@routes.add(
    "GET", "/v1/models", scope="models:read", returns=Listing, example=listing_example(EXAMPLE)
)
async def index(call: Caller, query: Annotated[ModelsQuery, Query()]) -> Listing:
    """List models, newest first; all of them unless `limit` says otherwise."""
    page = await call.services.models.page(
        call.project_id, after=query.after, limit=query.limit, order=query.order
    )
    return listing([_in_memory(call, record) for record in page.items], has_more=page.has_more)


@routes.add(
    "POST", "/v1/models", scope="admin", returns=ModelObject, example=EXAMPLE, is_creating=True
)
async def create(call: Caller, body: ModelRequest) -> ModelObject:
    """Register a Hugging Face folder of the operator, or a model of the hub, under a name.

    Only safetensors weights with a plain `config.json` are accepted; the folder is checked
    before the answer and served in place. A model of the hub is fetched first: its revision is
    resolved to a commit, each file is checked against the hub's digest, and nothing but weights,
    configuration and tokenizer is taken. The answer comes when all is there; `GET /v1/pulls` says
    how far it is. A request that is given up leaves what it has fetched to the next one.

    A folder of PEFT's (`adapter_config.json`, `adapter_model.safetensors`) is an adapter of `base`,
    or of the registered model that the folder names, and must fit it. It is served by the
    engine of its base, beside it.
    """
    if body.upstream is not None:
        return shown(await _of_upstream(call, body, body.upstream))
    if body.task is not None:
        raise InvalidValueError("what a folder is for stands in its files.", param="task")
    folder = await while_present(call.request, _folder(call, body))
    record = await call.services.models.register_folder(
        call.project_id,
        body.id,
        folder,
        base=body.base,
        beside=lambda conn, made: call.once.keep(conn, shown(made), subject=made.name),
    )
    return _in_memory(call, record)


async def _of_upstream(call: Call, body: ModelRequest, upstream: str) -> ModelRecord:
    if body.revision is not None:
        raise InvalidValueError("a model of an upstream has no revision.", param="revision")
    if body.base is not None:
        raise InvalidValueError("a model of an upstream has no base.", param="base")
    return await call.services.upstream_models.register(
        call.project_id,
        body.id,
        UpstreamModel(upstream=upstream, model=body.source),
        body.task or "text-generation",
        beside=lambda conn, made: call.once.keep(conn, shown(made), subject=made.name),
    )


async def _folder(call: Call, body: ModelRequest) -> Path:
    folder = Path(body.source)
    is_hub = is_hub_id(body.source)
    if is_hub and (body.revision is not None or not await call.services.models.has_folder(folder)):
        return await call.services.pulls.folder(body.source, body.revision or "main")
    if body.revision is not None:
        raise InvalidValueError(
            "a folder has no revision; a hub id is 'owner/name'.", param="revision"
        )
    return folder


@routes.add(
    "GET", "/v1/models/{model:path}", scope="models:read", returns=ModelObject, example=EXAMPLE
)
async def retrieve(call: Caller, model: str) -> ModelObject:
    """Show a model, and what it takes where it is in memory."""
    return _in_memory(call, await call.services.models.get(call.project_id, model))


@routes.add(
    "DELETE",
    "/v1/models/{model:path}",
    scope="models:write",
    returns=DeletedModel,
    example={"id": "stories", "object": "model", "deleted": True},
)
async def delete(call: Caller, model: str) -> DeletedModel:
    """Delete a model; 409 while an unfinished job, an adapter or a deployment needs it."""
    record = await call.services.models.delete(call.project_id, model)
    call.services.engines.forget(call.project_id, model)
    if record.artifact is not None:
        await call.services.sweeper.collect_artifact(record.artifact)
    return {"id": model, "object": "model", "deleted": True}


@routes.add(
    "POST",
    "/v1/models/{model:path}/unload",
    scope="models:write",
    returns=UnloadedModel,
    example={"id": "stories", "object": "model", "unloaded": 1},
)
async def unload(call: Caller, model: str) -> UnloadedModel:
    """Let a model leave memory, as soon as what it runs has ended.

    The model stays, and the next request loads it again. The name of a profile (`name:profile`)
    lets that profile's engine go, any other name all engines of its model.
    """
    num_leaving = await call.services.engines.unload(call.project_id, model)
    return {"id": model, "object": "model", "unloaded": num_leaving}


def _in_memory(call: Call, record: ModelRecord) -> ModelObject:
    found: list[EngineMemory] = []
    for engine in call.services.engines.engines():
        is_base = engine.digest == record.digest
        adapters = [one for one in engine.adapters if is_base or one.digest == record.digest]
        is_there = engine.project_id == call.project_id and (is_base or adapters)
        if is_there and engine.model is not None:
            found.append(_memory(engine.model, sum(one.num_bytes for one in adapters)))
    return shown(record) | {"engines": found}


def _memory(loaded: ModelLoaded, adapter_bytes: int) -> EngineMemory:
    weights_bytes = loaded.weights_bytes or loaded.resident_bytes
    return {
        "precision": loaded.precision,
        "path": loaded.path,
        "weights_bytes": weights_bytes,
        "kv_cache_bytes": loaded.resident_bytes - weights_bytes,
        "workspace_bytes": loaded.workspace_bytes,
        "adapter_bytes": adapter_bytes,
    }


def shown(record: ModelRecord) -> ModelObject:
    """Show a model's record, without who holds it in memory."""
    manifest = record.manifest
    return {
        "id": record.name,
        "object": "model",
        "created": int(record.created_at),
        "owned_by": record.project_id,
        "task": record.task,
        "family": record.family,
        "labels": list(manifest.get("labels", ())),
        "base_model": record.base_model,
        "job_id": record.job_id,
        "digest": record.digest,
        "report": manifest.get("report", {}),
        "lineage": manifest.get("lineage", {}),
        "engines": [],
    }
