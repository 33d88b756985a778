"""What OpenAI's API has and this server does not yet: 501 with a reason, never a bare 404."""

from typing import NoReturn

from purvey.errors import NotImplementedHereError
from purvey.server.policy import Caller
from purvey.server.routing import Endpoint, Routes

routes = Routes(tag="Not implemented")

_LATER = "is planned and not implemented in this version"
_HOSTED = "belongs to OpenAI's hosted products and is not implemented"
ABSENT: dict[str, str] = {
    "audio": f"speaking {_LATER}; POST /v1/audio/transcriptions writes recordings down",
    "batches": f"batch processing {_LATER}",
    "evals": f"evaluation as a resource {_LATER}; training reports hold the final test",
    "moderations": f"moderation {_LATER}; train a classifier and use /v1/classify",
    "organization": f"administration in OpenAI's shapes {_LATER}; see /v1/keys and /v1/usage",
    "projects": f"administration in OpenAI's shapes {_LATER}; see /v1/keys",
    "responses": f"the Responses API {_LATER}; use /v1/chat/completions",
    "uploads": f"upload in parts {_LATER}; use /v1/files",
    "conversations": f"stored conversations {_LATER}",
    "images": f"image generation {_LATER}",
    "vector_stores": f"vector storage {_LATER}",
    "realtime": f"the Realtime API {_LATER}",
    "agents": f"the Agents API {_HOSTED}",
    "assistants": f"the Assistants API {_HOSTED}",
    "chatkit": f"ChatKit {_HOSTED}",
    "containers": f"code containers {_HOSTED}",
    "content_provenance_checks": f"provenance checking {_HOSTED}",
    "live": f"live sessions {_HOSTED}",
    "safety": f"safety identification {_HOSTED}",
    "skills": f"skills {_HOSTED}",
    "threads": f"the Assistants API {_HOSTED}",
    "vaults": f"vaults {_HOSTED}",
    "videos": f"video generation {_HOSTED}",
    "webhook_endpoints": f"webhooks {_HOSTED}",
    "webhook_event_types": f"webhooks {_HOSTED}",
    "fine_tuning/alpha": f"grading {_LATER}",
    "fine_tuning/checkpoints": f"sharing of checkpoints {_LATER}",
}
"""First segments of absent paths, each with the reason that callers read."""

STORED_CHATS = f"storing and reading back chat completions {_LATER}"
_METHODS = ("GET", "POST", "DELETE", "PUT", "PATCH")


def _refusing(name: str, reason: str, *, is_below: bool) -> Endpoint:
    async def at(call: Caller) -> NoReturn:
        raise NotImplementedHereError(f"{reason}.")

    async def below(call: Caller, rest: str) -> NoReturn:
        raise NotImplementedHereError(f"{reason}.")

    endpoint: Endpoint = at
    if is_below:
        endpoint = below
    endpoint.__name__ = name
    endpoint.__doc__ = f"Not implemented.\n\nAnswers 501: {reason}."
    return endpoint


def _add(path: str, name: str, reason: str, methods: tuple[str, ...] = _METHODS) -> None:
    for method in methods:
        register = routes.add(method, path, scope="inference", returns=None, status=501)
        is_below = "{rest:path}" in path
        register(_refusing(f"{name}_{method.lower()}", reason, is_below=is_below))


for _group, _reason in ABSENT.items():
    _name = _group.replace("/", "_")
    _add(f"/v1/{_group}", _name, _reason, ("GET", "POST"))
    _add(f"/v1/{_group}/{{rest:path}}", f"{_name}_below", _reason)
_add("/v1/chat/completions", "stored_chats", STORED_CHATS, ("GET",))
_add("/v1/chat/completions/{rest:path}", "stored_chats_below", STORED_CHATS)
