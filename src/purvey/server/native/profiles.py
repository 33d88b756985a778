"""What a profile says of generations, put where a request is silent."""

from typing import TypeVar

import msgspec
from pydantic import BaseModel

from purvey.errors import NotFoundError
from purvey.server.policy import Call

B = TypeVar("B", bound=BaseModel)
_LENGTHS = ("max_completion_tokens", "max_output_tokens", "max_tokens")
"""What bodies call the output tokens at most, the first of them that a body has wins."""


async def with_profile(call: Call, body: B, *, model: str) -> B:
    """Return a body with the generation defaults of the profile that its `model` names.

    What the request says wins; a name that means nothing is left to who looks for its engine.
    """
    if not call.services.deployments.directory.may_mean(call.project_id, model):
        return body
    try:
        served = await call.services.deployments.directory.served(call.project_id, model)
    except NotFoundError:
        return body
    fields = type(body).model_fields
    defaults = msgspec.structs.asdict(served.profile.generation)
    lengths = [name for name in _LENGTHS if name in fields]
    most = defaults.pop("max_tokens")
    if lengths and all(getattr(body, name) is None for name in lengths):
        defaults[lengths[0]] = most
    if defaults["stop"] is not None:
        defaults["stop"] = list(defaults["stop"])
    silent = {
        name: value
        for name, value in defaults.items()
        if value is not None and name in fields and getattr(body, name) is None
    }
    return body.model_copy(update=silent)
