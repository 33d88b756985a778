"""`/v1/keys`: who may do what. For administrators."""

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field
from typing_extensions import TypedDict

from purvey.access.keys import SCOPES
from purvey.contracts.records import KeyRecord, Scope
from purvey.server.paging import Listing, PageAsked, listing, listing_example
from purvey.server.policy import Caller
from purvey.server.routing import Routes
from purvey.server.validation import Body

routes = Routes(tag="Keys")
ORDINARY = tuple(scope for scope in SCOPES if scope != "admin")


class KeyRequest(Body):
    """A key as asked for."""

    model_config = ConfigDict(
        json_schema_extra={"example": {"name": "reporting", "scopes": ["inference", "usage:read"]}}
    )

    name: Annotated[str, Field(min_length=1, max_length=128)]
    scopes: Annotated[list[Scope], Field(min_length=1, max_length=32)] | None = Field(
        None, description="What it may do; everything but `admin` unless given."
    )
    project: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")] | None = Field(
        None, description="The project it acts for, made if it is new; the caller's unless given."
    )


class KeyObject(TypedDict):
    """A key; the secret is not part of it."""

    id: str
    object: Literal["key"]
    project_id: str
    name: str
    scopes: list[str]
    hint: str
    created_at: float
    last_used_at: float | None
    revoked_at: float | None


class CreatedKey(KeyObject):
    """A key with its secret, shown this once."""

    key: str


EXAMPLE: dict[str, Any] = {  # JSON values
    "id": "key_6f1c9a0e5b7d4c2f8a3e1b0d9c8f7a6e",
    "object": "key",
    "project_id": "proj_default",
    "name": "reporting",
    "scopes": ["inference", "usage:read"],
    "hint": "x9Qw",
    "created_at": 1795467000.0,
    "last_used_at": None,
    "revoked_at": None,
}


@routes.add(
    "POST",
    "/v1/keys",
    scope="admin",
    returns=CreatedKey,
    example=EXAMPLE | {"key": "sk-purvey-..."},
    is_creating=True,
)
async def create(call: Caller, body: KeyRequest) -> dict[str, Any]:
    """Create a key; its secret is in this answer and nowhere else.

    Repeated under its `Idempotency-Key`, it creates no second key and cannot show the secret
    again: the answer is 409 `state_conflict` and names the key, to be revoked if it was lost.
    """
    record, secret = await call.services.keys.create(
        body.project or call.project_id,
        body.name,
        body.scopes or ORDINARY,
        beside=lambda conn, made: call.once.keep(conn, None, subject=made.id),
    )
    return {**shown(record), "key": secret}


@routes.add("GET", "/v1/keys", scope="admin", returns=Listing, example=listing_example(EXAMPLE))
async def index(call: Caller, query: PageAsked) -> Listing:
    """List the project's keys, newest first, revoked ones included."""
    page = await call.services.keys.page(
        call.project_id, after=query.after, limit=query.limit, order=query.order
    )
    return listing([shown(record) for record in page.items], has_more=page.has_more)


@routes.add("DELETE", "/v1/keys/{key_id}", scope="admin", returns=KeyObject, example=EXAMPLE)
async def revoke(call: Caller, key_id: str) -> KeyObject:
    """Revoke a key; when this returns, it opens nothing any more."""
    return shown(await call.services.keys.revoke(call.project_id, key_id))


def shown(record: KeyRecord) -> KeyObject:
    """Show a key's record."""
    return {
        "id": record.id,
        "object": "key",
        "project_id": record.project_id,
        "name": record.name,
        "scopes": list(record.scopes),
        "hint": record.hint,
        "created_at": record.created_at,
        "last_used_at": record.last_used_at,
        "revoked_at": record.revoked_at,
    }
