"""`/v1/pulls`: how far what comes from the hub, or from a store, is."""

from typing import Any, Literal

from typing_extensions import TypedDict

from purvey.registry.transfers import Pull
from purvey.server.policy import Caller
from purvey.server.routing import Routes

routes = Routes(tag="Models")


class PullObject(TypedDict):
    """What is on its way; `commit` and `bytes` are known once the hub, or the store, has told."""

    object: Literal["pull"]
    source: str
    revision: str | None
    commit: str | None
    bytes: int
    fetched_bytes: int


class PullList(TypedDict):
    """The pulls under way."""

    object: Literal["list"]
    data: list[PullObject]


EXAMPLE: dict[str, Any] = {  # JSON values
    "object": "list",
    "data": [
        {
            "object": "pull",
            "source": "acme/stories",
            "revision": "main",
            "commit": "0123456789abcdef0123456789abcdef01234567",
            "bytes": 1_508_900_864,
            "fetched_bytes": 268_435_456,
        }
    ],
}


@routes.add("GET", "/v1/pulls", scope="admin", returns=PullList, example=EXAMPLE)
async def pulls(call: Caller) -> PullList:
    """List the models and datasets that are being fetched, and how far each is.

    A pull begins and ends with the `POST /v1/models` or `POST /v1/pulls` that waits for it. A store
    has no revisions and commits.
    """
    places = (call.services.pulls, call.services.hub_datasets, call.services.s3_datasets)
    return {
        "object": "list",
        "data": [_shown(pull) for place in places for pull in place.running()],
    }


def _shown(pull: Pull) -> PullObject:
    return {
        "object": "pull",
        "source": pull.source,
        "revision": pull.revision or None,
        "commit": pull.commit,
        "bytes": pull.num_bytes,
        "fetched_bytes": pull.num_fetched,
    }
