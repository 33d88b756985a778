"""Who may call a route: a property of the route itself, decided before its body is read."""

from dataclasses import dataclass
from typing import Annotated

from fastapi import Request, Security
from fastapi.security import HTTPBearer

from purvey.access.keys import Principal
from purvey.contracts.records import Scope
from purvey.errors import PermissionDeniedError
from purvey.server.idempotency.once import Once
from purvey.server.services import Services

REQUEST_ID = "purvey.request_id"
"""Entry of the ASGI scope that holds the id of the request."""


@dataclass(frozen=True, kw_only=True)
class Policy:
    """What a caller needs: a key with `scope`, or nothing when `scope` is None."""

    scope: Scope | None

    @property
    def is_public(self) -> bool:
        """Whether no key is needed."""
        return self.scope is None


PUBLIC = Policy(scope=None)


@dataclass(frozen=True, kw_only=True, slots=True)
class Call:
    """One authorised request: who calls, on whose behalf, and what it may use.

    Attributes:
        once: Keeps the answer of a creating request that has an `Idempotency-Key`.
    """

    services: Services
    principal: Principal
    request: Request
    request_id: str
    once: Once

    @property
    def project_id(self) -> str:
        """The project that the caller's key acts for."""
        return self.principal.project_id


BEARER = HTTPBearer(
    scheme_name="api_key", description="An API key, sent as `Authorization: Bearer KEY`."
)
Caller = Annotated[Call, Security(BEARER)]
"""Annotation of an endpoint's `call`: documents the key; `PolicyRoute` supplies the value."""


async def authorise(request: Request, services: Services, policy: Policy) -> Call:
    """Find out who calls and whether the policy lets them.

    Raises:
        InvalidKeyError: No key, or none that is valid: one answer for all.
        PermissionDeniedError: The key lacks the scope.
    """
    assert policy.scope is not None, "a public route has no caller to authorise"  # noqa: S101
    principal = await services.keys.authenticate(_bearer(request))
    if not principal.allows(policy.scope):
        raise PermissionDeniedError(
            f"this API key lacks the scope {policy.scope!r}.",
            hint="Ask an administrator for a key that has it.",
        )
    return Call(
        services=services,
        principal=principal,
        request=request,
        request_id=request.scope[REQUEST_ID],
        once=Once(services, None),
    )


def _bearer(request: Request) -> str | None:
    given = [value for name, value in request.scope["headers"] if name == b"authorization"]
    if len(given) != 1:
        return None
    scheme, _, secret = given[0].decode("latin-1").partition(" ")
    return secret.strip() if scheme.lower() == "bearer" else None
