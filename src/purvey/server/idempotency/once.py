"""One creating request under its `Idempotency-Key`: answered once, and the same ever after.

The endpoint hands its answer to `keep` in the transaction of its effect, so both are stored or
neither is. Who holds a key meanwhile is known in memory only: a server that dies holds none.
"""

import asyncio
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import msgspec
from fastapi import Request, Response
from sqlalchemy import Connection

from purvey.contracts.limits import LIMITS
from purvey.errors import (
    ConflictError,
    IdempotencyKeyInUseError,
    IdempotencyKeyReusedError,
    InvalidValueError,
)
from purvey.server.answers import digest_of
from purvey.server.services import Services
from purvey.store.idempotency import answers
from purvey.store.idempotency.answers import KeptAnswer, Scope

HEADER = "Idempotency-Key"
REPLAYED = "idempotent-replayed"
PARAMETER: dict[str, Any] = {  # additions to the OpenAPI operation
    "parameters": [
        {
            "name": HEADER,
            "in": "header",
            "required": False,
            "schema": {
                "type": "string",
                "pattern": "^[!-~]+$",
                "minLength": 1,
                "maxLength": LIMITS.idempotency_key_chars,
            },
            "description": "Send it again with the same body and nothing is created twice: the "
            f"answer is the first one, with `{REPLAYED}: true`, for 24 hours.",
        }
    ]
}
_VISIBLE = re.compile(r"[!-~]+")
_encode = msgspec.json.Encoder().encode


class Once:
    """What one request may keep; of a request without a key, nothing.

    Invariant: nothing is kept before `earlier` has found that there is no answer yet.

    Args:
        services: Where answers are kept.
        scope: The key and where it means something; None when the request has none.
    """

    def __init__(self, services: Services, scope: Scope | None) -> None:
        self._services, self._scope = services, scope
        self._fingerprint: str | None = None
        self._is_kept = False

    @property
    def is_asked(self) -> bool:
        """Whether the request has a key."""
        return self._scope is not None

    async def earlier(self, payload: Mapping[str, Any]) -> Response | None:
        """Return the answer that this request got before, if it did.

        Args:
            payload: What tells it from other requests, JSON values.

        Raises:
            IdempotencyKeyReusedError: The key came with another payload.
            ConflictError: The answer held a secret, which is not shown twice.
        """
        scope = self._scope
        if scope is None:
            return None
        self._fingerprint = await asyncio.to_thread(digest_of, payload)
        now = self._services.clock.now()
        found = await self._services.database.read(lambda conn: answers.find(conn, scope, now=now))
        if found is None:
            return None
        if found.fingerprint != self._fingerprint:
            raise IdempotencyKeyReusedError(
                f"this {HEADER} came before with another payload.", param=HEADER
            )
        self._is_kept = True
        return _again(found)

    def keep(
        self,
        conn: Connection,
        body: Mapping[str, Any] | None,
        *,
        subject: str,
        status: int = 200,
    ) -> None:
        """Keep the answer, in the transaction that creates `subject`.

        Args:
            conn: That transaction.
            body: The answer; None where it holds a secret.
            subject: Id of what is created.
            status: The answer's.

        Raises:
            IdempotencyKeyInUseError: Another request with this key came first.
        """
        if self._scope is None:
            return
        assert self._fingerprint is not None, "kept without a look at what is kept"  # noqa: S101
        answer = KeptAnswer(
            project_id=self._scope.project_id,
            route=self._scope.route,
            key=self._scope.key,
            fingerprint=self._fingerprint,
            subject=subject,
            status=status,
            body=None if body is None else _encode(body),
            created_at=self._services.clock.now(),
        )
        answers.insert(conn, answer)
        self._is_kept = True

    def check(self) -> None:
        """Make sure that a success was kept; else a repetition would create it twice."""
        assert self._is_kept or self._scope is None, "a creating route kept no answer"  # noqa: S101


class InFlight:
    """The keys of requests that are being answered, by one event loop."""

    def __init__(self) -> None:
        self._held: set[Scope] = set()

    @contextmanager
    def once(self, request: Request, services: Services, project_id: str) -> Iterator[Once]:
        """Hold the key of a request, if it has one, while it is answered.

        Raises:
            InvalidValueError: The header is not a key.
            IdempotencyKeyInUseError: Another request holds it.
        """
        key = _key_of(request)
        if key is None:
            yield Once(services, None)
            return
        route = f"{request.method} {request.scope['path']}"
        scope = Scope(project_id=project_id, route=route, key=key)
        if scope in self._held:
            raise IdempotencyKeyInUseError(f"a request with this {HEADER} is being answered.")
        self._held.add(scope)
        try:
            yield Once(services, scope)
        finally:
            self._held.remove(scope)


def _key_of(request: Request) -> str | None:
    given = request.headers.getlist(HEADER)
    if not given:
        return None
    if len(given) > 1 or not _is_key(given[0]):
        raise InvalidValueError(
            f"the {HEADER} header must be given once, with 1 to {LIMITS.idempotency_key_chars} "
            "visible ASCII characters.",
            param=HEADER,
        )
    return given[0]


def _is_key(value: str) -> bool:
    return len(value) <= LIMITS.idempotency_key_chars and bool(_VISIBLE.fullmatch(value))


def _again(found: KeptAnswer) -> Response:
    if found.body is None:
        raise ConflictError(
            f"{found.subject!r} was created by an earlier request with this {HEADER}, and its "
            "secret was shown then.",
            hint=f"If that answer was lost, delete {found.subject!r} and create another under a "
            "new key.",
        )
    return Response(
        found.body,
        status_code=found.status,
        headers={REPLAYED: "true"},
        media_type="application/json",
    )
