"""`/v1/deployments`: under which names, and in which ways, models are served."""

from typing import Annotated, Any, ClassVar, Literal

import msgspec
from pydantic import ConfigDict, Field
from typing_extensions import TypedDict

from purvey.contracts.deployment import PROFILE_PATTERN, DeploymentRecord, Precision, Profile
from purvey.contracts.limits import LIMITS
from purvey.server.openai.models import ModelName
from purvey.server.openai.sampling_fields import MaxTokens, Seed, StopText, Temperature, TopP
from purvey.server.paging import Listing, PageAsked, listing, listing_example
from purvey.server.policy import Caller
from purvey.server.routing import Routes
from purvey.server.validation import Body

routes = Routes(tag="Deployments")
NOT_YET = "Not supported yet: only the value that asks for nothing is accepted."
ProfileName = Annotated[str, Field(pattern=PROFILE_PATTERN)]
KeepAlive = Annotated[float, Field(ge=-1, le=31_536_000, allow_inf_nan=False)]


class GenerationBody(Body):
    """What a generation gets where its request is silent."""

    temperature: Temperature | None = None
    top_p: TopP | None = None
    max_tokens: MaxTokens | None = Field(None, description="Output tokens at most.")
    seed: Seed | None = None
    stop: Annotated[list[StopText], Field(max_length=LIMITS.stop_sequences)] | None = None


class ProfileBody(Body):
    """One way to serve the model; what is left out is as the server's settings say."""

    precision: Precision | None = Field(None, description="What weights are computed in.")
    batch_window_ms: Annotated[float, Field(ge=0, le=1_000, allow_inf_nan=False)] | None = Field(
        None, description="How long a one-pass model waits for more inputs."
    )
    generation: GenerationBody | None = Field(
        None, description="Defaults of generations; a request's own values win."
    )
    keep_alive_s: KeepAlive | None = Field(
        None, description="Idle seconds before the model leaves memory; 0 at once, -1 never."
    )
    is_pinned: bool = Field(
        False, description="Whether it is loaded at the server's start and never evicted."
    )
    adapter: Annotated[str, Field(min_length=1, max_length=256)] | None = Field(
        None, description="An adapter of the deployment's model, which answers in its place."
    )


class DeploymentRequest(Body):
    """A name, the model behind it, and the ways to serve it."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "id": "support",
                "model": "stories",
                "profiles": {
                    "default": {"keep_alive_s": 3_600},
                    "exact": {"precision": "fp32", "generation": {"temperature": 0}},
                },
            }
        }
    )
    accepts_only: ClassVar[dict[str, tuple[object, ...]]] = {
        "replicas": (None, 1),
        "traffic_weights": (None, {}),
    }

    id: ModelName = Field(description="What requests name it by; may be the model's own name.")
    model: Annotated[str, Field(min_length=1, max_length=256)]
    profiles: Annotated[dict[ProfileName, ProfileBody], Field(max_length=LIMITS.profiles)] = Field(
        default_factory=dict,
        description="Chosen by `model: 'id:profile'`; `default` answers to the id alone.",
    )
    replicas: object = Field(None, description=NOT_YET)
    traffic_weights: object = Field(None, description=NOT_YET)


class DeploymentUpdate(Body):
    """What is to change; the next request meets it, those that run are not disturbed."""

    model_config = ConfigDict(
        json_schema_extra={"example": {"profiles": {"exact": {"precision": "bf16"}, "old": None}}}
    )
    accepts_only: ClassVar[dict[str, tuple[object, ...]]] = DeploymentRequest.accepts_only

    model: Annotated[str, Field(min_length=1, max_length=256)] | None = None
    profiles: Annotated[
        dict[ProfileName, ProfileBody | None], Field(max_length=LIMITS.profiles)
    ] = Field(
        default_factory=dict,
        description="Each is added or replaced as a whole; null takes it away; others stay.",
    )
    replicas: object = Field(None, description=NOT_YET)
    traffic_weights: object = Field(None, description=NOT_YET)


class DeploymentObject(TypedDict):
    """A deployment."""

    id: str
    object: Literal["deployment"]
    created_at: float
    updated_at: float
    model: str
    profiles: dict[str, dict[str, Any]]


class DeletedDeployment(TypedDict):
    """Word that a deployment is gone."""

    id: str
    object: Literal["deployment"]
    deleted: bool


EXAMPLE: dict[str, Any] = {  # JSON values
    "id": "support",
    "object": "deployment",
    "created_at": 1795467000.0,
    "updated_at": 1795467000.0,
    "model": "stories",
    "profiles": {
        "exact": {
            "precision": "fp32",
            "batch_window_ms": None,
            "generation": {
                "temperature": 0.0,
                "top_p": None,
                "max_tokens": None,
                "seed": None,
                "stop": None,
            },
            "adapter": None,
            "keep_alive_s": None,
            "is_pinned": False,
        }
    },
}


@routes.add(
    "POST",
    "/v1/deployments",
    scope="admin",
    returns=DeploymentObject,
    example=EXAMPLE,
    is_creating=True,
)
async def create(call: Caller, body: DeploymentRequest) -> DeploymentObject:
    """Give a model a name with profiles.

    Requests choose a profile by `model: "id:profile"`. A name is looked up whole first, among
    deployments and then models; only then what follows its last colon is a profile.
    """
    made = await call.services.deployments.create(
        call.project_id,
        body.id,
        body.model,
        {name: _profile(asked) for name, asked in body.profiles.items()},
        beside=lambda conn, record: call.once.keep(conn, shown(record), subject=record.name),
    )
    call.services.engines.follow(None, made)
    return shown(made)


@routes.add(
    "GET",
    "/v1/deployments",
    scope="models:read",
    returns=Listing,
    example=listing_example(EXAMPLE),
)
async def index(call: Caller, query: PageAsked) -> Listing:
    """List the project's deployments, newest first."""
    page = await call.services.deployments.page(
        call.project_id, after=query.after, limit=query.limit, order=query.order
    )
    return listing([shown(record) for record in page.items], has_more=page.has_more)


@routes.add(
    "GET",
    "/v1/deployments/{deployment:path}",
    scope="models:read",
    returns=DeploymentObject,
    example=EXAMPLE,
)
async def retrieve(call: Caller, deployment: str) -> DeploymentObject:
    """Show a deployment."""
    return shown(call.services.deployments.directory.get(call.project_id, deployment))


@routes.add(
    "POST",
    "/v1/deployments/{deployment:path}",
    scope="admin",
    returns=DeploymentObject,
    example=EXAMPLE,
)
async def update(call: Caller, deployment: str, body: DeploymentUpdate) -> DeploymentObject:
    """Change a deployment while it serves.

    The next request meets the change; no running one ends for it. Where a profile's precision,
    batch window or adapter is another now and its engine is loaded, the new engine is loaded, and
    then the old one leaves.
    """
    change = await call.services.deployments.update(
        call.project_id,
        deployment,
        model=body.model,
        profiles={
            name: None if asked is None else _profile(asked)
            for name, asked in body.profiles.items()
        },
    )
    call.services.engines.follow(change.before, change.after)
    return shown(change.after)


@routes.add(
    "DELETE",
    "/v1/deployments/{deployment:path}",
    scope="admin",
    returns=DeletedDeployment,
    example={"id": "support", "object": "deployment", "deleted": True},
)
async def delete(call: Caller, deployment: str) -> DeletedDeployment:
    """Delete a deployment; its model stays, and what runs ends as it would have."""
    gone = await call.services.deployments.delete(call.project_id, deployment)
    call.services.engines.follow(gone, None)
    return {"id": deployment, "object": "deployment", "deleted": True}


def shown(record: DeploymentRecord) -> DeploymentObject:
    """Show a deployment's record."""
    return {
        "id": record.name,
        "object": "deployment",
        "created_at": record.created_at,
        "updated_at": record.updated_at,
        "model": record.model,
        "profiles": {name: _shown(profile) for name, profile in record.profiles.items()},
    }


def _shown(profile: Profile) -> dict[str, Any]:
    generation = msgspec.structs.asdict(profile.generation)
    return {**msgspec.structs.asdict(profile), "generation": generation}


def _profile(asked: ProfileBody) -> Profile:
    return msgspec.convert(asked.model_dump(exclude_none=True), Profile)
